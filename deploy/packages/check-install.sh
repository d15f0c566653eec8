#!/bin/bash
# Installs, upgrades, removes and purges the packages of this machine's architecture from
# DIRECTORY in clean roots of Debian, and looks at what is there after each step. Nothing
# of the machine itself is touched: each root is a chroot, where no systemd runs, in a
# mount namespace of its own. The folder check-install has what runs in the roots.
# Usage: deploy/packages/check-install.sh DIRECTORY
#
# Needs root on Debian, and the network once: the roots are made of Debian's packages by
# mmdebstrap, which is installed if it is missing, and kept in
# ${XNETFRONTD_CACHE:-${XDG_CACHE_HOME:-~/.cache}/xnetfrontd}/packages.
set -euo pipefail
shopt -s inherit_errexit
umask 022
export LC_ALL=C PATH=$PATH:/usr/sbin:/sbin

say() { printf 'check-install: %s\n' "$*"; }
fail() {
	printf 'check-install: %s\n' "$*" >&2
	exit 1
}

[[ $# == 1 ]] || fail "usage: check-install.sh DIRECTORY"
[[ $(id -u) == 0 ]] || fail "needs root (chroot): run it with sudo"
command -v apt-get >/dev/null || fail "no apt-get: the roots are made on Debian"
packages=$(realpath "$1")
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=test/roots.sh
. test/roots.sh # root_of

# What the roots have besides Debian's essential packages: what our packages depend on,
# and what the files in them are for. In the bare one is no systemd.
readonly FULL=kmod,passwd,systemd,udev,rpm,bash-completion,zsh,fish,man-db,mandoc,groff
readonly BARE=kmod,passwd

work=$(mktemp -d)
trap 'rm -rf --one-file-system "$work"' EXIT
trap 'exit 1' INT TERM
# older DIRECTORY: builds the packages as an older version 0~1, in which every
# configuration file has another content.
older() {
	git clone -q --no-hardlinks . "$work/older"
	sed -i '1s/^/# Of version 0~1.\n/' "$work/older/deploy/xnetfrontd.toml" "$work/older/deploy/modprobe.d/xnetfrontd.conf"
	"$work/older/deploy/packages/build.sh" "$1" "$(dpkg --print-architecture)" "deb rpm" 0~1 >/dev/null
}

# in_root NAME PACKAGES: runs check-install/NAME in a clean root, with its own processes,
# /proc and terminals.
in_root() {
	local name=$1 root=$work/root tar
	tar=$(root_of "$2")
	say "$name"
	mkdir "$root"
	tar -xf "$tar" -C "$root"
	mkdir "$root/check" && cp -a deploy/packages/check-install/. "$root/check" && cp "$work"/packages/* "$root/check"
	# shellcheck disable=SC2016 # the inner shell's arguments
	unshare --mount --pid --fork --kill-child bash -euc '
		mount --bind "$1" "$1" # rpm wants / to be a mount
		mount -t proc proc "$1/proc"
		mount -t devpts -o newinstance,ptmxmode=0666 devpts "$1/dev/pts"
		mount --bind "$1/dev/pts/ptmx" "$1/dev/ptmx"
		exec env -i PATH="$PATH" LC_ALL=C.UTF-8 TERM=dumb HOME=/root chroot "$1" /bin/sh "/check/$2"
	' in_root "$root" "$name"
	rm -rf --one-file-system "$root"
}

mkdir "$work/packages" "$work/old"
older "$work/old"
for format in deb rpm; do
	case $format in deb) arch=$(dpkg --print-architecture) ;; rpm) arch=$(uname -m) ;; esac
	cp "$work"/old/*"$arch.$format" "$work/packages/old.$format"
	cp "$packages"/xnetfrontd[_-]*"$arch.$format" "$work/packages/new.$format" || fail "no .$format of $arch in $packages"
done
in_root deb "$FULL"
in_root rpm "$FULL"
in_root bare "$BARE"
say "all passed"
