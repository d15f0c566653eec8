# Sourced by each script: a temporary folder to work in, and the one line at the end.
set -eu
name="$(basename "$0" .sh)"
folder="$(mktemp -d)"
trap 'chmod -R u+w "$folder"; rm -rf "$folder"' EXIT
cd "$folder"

# cannot WHY: the script cannot run here.
cannot() {
	echo "$name: cannot run here: $1"
	exit 2
}

# build makes the Go program that is in the folder, as ./program. Its go.mod and go.sum pin
# all that it is made of.
build() {
	command -v go >/dev/null || cannot "Go is not installed"
	GOFLAGS=-mod=readonly go build -o program . >log 2>&1 || cannot "$(tail -n 1 log)"
}

# expect TEXT WHAT COMMAND...: the output of the command is still TEXT, which shows WHAT.
expect() {
	want="$1" what="$2"
	shift 2
	seen="$("$@" 2>&1)" || true
	if [ "$seen" != "$want" ]; then
		printf '%s: CHANGED: it was seen that %s\n--- seen then:\n%s\n--- seen now:\n%s\n' "$name" "$what" "$want" "$seen"
		exit 1
	fi
	echo "$name: $what"
}
