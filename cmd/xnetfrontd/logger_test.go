package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/failure"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/journal"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/logging"
	"github.com/xnetfrontd/xnetfrontd/internal/needs"
)

// unit is a program whose standard error goes to journald, as that of a unit does. It has a
// /run of its own, with a journal's socket of this test.
type unit struct {
	t      *testing.T
	cmd    *exec.Cmd
	native *net.UnixConn // its entries to the journal's own socket
	stream *os.File      // its standard error
}

func newUnit(t *testing.T, args ...string) *unit {
	t.Helper()
	needs.Root(t)
	dir := t.TempDir()
	if err := os.Mkdir(dir+"/journal", 0o755); err != nil {
		t.Fatal(err)
	}
	native, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: dir + "/journal/socket", Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = native.Close() })
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	stream, stderr := os.NewFile(uintptr(fds[0]), "stream"), os.NewFile(uintptr(fds[1]), "stderr")
	t.Cleanup(func() { _ = stream.Close() })
	defer func() { _ = stderr.Close() }()
	var st unix.Stat_t
	if err := unix.Fstat(fds[1], &st); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	const script = `mount --make-rprivate / && mount -t tmpfs none /run && mkdir /run/systemd && mount --bind "$0" /run/systemd && exec "$@"`
	cmd := program()
	cmd.Path, cmd.Args = "/bin/sh", append([]string{"sh", "-c", script, dir, self}, args...)
	cmd.Env = append(cmd.Env, fmt.Sprintf("JOURNAL_STREAM=%d:%d", st.Dev, st.Ino))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	cmd.Stderr = stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return &unit{t, cmd, native, stream}
}

// entry returns the next entry.
func (u *unit) entry() string {
	u.t.Helper()
	if err := u.native.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		u.t.Fatal(err)
	}
	buf := make([]byte, 1<<16)
	n, err := u.native.Read(buf)
	if err != nil {
		_ = u.cmd.Process.Kill()
		u.t.Fatalf("no entry came: %v", err)
	}
	return string(buf[:n])
}

// wants ends the test unless the next entry has these lines.
func (u *unit) wants(lines ...string) {
	u.t.Helper()
	got := u.entry()
	for _, l := range lines {
		if !strings.Contains("\n"+got, "\n"+l+"\n") {
			u.t.Errorf("the entry has no %q:\n%s", l, got)
		}
	}
}

// end waits for the end of the program, and wants nothing on its standard error.
func (u *unit) end(code int) {
	u.t.Helper()
	_ = u.cmd.Wait()
	if got := u.cmd.ProcessState.ExitCode(); got != code {
		u.t.Errorf("exit code %d, want %d", got, code)
	}
	buf := make([]byte, 4096)
	if n, _ := u.stream.Read(buf); n > 0 {
		u.t.Errorf("on standard error: %s", buf[:n])
	}
}

func TestAFailureOfAUnitIsInTheJournalAsAnError(t *testing.T) {
	u := newUnit(t, "hold", "--linger=-1s")
	u.wants("MESSAGE=--linger -1s: expected 0 or more (exit code 2)", "PRIORITY=3", "SYSLOG_IDENTIFIER=xnetfrontd",
		"MESSAGE_ID="+logging.EventFailed, "XNF_EXIT_CODE=2")
	u.end(failure.ExitUsage)
}

func TestAUnitLogsToTheJournal(t *testing.T) {
	u := newUnit(t, "hold", "--linger=1ms", "--allow-user=nobody-of-that-name", "--socket", filepath.Join(t.TempDir(), "hold.sock"))
	u.wants("PRIORITY=4", "XNF_USERS=nobody-of-that-name")
	u.end(0)
}

func TestWithoutAJournalTheLogIsOnStandardError(t *testing.T) {
	if _, err := os.Stat(journal.DefaultSocket); err == nil {
		needs.LeaveOut(t, "a machine without a journal")
	}
	o := runProgram(t, program("run", "--vif", "0", "--xen", filepath.Join(t.TempDir(), "none"), "--log-format", "journal"))
	first, rest, _ := strings.Cut(o.errOut, "\n")
	if !strings.Contains(first, `"message_id":"`+logging.EventNoJournal+`"`) || !strings.HasPrefix(rest, "xnetfrontd: ") || o.code != failure.ExitRuntime {
		t.Errorf("exit code %d, stderr: %s", o.code, o.errOut)
	}
}
