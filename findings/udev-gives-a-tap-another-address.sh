#!/bin/sh
# systemd-udevd 252 (Debian 12), with its own 99-default.link: a TAP that is made without an
# address gets one at random from the kernel, and soon after another one from udev
# (MACAddressPolicy=persistent), which is the same each time for that name on that machine.
# The kernel then says of it that somebody has set it (addr_assign_type 3), so that a
# program cannot tell it from an administrator's. Who reads the address between the two has
# a wrong one. One would expect that the policy is for hardware. An address that is set
# before udev comes stays.
#
# The script makes TAPs in a network namespace of its own, and has the udevadm that is
# installed do for each what udevd does when it appears. Seen:
#
#     made without an address: type 1, then another address of type 3
#     made again: the address of the last time
#     made with an address: kept
here="$(cd "$(dirname "$0")" && pwd)"
. "$here/common.sh"
[ "$(id -u)" = 0 ] || cannot "making a network namespace needs root"
[ -e /dev/net/tun ] || cannot "/dev/net/tun is not there"
for tool in ip unshare udevadm; do
	command -v "$tool" >/dev/null || cannot "$tool is not installed"
done
[ -s /etc/machine-id ] || cannot "/etc/machine-id is empty: udev then makes no persistent address"
cat >steps <<'SH'
mount -t sysfs sysfs /sys
address() { cat "/sys/class/net/$1/address"; }
type() { cat "/sys/class/net/$1/addr_assign_type"; }
udev() { udevadm test-builtin net_setup_link "/sys/class/net/$1" >/dev/null 2>&1; }
ip tuntap add dev tap0 mode tap
random="$(address tap0)" from="$(type tap0)"
udev tap0
first="$(address tap0)" to="$(type tap0)"
[ "$first" = "$random" ] && what="the same" || what="another"
echo "made without an address: type $from, then $what address of type $to"
ip link del tap0
ip tuntap add dev tap0 mode tap
udev tap0
[ "$(address tap0)" = "$first" ] && what="the address of the last time" || what="another address"
echo "made again: $what"
ip tuntap add dev tap1 mode tap
ip link set tap1 address 02:00:00:00:00:01
udev tap1
[ "$(address tap1)" = 02:00:00:00:00:01 ] && what="kept" || what="changed"
echo "made with an address: $what"
SH
expect 'made without an address: type 1, then another address of type 3
made again: the address of the last time
made with an address: kept' "udev (here $(udevadm --version)) gives a TAP another address than the kernel" unshare -n -m sh steps
