package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/daemon"
)

// Variables that make a process of this test binary something else than the tests.
const (
	beProgram = "XNETFRONTD_TEST_PROGRAM" // the program
	beStuck   = "XNETFRONTD_TEST_STUCK"   // one that does not end when it is told to stop
	beRefused = "XNETFRONTD_TEST_REFUSED" // the program, refused io_uring by a seccomp filter: from the start, or refusedLater
)

func TestMain(m *testing.M) {
	switch os.Getenv(beRefused) {
	case "":
	case refusedLater:
		refuseUringLater()
	default:
		refuseUring()
	}
	switch {
	case os.Getenv(beProgram) != "":
		main()
	case os.Getenv(beStuck) != "":
		sig := daemon.CatchSignals(zap.NewNop())
		os.Stdout.WriteString("up\n")
		<-sig.Context.Done()
		os.Stdout.WriteString("stopping\n")
		select {}
	}
	os.Exit(m.Run())
}

// program is a command that runs xnetfrontd, race detector included.
func program(args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	// The race detector waits for a second at the end, which would hide how long a stop takes.
	cmd.Env = append(os.Environ(), beProgram+"=1", "GORACE=atexit_sleep_ms=0")
	return cmd
}

// outcome is how a process ended.
type outcome struct {
	code        int
	out, errOut string
}

// runProgram runs xnetfrontd to its end.
func runProgram(t *testing.T, cmd *exec.Cmd) outcome {
	t.Helper()
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return outcome{cmd.ProcessState.ExitCode(), out.String(), errOut.String()}
}

// wantError checks an exit code and the one line on stderr.
func wantError(t *testing.T, o outcome, code int, line string) {
	t.Helper()
	if o.code != code || o.errOut != "xnetfrontd: "+line+"\n" {
		t.Errorf("exit code %d, stderr:\n%swant exit code %d, stderr:\nxnetfrontd: %s", o.code, o.errOut, code, line)
	}
}

func writeFile(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestVersionNamesTheProgram(t *testing.T) {
	o := runProgram(t, program("version"))
	if o.code != 0 || !strings.HasPrefix(o.out, "xnetfrontd ") || o.errOut != "" {
		t.Errorf("%+v", o)
	}
}
