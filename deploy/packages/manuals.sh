#!/bin/sh
# Makes the manual pages of docs/man, compressed, in DIRECTORY: the same bytes from the
# same sources. SOURCE_DATE_EPOCH is their date.
# Usage: deploy/packages/manuals.sh DIRECTORY VERSION
set -eu
export LC_ALL=C TZ=UTC
out=$(realpath -m "$1") version=$2
cd "$(dirname "$0")/../.."
mkdir -p "$out"
date=$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%d)
for source in docs/man/*.md; do
	page=$out/$(basename "$source" .md)
	sed "1s/@DATE@/$date/; 1s/@VERSION@/$version/" "$source" >"$page.md"
	go tool -modfile=tools/go.mod go-md2man -in "$page.md" -out "$page"
	rm "$page.md"
	gzip -9nf "$page"
done
