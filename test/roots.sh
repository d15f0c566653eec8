# shellcheck shell=bash
# Sourced from the root of the sources by scripts that try something in a clean Debian:
# say and fail are theirs. The roots are made of Debian's packages by mmdebstrap, which is
# installed if it is missing, and are kept.

# shellcheck source=test/xenlab/images/packages.sh
. test/xenlab/images/packages.sh # SUITE, mirror

# root_of PACKAGES: a tar of a clean root with these and the essential ones; made once.
root_of() {
	local cache tar
	cache=${XNETFRONTD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/xnetfrontd}/packages
	mkdir -p "$cache"
	tar=$cache/$SUITE-$(printf %s "$1" | sha256sum | cut -c1-16).tar
	exec 9>"$cache/lock"
	flock 9
	if ! [[ -e $tar ]]; then
		say "making a root of Debian $SUITE with $1" >&2
		if ! command -v mmdebstrap >/dev/null; then
			say "installing on this machine: mmdebstrap" >&2
			apt-get update -qq && apt-get install -qq -y --no-install-recommends mmdebstrap debian-archive-keyring >/dev/null
		fi
		mmdebstrap --quiet --mode=root --variant=essential --include="$1" \
			--aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Retries "3"' --dpkgopt=force-unsafe-io \
			"$SUITE" "${tar%.tar}.new.tar" "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(mirror) $SUITE main" >&2 9>&-
		mv "${tar%.tar}.new.tar" "$tar"
	fi
	exec 9>&-
	printf '%s\n' "$tar"
}
