#!/bin/sh
# In a new Debian, by test/fresh/run.sh: what is said without root, apt-get or network, then
# the targets, each of which must pass.
# Usage: inside.sh TARGET...
set -eu
cd /src

# refuses WHAT TEXT COMMAND...: the command fails, and says why in one line with the text;
# make's own last line does not count, nor what is said before something is installed.
refuses() {
	what="$1" text="$2"
	shift 2
	if said="$("$@" 2>&1)"; then
		echo "check-fresh: $what: it did not fail: $*" >&2
		exit 1
	fi
	said="$(printf '%s\n' "$said" | grep -v '^make: \*\*\* \|^make: Go here is older\|: installing .* with apt-get$')"
	case "$said" in
	*"$text"*) ;;
	*) wrong=yes ;;
	esac
	if [ "${wrong:-}" ] || [ "$(printf '%s\n' "$said" | wc -l)" != 1 ]; then
		printf 'check-fresh: %s: not one line with "%s", but:\n%s\n' "$what" "$text" "$said" >&2
		exit 1
	fi
	echo "check-fresh: $what: $said"
}

alone="unshare --net"
nobody="setpriv --reuid=65534 --regid=65534 --clear-groups"
! command -v go || { echo "check-fresh: Go is in the new Debian already" >&2; exit 1; }

refuses "as a plain user" "let root do it" $nobody make demo
refuses "as a plain user" "let root do it" $nobody make test-unit
refuses "as a plain user" "needs root" $nobody make test
refuses "without network" "is there a network" $alone make demo
refuses "without network" "is there a network" $alone make test
mv /usr/bin/apt-get /usr/bin/apt-get.away
refuses "without apt-get" "no apt-get" make demo
mv /usr/bin/apt-get.away /usr/bin/apt-get

for target in "$@"; do
	echo "check-fresh: make $target"
	make "$target"
done
refuses "with Go, without network" "$(sed -n 's/^go //p' go.mod) or newer is needed" $alone env GOMODCACHE=/tmp/empty make demo
