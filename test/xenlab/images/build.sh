#!/bin/bash
# build.sh OUTDIR DOM0-KERNEL GUEST-KERNEL XEN: builds what the Xen lab boots, from
# Debian's packages, as root on Debian 12 or 13 (amd64). README.md in this folder says what
# comes out, and the files kernels and xens which ones there are.
#
# OUTDIR appears only when it is whole; if it is there nothing is done. The packages are
# kept in debs/ beside OUTDIR. One build at a time: a second one waits, then finds the
# work done.
set -euo pipefail
shopt -s inherit_errexit
set -E
trap 'printf "xenlab images: %s:%s: failed: %s\n" "${BASH_SOURCE[0]##*/}" "$LINENO" "$BASH_COMMAND" >&2' ERR

say() { printf 'xenlab images: %s\n' "$*"; }
fail() {
  printf 'xenlab images: %s\n' "$*" >&2
  exit 1
}

[[ $# == 4 ]] || fail "usage: build.sh OUTDIR DOM0-KERNEL GUEST-KERNEL XEN"
[[ $(id -u) == 0 ]] || fail "needs root (device nodes, chroot): run it with sudo"
[[ $(uname -m) == x86_64 ]] || fail "this machine is $(uname -m): the lab needs an x86_64 Debian"
command -v apt-get >/dev/null || fail "no apt-get: the images are built on Debian"

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "$(dirname "$1")"
CACHE=$(cd "$(dirname "$1")" && pwd)
OUT=$CACHE/$(basename "$1")
NEW=$OUT.tmp
WORK=$NEW/work
FROM=$WORK/packages # all packages but kernels, unpacked
DEBS=$CACHE/debs
DOM0_KERNEL=$2 GUEST_KERNEL=$3 XEN=$4
export PATH=$PATH:/usr/sbin:/sbin LC_ALL=C

# shellcheck source=packages.sh
. "$HERE/packages.sh"
# shellcheck source=trees.sh
. "$HERE/trees.sh"

for name in "$DOM0_KERNEL" "$GUEST_KERNEL"; do
  [[ -n $(kernel_field "$name" 2) ]] || fail "kernel $name: $HERE/kernels has none of that name"
done
[[ -n $(xen_suite "$XEN") ]] || fail "Xen $XEN: $HERE/xens has none of that name"

readonly DOM0_MODULES=(
  xen-evtchn xen-gntdev xen-gntalloc xen-privcmd xenfs xen-netback xen-blkback
  virtio_pci virtio_blk virtio_console 9p 9pnet_virtio
  bridge 8021q veth tun dummy ifb sch_fq sch_tbf sch_netem sch_ingress cls_matchall cls_u32 act_mirred
)
# xen-netback: a driver domain is a guest, too.
readonly DOMU_MODULES=(
  xen-evtchn xen-gntdev xen-gntalloc xen-netfront xen-blkfront xen-netback
  bridge 8021q bonding ipvlan veth tun dummy ifb
  sch_fq sch_fq_codel sch_cake sch_sfq sch_tbf sch_htb sch_netem sch_prio sch_ingress
  cls_matchall cls_u32 act_mirred
)

# In dom0 and in the small domU. libgcc_s: pthread_cancel, which xl and the xenstore
# programs call, opens it by name and aborts without it.
readonly NETWORK_PROGRAMS=(
  usr/bin/{ip,ss,ping,iperf3,tcpdump,strace} usr/sbin/{bridge,tc,ethtool}
  usr/lib/x86_64-linux-gnu/libgcc_s.so.1
)

build_qemu() {
  local dir=$NEW/qemu library
  mkdir -p "$dir"/{lib,share}
  cp "$FROM/usr/bin/qemu-system-x86_64" "$dir/"
  for library in $(libraries usr/bin/qemu-system-x86_64); do cp -L "$FROM/$library" "$dir/lib/"; done
  # A PC that boots a multiboot kernel: the BIOS and the loader's option ROMs.
  cp -L "$FROM"/usr/share/seabios/bios-256k.bin \
    "$FROM"/usr/share/qemu/{kvmvapic,linuxboot_dma,multiboot_dma,pvh}.bin "$dir/share/"
  install -m755 "$HERE/qemu-run" "$dir/run"
  "$dir/run" --version | head -1 >"$WORK/qemu-version"
}

build_domu() {
  local tree=$WORK/domu store
  mapfile -t store < <(cd "$FROM" && ls usr/bin/xenstore*)
  skeleton "$tree"
  add_kmod "$tree"
  add_programs "$tree" "${NETWORK_PROGRAMS[@]}" "${store[@]}"
  add_modules "$tree" "${DOMU_MODULES[@]}"
  install -m755 "$HERE/domu/init" "$tree/init"
  pack "$tree" "$NEW/domu.cpio"
}

# build_debian_initramfs: mounts /dev/xvda and goes on there.
build_debian_initramfs() {
  local tree=$WORK/debian-initramfs
  skeleton "$tree"
  add_modules "$tree" xen-blkfront ext4
  install -m755 "$HERE/debian/init" "$tree/init"
  (cd "$tree" && find . ! -type d && echo ./own) >"$WORK/own"
  mv "$WORK/own" "$tree/own"
  pack "$tree" "$NEW/debian.cpio"
}

build_dom0() {
  local tree=$WORK/dom0 bin=usr/lib/xen-$XEN/bin store
  # oxenstored opens its plugin (.cmxs) by name; that of 4.17 has none.
  mapfile -t store < <(cd "$FROM" && ls usr/bin/xenstore* && find "usr/lib/xen-$XEN" -name '*.cmxs')
  skeleton "$tree"
  add_kmod "$tree"
  add_programs "$tree" usr/bin/bash "${NETWORK_PROGRAMS[@]}" "${store[@]}" \
    "$bin"/{xl,xenstored,oxenstored,xenconsoled,xen-init-dom0,xenstore-control,libxl-save-helper,lsevtchn,xen-diag}
  add_modules "$tree" "${DOM0_MODULES[@]}"
  ln -s "xen-$XEN" "$tree/usr/lib/xen"
  cp -a "$FROM/etc/xen" "$tree/etc/"
  mkdir -p "$tree"/etc/xen/scripts "$tree"/var/{lib,log}/xen "$tree/var/lib/xenstored" "$tree/boot"
  install -m755 "$HERE"/dom0/{vif-lab,block-lab} "$tree/etc/xen/scripts/"
  install -m755 "$HERE/dom0/init" "$tree/init"
  # In memory, as libxl reads a file over 9p page by page (README.md, figures).
  cp "$NEW"/{domu.cpio,debian.cpio} "$tree/boot/"
  cp "$WORK/guest-vmlinux" "$tree/boot/vmlinux"
  pack "$tree" "$NEW/dom0.cpio"
}

# install_debian: a real Debian, installed by dpkg, in $WORK/debian. Its own mount
# namespace: nothing stays mounted below a folder that is removed on failure.
install_debian() {
  local include
  include=$(IFS=,; echo "${DEBIAN[*]}")
  unshare --mount mmdebstrap --quiet --mode=root --variant=essential --include="$include" \
    --aptopt='APT::Install-Recommends "false"' --dpkgopt=force-unsafe-io \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
    --dpkgopt='path-exclude=/usr/share/bash-completion/*' --dpkgopt='path-exclude=/usr/lib/udev/hwdb.d/*' \
    "$SUITE" "$WORK/debian" "deb [trusted=yes] copy:$DEBS ./" >"$WORK/mmdebstrap.log" 2>&1
}

# build_debian: the disk of the Debian domU, of the tree that install_debian left.
build_debian() {
  local tree=$WORK/debian unit
  add_modules "$tree" "${DOMU_MODULES[@]}" ext4 autofs4 configfs loop
  install -m644 "$HERE/debian/xenlab-agent.service" "$tree/etc/systemd/system/"
  mkdir -p "$tree"/etc/systemd/system/sysinit.target.wants "$tree"/etc/systemd/system.conf.d
  ln -s ../xenlab-agent.service "$tree/etc/systemd/system/sysinit.target.wants/"
  install -m644 "$HERE/debian/quiet.conf" "$tree/etc/systemd/system.conf.d/"
  grep -v '^#' "$HERE/debian/masked" | while read -r unit; do
    [[ -z $unit ]] || ln -sf /dev/null "$tree/etc/systemd/system/$unit"
  done
  # They find nothing to do here, and run, all of them, at every daemon-reload.
  mkdir -p "$tree"/etc/systemd/{system-generators,system/systemd-udev-trigger.service.d}
  for unit in "$tree"/usr/lib/systemd/system-generators/*; do
    ln -s /dev/null "$tree/etc/systemd/system-generators/$(basename "$unit")"
  done
  install -m644 "$HERE/debian/coldplug.conf" "$tree/etc/systemd/system/systemd-udev-trigger.service.d/"
  echo '/dev/xvda / ext4 noatime 0 0' >"$tree/etc/fstab"
  echo debian >"$tree/etc/hostname"
  printf '127.0.0.1 localhost debian\n::1 localhost\n' >"$tree/etc/hosts"
  # Not a first boot, which would apply presets and ask questions.
  echo xenlab | md5sum | cut -c1-32 >"$tree/etc/machine-id"
  # Newer than /usr: no rebuilding of ld.so's cache, catalogues and users at boot.
  touch "$tree/etc/.updated" "$tree/var/.updated"
  truncate -s 1G "$NEW/debian.img"
  mkfs.ext4 -q -F -L debian -m 0 -J size=8 -d "$tree" "$NEW/debian.img"
}

# The lock's descriptor is this script's alone: a child that outlived it would keep it.
exec 9>"$CACHE/lock"
flock -n 9 || { say "waiting for another build in $CACHE" && flock 9; }
[[ -e $OUT ]] && exit 0

installing=
cleanup() {
  # Waited for, not killed: its children would go on writing below what is removed.
  [[ -z $installing ]] || wait "$installing" || true
  rm -rf --one-file-system "$NEW"
}
trap cleanup EXIT
trap 'exit 1' INT TERM
rm -rf --one-file-system "$NEW"
mkdir -p "$WORK"

host_tools
download "$DEBS"
for name in "$DOM0_KERNEL" "$GUEST_KERNEL"; do download_kernel "$DEBS" "$name"; done
download_xen "$DEBS" "$XEN"
say "unpacking, and installing the Debian image"
install_debian 9>&- &
installing=$!
# Xen's first: libraries that both suites have are those of $SUITE.
unpack "$DEBS" "$DEBS/xen-$XEN.list" "$FROM"
unpack "$DEBS" "$DEBS/current" "$FROM"
echo "xen $(dpkg-deb -f "$DEBS/$(grep "^xen-hypervisor-$XEN-amd64_" "$DEBS/xen-$XEN.list")" Version)" >"$NEW/kernels"
gzip -dc "$FROM/boot/xen-$XEN-amd64.gz" >"$NEW/xen"
build_qemu
use_kernel "$GUEST_KERNEL"
echo "guests $KERNEL" >>"$NEW/kernels"
raw_kernel "$(kernel_image)" "$WORK/guest-vmlinux"
build_domu
build_debian_initramfs
use_kernel "$DOM0_KERNEL"
echo "dom0 $KERNEL $(kernel_field "$DOM0_KERNEL" 3)" >>"$NEW/kernels"
raw_kernel "$(kernel_image)" "$NEW/vmlinux"
build_dom0
wait "$installing" || { tail -20 "$WORK/mmdebstrap.log" >&2; fail "mmdebstrap could not install the Debian image"; }
installing=
use_kernel "$GUEST_KERNEL"
build_debian
rm -rf --one-file-system "$WORK"
mv "$NEW" "$OUT"
say "built in $SECONDS s: $OUT ($(du -sh "$OUT" | cut -f1))"
