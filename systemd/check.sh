#!/usr/bin/env bash
# check.sh: the units are right (systemd-analyze verify), and as closed as
# docs/security.md says (systemd-analyze security).
set -euo pipefail
cd "$(dirname "$0")"

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
failed=0
fail() {
	printf 'systemd/check.sh: %s\n' "$*" >&2
	failed=1
}

# What the units name must be there: systemd's own units, and the programs.
mkdir -p "$root/usr/bin" "$root/etc/systemd/system" "$root/usr/lib/systemd"
ln -s usr/bin "$root/bin"
ln -s usr/lib "$root/lib"
cp -r /usr/lib/systemd/system "$root/usr/lib/systemd/"
for program in xnetfrontd systemctl; do
	install -m 755 "$(type -P true)" "$root/usr/bin/$program"
done
cp ./*.service ./*.socket "$root/usr/lib/systemd/system/"
for unit in *.service *.socket; do
	# It says something of units of systemd's own, too, whose programs are not there.
	said=$(systemd-analyze verify --man=no --root="$root" "$unit" 2>&1) || true
	if said=$(grep -F xnetfrontd <<<"$said"); then
		fail "verify $unit: $said"
	fi
done

# The drop-in of the examples takes from the daemon what it says, and nothing else breaks.
dropin=$root/etc/systemd/system/xnetfrontd.service.d/no-io-uring.conf
install -D -m 644 ../deploy/systemd/no-io-uring.conf "$dropin"
if said=$(systemd-analyze verify --man=no --root="$root" xnetfrontd.service 2>&1 | grep -F xnetfrontd); then
	fail "verify with no-io-uring.conf: $said"
fi
for call in setup enter register; do
	systemd-analyze syscall-filter --no-pager @aio | grep -qx " *io_uring_$call" || fail "@aio has no io_uring_$call, which no-io-uring.conf is to take"
done

# limit UNIT TENTHS: the unit's exposure is at most so much.
limit() {
	local said
	if ! said=$(systemd-analyze security --no-pager --offline=true --threshold="$2" "$1" 2>&1); then
		fail "$1 is more exposed than $(($2 / 10)).$(($2 % 10)): $(tail -n 1 <<<"$said")"
	fi
	printf '%s\n' "${said##*$'\n'}"
}
limit xnetfrontd.service 15
limit xnetfrontd-hold.service 25
limit xnetfrontd-claim.service 21
exit $failed
