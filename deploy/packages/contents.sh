#!/bin/sh
# Checks what is in the packages in DIRECTORY: every file with its mode, the
# configuration files, that the scripts are shell, and that the binary needs no library.
# Usage: deploy/packages/contents.sh DIRECTORY
set -eu
export LC_ALL=C
docs=$(realpath "$(dirname "$0")/../../docs")
cd "$1"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat >"$work/files" <<'END'
-rw-r--r-- ./etc/modprobe.d/xnetfrontd.conf
-rw-r--r-- ./etc/needrestart/conf.d/xnetfrontd.conf
-rw-r--r-- ./etc/xnetfrontd/xnetfrontd.toml
-rwxr-xr-x ./usr/bin/xnetfrontd
-rw-r--r-- ./usr/lib/modules-load.d/xnetfrontd.conf
-rw-r--r-- ./usr/lib/systemd/catalog/xnetfrontd.catalog
-rw-r--r-- ./usr/lib/systemd/network/60-xnf.link
-rw-r--r-- ./usr/lib/systemd/system/xnetfrontd-claim.service
-rw-r--r-- ./usr/lib/systemd/system/xnetfrontd-hold.service
-rw-r--r-- ./usr/lib/systemd/system/xnetfrontd-hold.socket
-rw-r--r-- ./usr/lib/systemd/system/xnetfrontd-metrics.socket
-rw-r--r-- ./usr/lib/systemd/system/xnetfrontd.service
-rw-r--r-- ./usr/lib/sysusers.d/xnetfrontd.conf
-rw-r--r-- ./usr/lib/udev/rules.d/60-xnetfrontd.rules
-rw-r--r-- ./usr/share/bash-completion/completions/xnetfrontd
-rw-r--r-- ./usr/share/doc/xnetfrontd/copyright
-rw-r--r-- ./usr/share/doc/xnetfrontd/examples/60-xnf.network
-rw-r--r-- ./usr/share/doc/xnetfrontd/examples/NetworkManager/60-xnf.conf
-rw-r--r-- ./usr/share/doc/xnetfrontd/examples/NetworkManager/xnf0.nmconnection
-rw-r--r-- ./usr/share/doc/xnetfrontd/examples/dhcpcd/xnf0.conf
-rw-r--r-- ./usr/share/doc/xnetfrontd/examples/grafana/xnetfrontd.json
-rw-r--r-- ./usr/share/doc/xnetfrontd/examples/ifupdown/xnf0
-rw-r--r-- ./usr/share/doc/xnetfrontd/examples/netplan/60-xnf.yaml
-rw-r--r-- ./usr/share/doc/xnetfrontd/examples/prometheus/prometheus.yml
-rw-r--r-- ./usr/share/doc/xnetfrontd/examples/prometheus/xnetfrontd.rules.yml
-rw-r--r-- ./usr/share/doc/xnetfrontd/examples/systemd/no-io-uring.conf
-rw-r--r-- ./usr/share/doc/xnetfrontd/sbom.cdx.json
-rw-r--r-- ./usr/share/doc/xnetfrontd/third-party-notices
-rw-r--r-- ./usr/share/fish/vendor_completions.d/xnetfrontd.fish
-rw-r--r-- ./usr/share/man/man5/xnetfrontd.toml.5.gz
-rw-r--r-- ./usr/share/man/man8/xnetfrontd.8.gz
-rw-r--r-- ./usr/share/zsh/ZSH/_xnetfrontd
END
(cd "$docs" && ls ./*.md ./kernel-bugs/*.md) | sed 's,^\.,-rw-r--r-- ./usr/share/doc/xnetfrontd,' >>"$work/files"
want() { # ZSH: where the format's zsh has its functions
	sed "s,/ZSH/,/$1/," "$work/files" | sort -k2 >"$work/want"
}
printf '/etc/modprobe.d/xnetfrontd.conf\n/etc/needrestart/conf.d/xnetfrontd.conf\n/etc/xnetfrontd/xnetfrontd.toml\n' >"$work/conffiles"

same() { # WHAT WANT GOT
	diff -u "$2" "$3" || { echo "contents: $1 differ, - wanted, + there" >&2; exit 1; }
}
machine() { # BINARY: the ELF header's e_machine
	od -An -tu2 -j18 -N2 "$1" | tr -d ' '
}

if ! command -v dpkg-deb >/dev/null; then
	echo "contents: not checked: there is no dpkg-deb" >&2
	exit 0
fi
want vendor-completions
for deb in *.deb; do
	dpkg-deb --contents "$deb" | awk '$1 ~ /^-/ {print $1, $6}' | sort -k2 >"$work/have"
	same "the files of $deb" "$work/want" "$work/have"
	[ -z "$(dpkg-deb --contents "$deb" | awk '$2 != "root/root"')" ] || { echo "contents: $deb: not everything is root's" >&2; exit 1; }
	rm -rf "$work/root" && dpkg-deb --raw-extract "$deb" "$work/root"
	same "the configuration files of $deb" "$work/conffiles" "$work/root/DEBIAN/conffiles"
	for script in preinst postinst prerm postrm; do sh -n "$work/root/DEBIAN/$script"; done
	case $deb in *amd64*) want=62 ;; *arm64*) want=183 ;; esac # EM_X86_64, EM_AARCH64
	[ "$(machine "$work/root/usr/bin/xnetfrontd")" = "$want" ] || { echo "contents: $deb: the binary is for another machine" >&2; exit 1; }
	# A dynamic one names its loader.
	! grep -qa '/lib.*/ld-linux' "$work/root/usr/bin/xnetfrontd" || { echo "contents: $deb: the binary is not static" >&2; exit 1; }
	echo "as it should be: $deb"
done
if command -v rpm >/dev/null; then
	want site-functions
	for rpm in *.rpm; do
		rpm -qp --qf '[%{FILEMODES:perms} .%{FILENAMES}\n]' "$rpm" | grep '^-' | sort -k2 >"$work/have"
		same "the files of $rpm" "$work/want" "$work/have"
		rpm -qpc "$rpm" >"$work/have"
		same "the configuration files of $rpm" "$work/conffiles" "$work/have"
		echo "as it should be: $rpm"
	done
else
	echo "contents: the .rpm are not checked: there is no rpm (apt-get install rpm)" >&2
fi
