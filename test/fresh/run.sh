#!/bin/bash
# Has `make demo` and `make test` do their own set-up, as the README says that they do: in
# a new Debian with nothing but make, git and certificates, on a clone of the last commit.
# First come the lines for those whom something hinders (inside.sh).
# Usage: test/fresh/run.sh [TARGET...], by default: demo test
#
# Needs root on Debian, /dev/net/tun, and the network, which the root shares with this
# machine, as it does its names, certificates and proxies. Nothing else of the machine is
# touched: the root is a chroot with its own processes, in a mount namespace of its own, so
# that nothing stays mounted; at the end it is removed.
set -euo pipefail
shopt -s inherit_errexit
umask 022
export LC_ALL=C PATH=$PATH:/usr/sbin:/sbin:/usr/local/go/bin

say() { printf 'check-fresh: %s\n' "$*"; }
fail() {
	printf 'check-fresh: %s\n' "$*" >&2
	exit 1
}

(($#)) || set -- demo test
[[ $(id -u) == 0 ]] || fail "needs root (chroot): run it with sudo"
command -v apt-get >/dev/null || fail "no apt-get: the root is made on Debian"
[[ -e /dev/net/tun ]] || fail "/dev/net/tun is not there: load the driver (modprobe tun)"
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=test/roots.sh
. test/roots.sh # root_of

work=$(mktemp -d)
trap 'rm -rf --one-file-system "$work"' EXIT
trap 'exit 1' INT TERM
root=$work/root

# reach has the root reach what this machine reaches, by the same names and proxies.
reach() {
	local bundle=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
	cp --remove-destination "$(realpath /etc/resolv.conf)" "$root/etc/resolv.conf"
	cp /etc/hosts "$root/etc/hosts"
	[[ ! -e $bundle ]] || cp --remove-destination "$bundle" "$root/etc/ssl/certs/ca-certificates.crt"
	apt-config dump | grep -E '^Acquire::(https?|ftp)::Proxy' >"$root/etc/apt/apt.conf.d/98proxy" || true
}

# settings: NAME=VALUE of what Go and apt-get are told here about the way out, a line each;
# what `go env -w` has set is known to go only.
settings() {
	local name value
	for name in {http,https,ftp,no}_proxy {HTTP,HTTPS,FTP,NO}_PROXY; do
		[[ -z ${!name:-} ]] || printf '%s=%s\n' "$name" "${!name}"
	done
	for name in GOPROXY GONOPROXY GOSUMDB GONOSUMDB GOPRIVATE GOINSECURE GOFLAGS; do
		value=${!name:-$(cd / && go env "$name" 2>/dev/null || true)}
		[[ -z $value ]] || printf '%s=%s\n' "$name" "$value"
	done
	printf 'DEMO=%s\n' "${DEMO:-}"
}

[[ -z $(git status --porcelain) ]] || say "what is not committed is left out"
tar=$(root_of apt,make,git,ca-certificates)
mkdir "$root"
tar -xf "$tar" -C "$root"
git clone -q --no-hardlinks . "$root/src"
reach
mapfile -t settings < <(settings)
say "in a new Debian $SUITE: make $*"
# shellcheck disable=SC2016 # the inner shell's arguments
unshare --mount --pid --fork --kill-child bash -euc '
	root=$1
	shift
	mount --bind "$root" "$root"
	mount -t proc proc "$root/proc"
	mount -t sysfs sysfs "$root/sys"
	mount -t tmpfs -o mode=0755 dev "$root/dev"
	mkdir "$root"/dev/{net,pts,shm}
	for device in null zero full random urandom tty net/tun; do
		: >"$root/dev/$device"
		mount --bind "/dev/$device" "$root/dev/$device"
	done
	mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
	mount -t tmpfs -o mode=1777 shm "$root/dev/shm"
	ln -s pts/ptmx "$root/dev/ptmx"
	ln -s /proc/self/fd "$root/dev/fd"
	for n in 0:stdin 1:stdout 2:stderr; do ln -s "fd/${n%:*}" "$root/dev/${n#*:}"; done
	exec chroot "$root" env -i "$@"
' inside "$root" HOME=/root TERM=dumb LC_ALL=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
	"${settings[@]}" /bin/sh /src/test/fresh/inside.sh "$@" </dev/null
say "all passed"
