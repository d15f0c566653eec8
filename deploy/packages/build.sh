#!/bin/sh
# Builds the packages, .deb and .rpm for amd64 and arm64, into a directory: the same bytes
# from the same commit, wherever and whenever. Or one package, of a version that is given.
# Usage: deploy/packages/build.sh DIRECTORY [ARCH FORMAT VERSION]
set -eu
umask 022
export LC_ALL=C TZ=UTC
out=$(realpath -m "$1")
arches=${2:-amd64 arm64} formats=${3:-deb rpm} version=${4:-}
cd "$(dirname "$0")/../.."

describe=$(git describe --tags --always --dirty)
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
# v1.2.3 is version 1.2.3, and five commits later it is 1.2.3+5.gabcdef. Before the first
# tag the date of the commit puts the versions in order.
if [ "$version" ]; then
	describe=$version PKG_VERSION=$version
elif git describe --tags --match 'v[0-9]*' >/dev/null 2>&1; then
	PKG_VERSION=$(git describe --tags --match 'v[0-9]*' --dirty | sed 's/^v//; s/-/+/; s/-/./g')
else
	PKG_VERSION=0~$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y%m%d%H%M%S).$(printf %s "$describe" | tr - .)
fi
export SOURCE_DATE_EPOCH PKG_VERSION

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"
[ "$version" ] || rm -f "$out"/xnetfrontd[_-]*.deb "$out"/xnetfrontd[_-]*.rpm
export PKG_NOTICES="$work/notices" PKG_MANUALS="$work/manuals"
deploy/packages/notices.sh >"$PKG_NOTICES"
deploy/packages/manuals.sh "$PKG_MANUALS" "$PKG_VERSION"
for arch in $arches; do
	export PKG_ARCH="$arch" PKG_BINARY="$work/$arch" PKG_SBOM="$work/$arch.cdx.json"
	CGO_ENABLED=0 GOOS=linux GOARCH=$arch go build -trimpath -buildvcs=false \
		-ldflags "-s -w -buildid= -X main.version=$describe" -o "$PKG_BINARY" ./cmd/xnetfrontd
	go -C tools run ./sbom "$PKG_BINARY" "$PWD/deploy/packages/licences" "$PKG_VERSION" >"$PKG_SBOM"
	for format in $formats; do
		go tool -modfile=tools/go.mod nfpm package --config deploy/packages/nfpm.yaml \
			--packager "$format" --target "$out/" >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
		sed -n 's/^created package: //p' "$work/log"
	done
done
