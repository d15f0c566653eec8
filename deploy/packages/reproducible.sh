#!/bin/sh
# Builds the packages a second time, from another directory, at another time of day and
# with other habits, and compares them with those in DIRECTORY.
# Usage: deploy/packages/reproducible.sh DIRECTORY
set -eu
first=$(realpath "$1")
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
git clone -q --no-hardlinks . "$work/elsewhere"
if [ -n "$(git status --porcelain --untracked-files=no)" ]; then
	echo "reproducible: there are changes that are not committed: nothing to compare with" >&2
	exit 1
fi
umask 077
TZ=Asia/Tokyo "$work/elsewhere/deploy/packages/build.sh" "$work/second" >/dev/null
for package in "$work"/second/*; do
	cmp "$package" "$first/${package##*/}"
	echo "the same bytes twice: ${package##*/}"
done
