#!/bin/sh
# The tests, and in the last line what was left out for want of what. Package
# internal/needs leaves it out, and is the one place that does.
#   all   make test: with the race detector
#   unit  make test-unit: what runs for a plain user with nothing but Go. What needs more
#         is left out for everybody; the race detector too, which needs a C compiler.
# Usage: test/run.sh all|unit
set -u
cd "$(dirname "$0")/.." || exit 1
left="$(mktemp)" || exit 1
trap 'rm -f "$left"' EXIT
export XNETFRONTD_LEFT_OUT="$left"
case "${1:-}" in
all)
	# -count=1: what the tests build and run as processes, and the kernel, is not known to
	# Go's cache of results.
	CGO_ENABLED=1 go test -race -count=1 -timeout 9m ./...
	result=$? also="" then=""
	# A hostile backend is much faster without it, and some of what it does is a data race.
	echo "the same without the race detector: a hostile backend (docs/hostile.md)"
	go test -count=1 -timeout 9m -run '^Test(Hostile|XSA|OldMapping)' ./pkg/netfront || result=1
	;;
unit)
	packages="$(go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' ./...)" || exit 1
	# shellcheck disable=SC2086 # one word for each package
	CGO_ENABLED=0 XNETFRONTD_UNIT_TESTS=1 go test -count=1 -timeout 5m $packages
	result=$? also=", with the race detector" then="; \`sudo make test\` runs them"
	;;
*)
	echo "usage: test/run.sh all|unit" >&2
	exit 2
	;;
esac
needs="$(cut -f 1 "$left" | sort | uniq -c | sort -rn | awk '{n = $1; $1 = ""; printf "%s%d for want of%s", sep, n, $0; sep = ", "}')"
echo "left out$also: ${needs:-nothing}$then"
exit $result
