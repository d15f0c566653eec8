#!/bin/sh
# Has what the sources are built and tested with, and says what it fetches before it does:
#   go  Go, its toolchain of go.mod, and the modules of go.mod
#   cc  a C compiler, which links the race detector
#   ip, mount  programs that tests look at network devices and hide files with
# On Debian and Ubuntu root gets the packages with apt-get. Everybody else, and whom
# something hinders, gets one line: what is missing, and what to do.
# Usage: tools/setup.sh go|cc|ip|mount...
set -u
cd "$(dirname "$0")/.." || exit 1
wanted="$(sed -n 's/^go //p' go.mod)"

say() { echo "make: $*"; }
fail() {
	echo "make: $*" >&2
	exit 1
}

# one_line: the text on one line, with neither the next "go: " nor what is odd at its end.
one_line() { tr -s '\n\t ' ' ' | sed 's/ go: /; /g; s/[ ;]*$//'; }

packages="" missing=""
# lacks WHAT PACKAGE...: it is not here, and these packages are it.
lacks() {
	missing="${missing:+$missing, }$1"
	shift
	packages="${packages:+$packages }$*"
}

# install gets the packages, quietly: what apt-get says is only shown if it fails.
install() {
	[ "$(id -u)" = 0 ] ||
		fail "missing: $missing: let root do it (sudo make), or install it (apt-get install $packages)"
	command -v apt-get >/dev/null ||
		fail "missing: $missing; there is no apt-get here to install it with: install it, and put it into PATH"
	say "missing: $missing: installing $packages, and what they depend on, with apt-get"
	log="$(mktemp)" || exit 1
	trap 'rm -f "$log"' EXIT
	apt-get update -q >"$log" 2>&1
	for package in $packages; do
		version="$(apt-cache policy "$package" 2>/dev/null | sed -n 's/^ *Candidate: *\([0-9]*:\)\{0,1\}//p')"
		case "${version:-(none)}" in
		"(none)") fail "apt-get knows no $package: is there a network, and Debian's main in its sources? \`apt-get update\`:" \
			"$(sed -n 's/^[EW]: //p' "$log" | head -n 1)" ;;
		esac
		# Since 1.21 Go fetches what go.mod asks for.
		if [ "$package" = golang-go ] && dpkg --compare-versions "$version" lt 1.21; then
			fail "Go $wanted or newer is needed, and apt-get has $version, which cannot fetch it: install a newer one," \
				"as from backports (apt-get install -t SUITE-backports golang-go)"
		fi
	done
	# shellcheck disable=SC2086 # one word for each package
	DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $packages >"$log" 2>&1 </dev/null ||
		fail "apt-get could not install $packages: $(sed -n 's/^[EW]: //p' "$log" | head -n 1)"
}

# toolchain has the Go that go.mod asks for.
toolchain() {
	if ! GOPROXY=off go list -m >/dev/null 2>&1; then
		case "$(cd / && go env GOTOOLCHAIN 2>&1)" in
		*auto) say "Go here is older than go.mod asks for: it downloads Go $wanted for itself" ;;
		esac
	fi
	why="$(go list -m 2>&1 >/dev/null)" ||
		fail "Go $wanted or newer is needed, and here is $(cd / && GOTOOLCHAIN=local go version 2>&1 | head -n 1):" \
			"$(echo "$why" | one_line)"
}

# modules has the modules of go.mod, all that the build and the tests need.
modules() {
	GOPROXY=off go mod download >/dev/null 2>&1 && return
	GOPROXY=off go list -deps -test ./... >/dev/null 2>&1 && return
	say "downloading the Go modules of go.mod"
	why="$(go mod download 2>&1)" ||
		fail "the Go modules of go.mod cannot be had: is there a network, and a HOME that can be written? \`go mod download\`:" \
			"$(echo "$why" | head -n 1 | one_line)"
}

for need in "$@"; do
	case "$need" in
	go) command -v go >/dev/null || lacks "Go" golang-go ca-certificates ;;
	cc) echo '#include <stdlib.h>' | cc -E - >/dev/null 2>&1 || lacks "a C compiler" gcc libc6-dev ;;
	ip) command -v ip >/dev/null || lacks "ip" iproute2 ;;
	mount) command -v mount >/dev/null || lacks "mount" mount ;;
	*) fail "setup.sh: $need: it knows go, cc, ip and mount" ;;
	esac
done
[ -z "$packages" ] || install
for need in "$@"; do
	[ "$need" != go ] || { toolchain && modules; }
done
