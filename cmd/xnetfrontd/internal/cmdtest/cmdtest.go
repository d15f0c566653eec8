// Package cmdtest has what the tests of several commands write and check alike.
package cmdtest

import (
	"os"
	"strings"
	"testing"
	"unicode"
)

// WriteFile writes a file for a test, and returns its path.
func WriteFile(t testing.TB, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// WantError checks the text of an error.
func WantError(t testing.TB, err error, want string) {
	t.Helper()
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

// Printable tells whether a terminal shows all characters of s and does nothing else.
func Printable(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) < 0
}
