# shellcheck shell=sh
# Sourced by the checks in a root: what holds whatever the package's format.
set -eu

fail() {
	printf 'check-install: %s\n' "$*" >&2
	exit 1
}
step() { printf '  %s\n' "$*"; }

# quietly COMMAND...: runs what a user would, who is to read nothing that worries.
quietly() {
	if ! "$@" </dev/null >/tmp/output 2>&1 || grep -Ei 'warn|error|fail|not found|no such|cannot|denied' /tmp/output; then
		cat /tmp/output >&2
		fail "$*: see above"
	fi
}
# silent WHAT COMMAND...: a checker that has nothing to say.
silent() {
	what=$1
	shift
	"$@" </dev/null >/tmp/output 2>&1 || true
	[ ! -s /tmp/output ] || { cat /tmp/output >&2; fail "$what"; }
}

# files: what is there, without what every installation of any package writes.
files() {
	find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /tmp -o -path /check -o -path /root \
		-o -path /var/lib/dpkg -o -path /var/lib/rpm -o -path /usr/lib/sysimage -o -path /var/log -o -path /var/cache \
		-o -path /run/systemd \) -prune -o ! \( -type d -name '*.target.wants' \) -print |
		sort
}
# left WHAT FILE...: these, and nothing else, is there that was not there before.
left() {
	what=$1
	shift
	files | comm -13 /tmp/before - >/tmp/new
	printf '%s\n' "$@" | sed '/^$/d' | sort >/tmp/want
	diff -u /tmp/want /tmp/new || fail "$what: - should be there, + is there"
	[ -z "$(files | comm -23 /tmp/before -)" ] || fail "$what: files of others are gone"
}

# has_account: the user and the group of the daemon.
has_account() {
	getent group xnetfrontd >/dev/null || fail "there is no group xnetfrontd"
	getent passwd xnetfrontd >/dev/null || fail "there is no user xnetfrontd"
	[ -z "$(getent group xnetfrontd | cut -d: -f4)" ] || fail "somebody is in the group xnetfrontd"
}

# owned FILE...: root's, and nobody else writes.
owned() {
	find "$@" -maxdepth 0 ! -type l \( ! -user root -o ! -group root -o -perm /022 \) >/tmp/output
	[ ! -s /tmp/output ] || { cat /tmp/output >&2; fail "not root's, or others may write"; }
}

# understood: systemd, udev and man take what is installed.
understood() {
	silent "the units" systemd-analyze verify --man=yes /usr/lib/systemd/system/xnetfrontd*
	quietly udevadm verify --no-summary /usr/lib/udev/rules.d/60-xnetfrontd.rules
	quietly systemd-sysusers --dry-run xnetfrontd.conf
	for page in /usr/share/man/man?/xnetfrontd*.gz; do
		name=$(basename "$page" .gz)
		silent "man $name" sh -c "man --warnings=w -E UTF-8 -l $page >/dev/null"
		gzip -dc "$page" >"/tmp/$name"
		silent "groff $name" sh -c "groff -ww -t -man -Tutf8 /tmp/$name >/dev/null"
		silent "mandoc -Tlint $name" mandoc -Tlint -Wwarning "/tmp/$name"
		quietly lexgrog "$page"
	done
	man -w 8 xnetfrontd >/dev/null || fail "man does not find xnetfrontd(8)"
}

# typed SHELL LINE...: what a terminal shows when these lines are typed into a shell.
typed() {
	shell=$1
	shift
	printf '%s\r' "$@" exit | TERM=dumb script -qec "$shell" /dev/null | tr -d '\r'
}
# shows WHAT REGEXP: the last `typed` had it.
shows() {
	grep -qE -- "$2" /tmp/typed || { cat -A /tmp/typed >&2; fail "$1: nothing like $2"; }
}

# completed: the shells complete with the files that are installed for them.
completed() {
	tab=$(printf '\t') version=$(xnetfrontd version | cut -d' ' -f-2)
	echo '. /usr/share/bash-completion/bash_completion; PS1="> "' >/tmp/bashrc
	typed 'bash --noprofile --rcfile /tmp/bashrc -i' "xnetfrontd vers$tab" "xnetfrontd run --log-$tab$tab" >/tmp/typed
	shows "bash completes a command" "^$version"
	shows "bash lists flags" '^--log-format +--log-level'
	mkdir -p /tmp/zsh && echo 'autoload -U compinit; compinit -u; unsetopt zle_bracketed_paste; PS1="> "' >/tmp/zsh/.zshrc
	typed 'env ZDOTDIR=/tmp/zsh zsh -d -i' "xnetfrontd vers$tab" "xnetfrontd run --log-$tab$tab" >/tmp/typed
	shows "zsh completes a command" "^$version"
	shows "zsh lists flags" '--log-format +--log-level'
	fish -c 'complete -C "xnetfrontd run --log-"' >/tmp/typed
	shows "fish lists flags" '^--log-format'
	fish -c 'complete -C "xnetfrontd vers"' >/tmp/typed
	shows "fish completes a command" '^version'
}

# runs: the program does, and says in one line that this is no Xen guest.
runs() {
	xnetfrontd version | grep -q '^xnetfrontd ' || fail "xnetfrontd does not run"
	code=0
	xnetfrontd check --vif 0 >/tmp/output 2>&1 || code=$?
	[ "$code $(wc -l </tmp/output)" = "3 1" ] || { cat /tmp/output >&2; fail "xnetfrontd check: exit code $code, or not one line"; }
}

# enabled STATE: both units that are for the boot are so.
enabled() {
	for unit in xnetfrontd.service xnetfrontd-hold.socket; do
		state=$(systemctl is-enabled "$unit" 2>&1 || true)
		[ "$state" = "$1" ] || fail "$unit is $state, not $1"
	done
}

# asks WANT SCRIPT ARGUMENT...: the package's script has systemd do WANT, where systemd
# runs and says that the units in /tmp/active are. The program's adopt-check ends as
# /tmp/adopt says.
asks() {
	want=$1
	shift
	mkdir -p /run/systemd/system /tmp/stand-in
	cat >/tmp/stand-in/systemctl <<'END'
#!/bin/sh
case $1 in
is-active) [ -e "/tmp/active/$3" ] ;;
start | restart | try-restart | stop) echo "$*" >>/tmp/asked ;;
esac
END
	cat >/tmp/stand-in/xnetfrontd <<'END'
#!/bin/sh
[ "$2" = --help ] || exit "$(cat /tmp/adopt)"
END
	chmod +x /tmp/stand-in/*
	ln -sf systemctl /tmp/stand-in/deb-systemd-invoke
	ln -sf /bin/true /tmp/stand-in/udevadm
	ln -sf /bin/true /tmp/stand-in/modprobe
	: >/tmp/asked
	PATH=/tmp/stand-in:$PATH /bin/sh "$@" >/tmp/output 2>&1 || { cat /tmp/output >&2; fail "$*"; }
	rmdir /run/systemd/system
	asked=$(paste -sd ';' /tmp/asked)
	[ "$asked" = "$want" ] || fail "$*, with $(ls /tmp/active) active and adopt-check $(cat /tmp/adopt): asks systemd to '$asked', not '$want'"
}
# state ADOPT UNIT...: sets for asks what is active.
state() {
	rm -rf /tmp/active && mkdir /tmp/active
	echo "$1" >/tmp/adopt
	shift
	for unit in "$@"; do touch "/tmp/active/$unit"; done
}
