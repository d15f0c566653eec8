// Package needs leaves tests out that cannot run here. It is for tests only, and the one
// place where that is decided.
//
// A test that makes network namespaces or TAPs, or becomes another user, begins with
// [Root]. `make test-unit` runs without all of these, for whoever runs it.
package needs

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// UnitEnv is set to 1 by `make test-unit`: what needs root is left out, for root too, so
// that everybody runs the same.
const UnitEnv = "XNETFRONTD_UNIT_TESTS"

// LeftOutEnv names a file that gets a line for each test that is left out: what it needs,
// a tab, and its name.
const LeftOutEnv = "XNETFRONTD_LEFT_OUT"

// Root leaves the test out unless it runs as root.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 || os.Getenv(UnitEnv) == "1" {
		LeaveOut(t, "root")
	}
}

// Program leaves the test out unless a program is installed.
func Program(t testing.TB, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		LeaveOut(t, name)
	}
}

// LeaveOut leaves the test out, since it needs what is not here. To have what is left out
// counted, no test calls Skip itself.
func LeaveOut(t testing.TB, need string) {
	t.Helper()
	if path := os.Getenv(LeftOutEnv); path != "" {
		if err := note(path, need+"\t"+t.Name()+"\n"); err != nil {
			t.Fatal(err)
		}
	}
	t.Skipf("it needs %s", need)
}

// note appends a line. Packages are tested at the same time: one write is one line.
func note(path, line string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o666)
	if err != nil {
		return fmt.Errorf("%s: %w", LeftOutEnv, err)
	}
	if _, err := f.WriteString(line); err != nil {
		f.Close()
		return fmt.Errorf("%s: %w", LeftOutEnv, err)
	}
	return f.Close()
}
