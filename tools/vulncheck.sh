#!/bin/sh
# Looks up the code's dependencies in Go's database of vulnerabilities, with govulncheck:
# only what the program reaches counts. A finding in a module fails; one in Go's standard
# library is of the Go that is installed here, and is said.
# Without vuln.go.dev the same database is the module golang.org/x/vulndb, from the Go
# proxy, which may be some days older.
# Usage: tools/vulncheck.sh
# Exit code 1: something was found, 3: there is no database to look into.
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Whether the database answers: of a module without code nothing can be found.
mkdir "$work/empty" && printf 'module empty\n\ngo 1.26\n' >"$work/empty/go.mod" && printf 'package main\n\nfunc main() {}\n' >"$work/empty/main.go"
go build -modfile=tools/go.mod -o "$work/govulncheck" golang.org/x/vuln/cmd/govulncheck
if (cd "$work/empty" && timeout 60 "$work/govulncheck" -scan module . >"$work/why" 2>&1) || [ $? = 3 ]; then
	echo "vulncheck: database: vuln.go.dev"
	set --
elif (mkdir "$work/fetch" && cd "$work/fetch" && printf 'module fetch\n\ngo 1.26\n' >go.mod &&
	GOFLAGS=-mod=mod go mod download -json golang.org/x/vulndb@latest >"$work/vulndb" 2>&1); then
	dir=$(sed -n 's/^\t"Dir": "\(.*\)",$/\1/p' "$work/vulndb")
	echo "vulncheck: database: golang.org/x/vulndb $(sed -n 's/^\t"Version": "\(.*\)",$/\1/p' "$work/vulndb"), vuln.go.dev does not answer"
	set -- -db "file://$dir/data/osv"
else
	echo "vulncheck: NOT CHECKED: neither vuln.go.dev nor the Go proxy has a database for this machine: $(tail -n 1 "$work/why")" >&2
	exit 3
fi

code=0
"$work/govulncheck" "$@" ./cmd/xnetfrontd >"$work/found" || code=$?
case $code in
0) echo "vulncheck: nothing found" && exit 0 ;;
3) ;;
*) cat "$work/found" >&2 && exit 1 ;;
esac
# "Module: path" is in what was found in a module, "Standard library" in what is Go's.
if grep -q '^ *Module: ' "$work/found"; then
	cat "$work/found" >&2
	exit 1
fi
sed -n 's/^Vulnerability #[0-9]*: \(.*\)/vulncheck: in the standard library of this Go: \1/p; s/^ *Fixed in: \(.*\)/vulncheck:   fixed in \1/p' "$work/found"
echo "vulncheck: nothing found in a module; what is released should be built with a Go that has these fixed, this is $(go env GOVERSION)"
