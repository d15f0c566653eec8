#!/bin/sh
# Builds what a release consists of into dist/: packages, static binaries, bills of materials,
# release notes out of CHANGELOG.md, and SHA256SUMS over all of them, ready to be signed.
# Usage: tools/release.sh v1.2.3, with that tag on the commit that is checked out
set -eu
export LC_ALL=C
cd "$(dirname "$0")/.."
fail() { echo "release: $*" >&2; exit 1; }

tag=${1:-}
version=${tag#v}
echo "$tag" | grep -qE '^v[0-9]+\.[0-9]+\.[0-9]+$' || fail "\"$tag\" is no version: make release VERSION=v1.2.3"
[ -z "$(git status --porcelain)" ] || fail "there are changes that are not committed: git status"
[ "$(git rev-parse -q --verify "$tag^{commit}" || :)" = "$(git rev-parse HEAD)" ] ||
	fail "the commit that is checked out has no tag $tag: git tag -s $tag"
notes=$(sed -n "/^## $(echo "$version" | sed 's/\./\\./g')\( \|$\)/,/^## /{/^## /d;p}" CHANGELOG.md)
[ "$notes" ] || fail "CHANGELOG.md has nothing under \"## $version\": name what is under \"## Unreleased\" so"

rm -rf dist
deploy/packages/build.sh dist
cd dist
for deb in xnetfrontd_*.deb; do
	arch=${deb##*_}
	arch=${arch%.deb}
	dpkg-deb --fsys-tarfile "$deb" | tar -xO ./usr/bin/xnetfrontd >"xnetfrontd_${version}_linux_$arch"
	dpkg-deb --fsys-tarfile "$deb" | tar -xO ./usr/share/doc/xnetfrontd/sbom.cdx.json >"xnetfrontd_${version}_linux_$arch.cdx.json"
	chmod 755 "xnetfrontd_${version}_linux_$arch"
done
echo "$notes" | sed '/./,$!d' >NOTES.md
sha256sum xnetfrontd[_-]* NOTES.md >SHA256SUMS
cat SHA256SUMS
echo "sign it and publish what is in dist: gpg --armor --detach-sign dist/SHA256SUMS"
