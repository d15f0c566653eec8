# shellcheck shell=bash
# Sourced by build.sh: Debian's packages, from this host's mirror into plain folders.

# What is only unpacked: files are picked out of it, no maintainer script runs.
readonly SUITE=trixie
readonly TOOLS=(
  qemu-system-x86 busybox-static dash bash kmod libgcc-s1
  iproute2 iputils-ping iperf3 ethtool tcpdump strace
)
# What is installed, by dpkg, on top of the essential packages of the Debian image.
readonly DEBIAN=(
  systemd systemd-sysv udev dbus kmod procps
  iproute2 net-tools iputils-ping iperf3 ethtool tcpdump strace curl
)

# host_tools: installs what this script itself needs, and says so.
host_tools() {
  local package missing=()
  for package in mmdebstrap debian-archive-keyring cpio zstd xz-utils kmod e2fsprogs; do
    dpkg-query -W -f '${Status}\n' "$package" 2>/dev/null | grep -q ' installed$' ||
      missing+=("$package")
  done
  if ((${#missing[@]})); then
    say "installing on this machine: ${missing[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
      "${missing[@]}" >/dev/null
  fi
}

# mirror: the address of Debian's archive as this host's apt is set up with. Before the
# first `apt-get update` apt does not know yet which of its sources that is.
mirror() {
  # shellcheck disable=SC2016 # apt's and awk's variables
  local format='$(LABEL) $(RELEASE) $(REPO_URI)' pick='$1=="Debian" && $2!~/-/ {print $3; exit}'
  local uri
  uri=$(apt-get indextargets --format "$format" 'Identifier: Packages' | awk "$pick")
  if [[ -z $uri ]]; then
    apt-get update -qq
    uri=$(apt-get indextargets --format "$format" 'Identifier: Packages' | awk "$pick")
  fi
  [[ -n $uri ]] || fail "apt on this machine has no source of Debian's archive: add one to /etc/apt/sources.list.d"
  printf '%s\n' "$uri"
}

# private_apt DIR ARGUMENTS...: apt-get with lists, packages and state of its own below
# DIR, as if nothing were installed. The host's apt.conf (a proxy) still counts.
private_apt() {
  local dir=$1
  shift
  apt-get -qq -o Dir::Etc::SourceList="$dir/sources.list" -o Dir::Etc::SourceParts=/dev/null \
    -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null \
    -o Dir::State="$dir/state" -o Dir::State::Status="$dir/status" \
    -o Dir::Cache="$dir" -o Dir::Cache::Archives="$dir" \
    -o APT::Architecture=amd64 -o APT::Sandbox::User=root \
    -o APT::Install-Recommends=false -o APT::Keep-Downloaded-Packages=true \
    -o Acquire::Retries=3 "$@"
}

# lists DIR SUITE: asks the mirror what SUITE has, and with backports also what they go with.
lists() {
  local dir=$1 suite=$2 uri name
  uri=$(mirror)
  say "downloading Debian $suite packages from $uri"
  for name in "${suite%-backports}" "$suite"; do
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri $name main"
  done | sort -u >"$dir/sources.list"
  : >"$dir/status"
  private_apt "$dir" update
}

# kept DIR LIST: whether all packages of LIST are in DIR.
kept() { [[ -s $2 ]] && (cd "$1" && xargs -a "$2" ls >/dev/null 2>&1); }

# download DIR: fills DIR with the .debs of TOOLS, DEBIAN and all they depend on, and
# makes it an archive that apt can read (Packages, Release). What is there already is kept: a
# second call with the same lists needs no network. Remove DIR to get newer packages.
download() {
  local dir=$1 wanted
  wanted=$dir/$(printf '%s\n' "$SUITE" "${TOOLS[@]}" "${DEBIAN[@]}" | sha256sum | cut -c1-16).list
  mkdir -p "$dir/partial" "$dir/none/partial" "$dir/state/lists/partial"
  if ! kept "$dir" "$wanted"; then
    lists "$dir" "$SUITE"
    # --print-uris leaves out what is in the folder of archives: ask with an empty one.
    private_apt "$dir" -o Dir::Cache::Archives="$dir/none" --print-uris install \
      '?essential' "${TOOLS[@]}" "${DEBIAN[@]}" | awk '{print $2}' >"$wanted.new"
    private_apt "$dir" --download-only -y install '?essential' "${TOOLS[@]}" "${DEBIAN[@]}"
    mv "$wanted.new" "$wanted"
  fi
  (cd "$dir" && while read -r deb; do
    dpkg-deb -f "$deb"
    printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n\n' "$deb" "$(stat -c %s "$deb")" \
      "$(sha256sum "$deb" | cut -d' ' -f1)"
  done <"$wanted" >Packages)
  # mmdebstrap takes the essential packages by the suite they are from.
  printf '%s\n' "Suite: $SUITE" "Codename: $SUITE" "Components: main" "SHA256:" \
    " $(sha256sum "$dir/Packages" | cut -d' ' -f1) $(stat -c %s "$dir/Packages") Packages" >"$dir/Release"
  cp "$wanted" "$dir/current"
}

# kernel_field NAME N: the N-th field of a kernel's line in the table, nothing for an
# unknown one. xen_suite NAME: where a Xen is.
kernel_field() { awk -v name="$1" -v n="$2" '$1 == name {print $n}' "$HERE/kernels"; }
xen_suite() { awk -v name="$1" '$1 == name {print $2}' "$HERE/xens"; }

# download_xen DIR NAME: puts a Xen's packages, with all that they depend on, into DIR, and
# their list into DIR/xen-NAME.list. What is there already is kept.
download_xen() {
  local dir=$1 name=$2 suite list
  suite=$(xen_suite "$name")
  list=$dir/xen-$name.list
  ! kept "$dir" "$list" || return 0
  lists "$dir" "$suite"
  private_apt "$dir" -o Dir::Cache::Archives="$dir/none" --print-uris install \
    "xen-hypervisor-$name-amd64" "xen-utils-$name" xenstore-utils | awk '{print $2}' >"$list.new" && [[ -s $list.new ]] ||
    fail "Xen $name cannot be had: apt's mirror does not have its packages in $suite"
  # shellcheck disable=SC2046 # one word for each package
  (cd "$dir" && private_apt "$dir" download $(cut -d_ -f1 "$list.new")) ||
    fail "Xen $name cannot be had: its packages in $suite do not download"
  mv "$list.new" "$list"
}

# download_kernel DIR NAME: puts a kernel's packages into DIR, without what would install
# it, and their list into DIR/linux-SUITE.list. What is there already is kept.
download_kernel() {
  local dir=$1 suite list
  suite=$(kernel_field "$2" 2)
  list=$dir/linux-$suite.list
  ! kept "$dir" "$list" || return 0
  lists "$dir" "$suite"
  # Until 7.0 image and modules are one package, linux-image-VERSION; since then there are
  # three, and that one is empty.
  private_apt "$dir" -o Dir::Cache::Archives="$dir/none" --print-uris -t "$suite" install linux-image-amd64 |
    awk '$2 ~ /^linux-(image|base|binary|modules)-[0-9]/ {print $2}' >"$list.new" && [[ -s $list.new ]] ||
    fail "kernel $2 cannot be had: apt's mirror has no linux-image-amd64 in $suite that can be installed"
  # shellcheck disable=SC2046 # one word for each package
  (cd "$dir" && private_apt "$dir" -t "$suite" download $(cut -d_ -f1 "$list.new")) ||
    fail "kernel $2 cannot be had: its packages in $suite do not download"
  mv "$list.new" "$list"
}

# unpack DIR LIST TREE: LIST's packages of DIR over each other in TREE. Those of bookworm
# have folders where TREE has links, /lib and the like, which dpkg-deb -x would replace.
unpack() {
  local dir=$1 list=$2 tree=$3 name
  mkdir -p "$tree"/usr/{bin,sbin,lib,lib64}
  for name in bin sbin lib lib64; do ln -sfn "usr/$name" "$tree/$name"; done
  # shellcheck disable=SC2016 # sh's own
  (cd "$dir" && xargs -a "$list" -P 2 -I{} sh -c 'dpkg-deb --fsys-tarfile "$1" | tar -x --keep-directory-symlink -C "$2"' sh {} "$tree")
}
