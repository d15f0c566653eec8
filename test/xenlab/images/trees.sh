# shellcheck shell=bash
# Sourced by build.sh: small root trees put together from the unpacked packages ($FROM),
# for the kernel of version $KERNEL, whose packages are unpacked in $KERNEL_FROM.

# use_kernel NAME: it is the kernel from now on.
use_kernel() {
  KERNEL_FROM=$WORK/linux-$1
  [[ -d $KERNEL_FROM ]] || unpack "$DEBS" "$DEBS/linux-$(kernel_field "$1" 2).list" "$KERNEL_FROM"
  KERNEL=$(basename "$KERNEL_FROM"/usr/lib/modules/*)
  [[ -e $KERNEL_FROM/usr/lib/modules/$KERNEL/modules.dep.bin ]] || depmod -b "$KERNEL_FROM" "$KERNEL"
}

# kernel_image: the kernel as its packages have it: since 7.0 it is beside its modules.
kernel_image() {
  local image=$KERNEL_FROM/boot/vmlinuz-$KERNEL
  [[ -e $image ]] || image=$KERNEL_FROM/usr/lib/modules/$KERNEL/vmlinuz
  printf '%s\n' "$image"
}

# skeleton TREE: folders, busybox, a shell and the two device nodes /init starts with.
skeleton() {
  local tree=$1 name applet
  mkdir -p "$tree"/usr/{bin,sbin,lib,lib64} "$tree"/{etc,dev,proc,sys,run,tmp,root,mnt,var/lib,var/log}
  for name in bin sbin lib lib64; do ln -s "usr/$name" "$tree/$name"; done
  ln -s /run "$tree/var/run"
  ln -s /run/lock "$tree/var/lock"
  mknod "$tree/dev/console" c 5 1
  mknod "$tree/dev/null" c 1 3
  cp "$FROM/usr/bin/busybox" "$tree/usr/bin/busybox"
  # The links are made in sbin, later in PATH than bin, and never replace a real program.
  for applet in $("$FROM/usr/bin/busybox" --list); do
    [[ $applet == busybox ]] || ln -s ../bin/busybox "$tree/usr/sbin/$applet"
  done
  # busybox's ask process 1, a shell here, which would never know: `xl shutdown` calls them.
  for name in poweroff reboot; do
    rm "$tree/usr/sbin/$name"
    printf '#!/bin/sh\nexec busybox %s -f\n' "$name" >"$tree/usr/sbin/$name"
    chmod 755 "$tree/usr/sbin/$name"
  done
  # busybox's sh runs its own applets before what PATH says (ip, ping): dash instead.
  add_programs "$tree" usr/bin/dash
  ln -s dash "$tree/usr/bin/sh"
  printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n' >"$tree/etc/passwd"
  printf 'root:x:0:\nnogroup:x:65534:\n' >"$tree/etc/group"
  printf '127.0.0.1 localhost\n::1 localhost\n' >"$tree/etc/hosts"
}

# libraries PROGRAM: the shared libraries it loads, as paths inside $FROM. Asked from the
# packages' own ld.so: the host's libraries are of another release.
libraries() {
  local list
  list=$(chroot "$FROM" /usr/lib64/ld-linux-x86-64.so.2 --list "/$1" 2>/dev/null) || true # a static program has none
  [[ $list != *"not found"* ]] || fail "$1: $(grep -m 1 'not found' <<<"$list")"
  grep -oE '/[^ ]+\.so[^ ]*' <<<"$list" | sort -u || true
}

# add_programs TREE PATH...: files of $FROM with the libraries they need.
add_programs() {
  local tree=$1 path library
  shift
  for path in "$@"; do
    rm -f "$tree/$path" # a busybox applet of the same name
    install -D -m755 "$FROM/$path" "$tree/$path"
    for library in $(libraries "$path"); do
      [[ -e $tree/$library ]] || install -D -m755 "$FROM/$library" "$tree/$library"
    done
  done
}

# add_modules TREE MODULE...: modules with what they depend on, decompressed: under
# emulation xz costs more than the memory it saves.
add_modules() {
  local tree=$1 modules=usr/lib/modules/$KERNEL file
  shift
  modprobe -d "$KERNEL_FROM" -S "$KERNEL" --show-depends -a "$@" >"$WORK/insmod"
  mkdir -p "$tree/$modules"
  while read -r file; do
    file=${file#*"/modules/$KERNEL/"}
    [[ -e $tree/$modules/${file%.xz} ]] && continue
    mkdir -p "$(dirname "$tree/$modules/$file")"
    case $file in
      *.xz) xz -dc "$KERNEL_FROM/$modules/$file" >"$tree/$modules/${file%.xz}" ;;
      *) cp "$KERNEL_FROM/$modules/$file" "$tree/$modules/$file" ;;
    esac
  done < <(awk '$1=="insmod"{print $2}' "$WORK/insmod")
  cp "$KERNEL_FROM/$modules"/modules.{builtin,builtin.modinfo,order} "$tree/$modules/"
  depmod -b "$tree" "$KERNEL"
}

# add_kmod TREE: the real modprobe and its friends instead of busybox's.
add_kmod() {
  local tree=$1 name
  add_programs "$tree" usr/bin/kmod
  for name in modprobe insmod rmmod lsmod depmod modinfo; do ln -sf ../bin/kmod "$tree/usr/sbin/$name"; done
}

# pack TREE FILE: an uncompressed initramfs: the loader's copy is faster than unpacking
# under emulation. Without the time of the build: the same packages give the same bytes
# on the same host.
pack() {
  find "$1" -exec touch -h -d @0 {} +
  (cd "$1" && find . -print0 | LC_ALL=C sort -z | cpio -0 -o -H newc -R 0:0 --reproducible --quiet) >"$2"
}

# raw_kernel BZIMAGE FILE: the ELF kernel inside a bzImage (boot protocol header:
# setup_sects at 0x1f1, payload_offset and payload_length at 0x248), so that neither Xen
# nor libxenguest unpacks it under emulation. The last 4 bytes of the payload are the
# unpacked size, not part of the compressed stream.
raw_kernel() {
  local sectors offset length
  sectors=$(od -An -tu1 -j $((0x1f1)) -N1 "$1")
  read -r offset length < <(od -An -tu4 -j $((0x248)) -N8 "$1")
  head -c $(((sectors + 1) * 512 + offset + length - 4)) "$1" | tail -c $((length - 4)) >"$WORK/payload"
  case $(od -An -tx1 -N4 "$WORK/payload" | tr -d ' ') in
    28b52ffd) zstd -dcq "$WORK/payload" >"$2" ;;
    fd377a58) xz -dc "$WORK/payload" >"$2" ;;
    1f8b*) gzip -dc "$WORK/payload" >"$2" ;;
    *) fail "$1: unknown compression of the kernel" ;;
  esac
  [[ $(od -An -c -N4 "$2" | tr -d ' ') == 177ELF ]] || fail "$1: no ELF kernel inside"
}
