#!/bin/sh
# Prints the licences of what is linked into the program, as they ask for.
set -eu
export LC_ALL=C
cd "$(dirname "$0")/../.."

notice() { # NAME DIRECTORY
	found=
	for file in "$2"/LICENSE* "$2"/LICENCE* "$2"/COPYING* "$2"/NOTICE* "$2"/PATENTS*; do
		[ -f "$file" ] || continue
		printf '==== %s: %s\n\n' "$1" "${file##*/}"
		cat "$file"
		printf '\n'
		case ${file##*/} in LICEN* | COPYING*) found=yes ;; esac
	done
	[ "$found" ] || { echo "notices: $1 has no licence in $2" >&2; exit 1; }
}

# Go's own: distributions keep it elsewhere.
goroot=$(go env GOROOT)
for dir in "$goroot" /usr/share/doc/golang-*-go /usr/share/doc/golang-go; do
	[ -f "$dir/LICENSE" ] && break
done
if [ -f "$dir/LICENSE" ]; then notice "Go" "$dir"; else
	for dir in /usr/share/doc/golang-*; do [ -f "$dir/copyright" ] && break; done
	printf '==== Go\n\n' && cat "$dir/copyright"
fi
GOOS=linux go list -deps -f '{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}' ./cmd/xnetfrontd |
	sort -u | while read -r path version dir; do
	notice "$path $version" "$dir"
done
