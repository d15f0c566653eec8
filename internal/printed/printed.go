// Package printed runs an example within a test that gives it what it needs, such as root and
// a network namespace. It is for tests only.
package printed

import (
	"io"
	"os"
	"testing"
)

// Check checks what an example prints on standard output.
func Check(t testing.TB, example func(), want string) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	stdout := os.Stdout
	os.Stdout = w
	example()
	os.Stdout = stdout
	w.Close()
	got, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("it printed\n%swant\n%s", got, want)
	}
}
