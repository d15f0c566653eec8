#!/bin/sh
# make test-unit: the tests that run for a plain user with nothing but Go. What needs more
# is left out by package internal/needs, the same for everybody; the last line says what.
# They are without the race detector, which would need a C compiler; make test has it.
set -u
cd "$(dirname "$0")/.." || exit 1
left="$(mktemp)" || exit 1
trap 'rm -f "$left"' EXIT
packages="$(go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' ./...)" || exit 1
# shellcheck disable=SC2086 # one word for each package
CGO_ENABLED=0 XNETFRONTD_UNIT_TESTS=1 XNETFRONTD_LEFT_OUT="$left" go test -count=1 -timeout 5m $packages
result=$?
needs="$(cut -f 1 "$left" | sort | uniq -c | sort -rn | awk '{n = $1; $1 = ""; printf "%s%d for want of%s", sep, n, $0; sep = ", "}')"
echo "left out, with the race detector: ${needs:-nothing}; \`sudo make test\` runs them"
exit $result
