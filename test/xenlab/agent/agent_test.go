package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/wire"
)

// console is an agent on a pseudo-terminal, as it is on a guest's console, and the
// other end of that.
type console struct {
	t    *testing.T
	host *os.File
}

func newConsole(t *testing.T) *console {
	t.Helper()
	host, guest, err := openTerminal(wire.Terminal{Rows: 25, Columns: 80})
	if err != nil {
		t.Fatal(err)
	}
	if err := makeRaw(guest); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		wire.Serve(context.Background(), guest, newServer().handle) // it ends with the terminal
		close(done)
	}()
	t.Cleanup(func() {
		guest.Close()
		<-done
		host.Close()
	})
	return &console{t, host}
}

func TestAgentThatIsToldToEndDoesNotHoldUpAShutdown(t *testing.T) {
	host, guest, err := openTerminal(wire.Terminal{Rows: 25, Columns: 80})
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	defer guest.Close()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- (&guestCmd{Console: guest.Name()}).Run(ctx) }()
	// It answers, so it reads.
	session, err := wire.Dial(t.Context(), host, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// port is the host's end for one session.
type port struct{ *os.File }

func (c *console) dial() *yamux.Session {
	c.t.Helper()
	// A descriptor of its own, so that closing it ends this session's reading only.
	fd, err := unix.FcntlInt(c.host.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(c.t.Context(), 30*time.Second)
	defer cancel()
	s, err := wire.Dial(ctx, port{os.NewFile(uintptr(fd), "console")}, io.Discard)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { s.Close() })
	return s
}

// request opens a stream and sends a request.
func request(t *testing.T, s *yamux.Session, r wire.Request) (*yamux.Stream, *wire.Messages) {
	t.Helper()
	c, err := s.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	m := wire.NewMessages(c)
	if err := wire.SendJSON(m, wire.KindRequest, r); err != nil {
		t.Fatal(err)
	}
	return c, m
}

// outcome is what a command did.
type outcome struct {
	stdout, stderr string
	exited         wire.Exited
}

// finish takes messages until the command has ended.
func finish(t *testing.T, m *wire.Messages) (o outcome) {
	t.Helper()
	for {
		k, b, err := m.Receive()
		if err != nil {
			t.Fatal(err)
		}
		switch k {
		case wire.KindStdout:
			o.stdout += string(b)
		case wire.KindStderr:
			o.stderr += string(b)
		case wire.KindExited:
			if o.exited, err = wire.Decode[wire.Exited](b); err != nil {
				t.Fatal(err)
			}
			return o
		}
	}
}

func shell(script string) *wire.Exec { return &wire.Exec{Argv: []string{"/bin/sh", "-c", script}} }

func TestOutputAndExitCodeArrive(t *testing.T) {
	_, m := request(t, newConsole(t).dial(), wire.Request{Exec: shell("echo out; echo bad >&2; exit 3")})
	if o := finish(t, m); o.stdout != "out\n" || o.stderr != "bad\n" || o.exited != (wire.Exited{Code: 3}) {
		t.Errorf("got %+v", o)
	}
}

func TestACommandsStartIsToldBeforeItsOutput(t *testing.T) {
	s := newConsole(t).dial()
	var all []*wire.Messages
	for range 50 { // at once: those that start are late then
		_, m := request(t, s, wire.Request{Exec: shell("echo out")})
		all = append(all, m)
	}
	for _, m := range all {
		if _, err := wire.ReceiveJSON[wire.Started](m, wire.KindStarted); err != nil {
			t.Fatal(err)
		}
		if o := finish(t, m); o.stdout != "out\n" {
			t.Errorf("got %+v", o)
		}
	}
}

func TestASignalIsNamed(t *testing.T) {
	_, m := request(t, newConsole(t).dial(), wire.Request{Exec: shell("kill -9 $$")})
	if o := finish(t, m); o.exited != (wire.Exited{Code: -1, Signal: "SIGKILL"}) {
		t.Errorf("ended with %+v", o.exited)
	}
}

func TestEveryByteOfInputComesBack(t *testing.T) {
	_, m := request(t, newConsole(t).dial(), wire.Request{Exec: &wire.Exec{Argv: []string{"cat"}}})
	var want []byte
	for i := range 200_000 {
		want = append(want, byte(i), byte(i>>8))
	}
	go func() {
		for part := want; len(part) > 0; part = part[min(len(part), piece):] {
			m.Send(wire.KindStdin, part[:min(len(part), piece)])
		}
		m.Send(wire.KindStdinEnd, nil)
	}()
	if o := finish(t, m); o.stdout != string(want) {
		t.Errorf("%d bytes came back that are not the %d that were sent", len(o.stdout), len(want))
	}
}

func TestASignalReachesTheWholeGroup(t *testing.T) {
	_, m := request(t, newConsole(t).dial(), wire.Request{Exec: shell("trap 'exit 7' TERM; echo up; sleep 1000 & wait")})
	for {
		k, _, err := m.Receive()
		if err != nil {
			t.Fatal(err)
		}
		if k == wire.KindStdout {
			break
		}
	}
	if err := wire.SendJSON(m, wire.KindSignal, wire.Signal{Number: int(unix.SIGTERM)}); err != nil {
		t.Fatal(err)
	}
	if o := finish(t, m); o.exited.Code != 7 {
		t.Errorf("ended with %+v, want code 7", o.exited)
	}
}

// alive is whether a process runs.
func alive(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	return !bytes.Contains(b, []byte(") Z "))
}

func TestACommandEndsWithItsStream(t *testing.T) {
	c, m := request(t, newConsole(t).dial(), wire.Request{Exec: shell("sleep 1000 & echo $!; wait")})
	var pid int
	for pid == 0 {
		k, b, err := m.Receive()
		if err != nil {
			t.Fatal(err)
		}
		if k == wire.KindStdout {
			pid, _ = strconv.Atoi(strings.TrimSpace(string(b)))
		}
	}
	c.Close()
	finish(t, m) // comes when the command has ended
	for range 1000 {
		if !alive(pid) {
			return
		}
		time.Sleep(10 * time.Millisecond) // nobody tells when a grandchild has ended
	}
	t.Errorf("process %d, a child of the command, is still there", pid)
}

func TestADetachedCommandOutlivesASessionAndCanBeWaitedForInTheNext(t *testing.T) {
	console, dir := newConsole(t), t.TempDir()
	log, gate := filepath.Join(dir, "log"), filepath.Join(dir, "gate")
	if err := unix.Mkfifo(gate, 0o600); err != nil {
		t.Fatal(err)
	}
	before := console.dial()
	e := shell("echo begun; read x < " + gate + "; exit 4")
	e.Detached = log
	_, m := request(t, before, wire.Request{Exec: e})
	started, err := wire.ReceiveJSON[wire.Started](m, wire.KindStarted)
	if err != nil {
		t.Fatal(err)
	}
	before.Close()
	after := console.dial()
	if err := os.WriteFile(gate, []byte("go\n"), 0); err != nil {
		t.Fatal(err)
	}
	_, m = request(t, after, wire.Request{Wait: started.Pid})
	if o := finish(t, m); o.exited.Code != 4 {
		t.Errorf("ended with %+v, want code 4", o.exited)
	}
	if b, err := os.ReadFile(log); err != nil || string(b) != "begun\n" {
		t.Errorf("log %q, %v", b, err)
	}
}

// TestMain is also the command that TestReadinessIsReported starts.
func TestMain(m *testing.M) {
	if os.Getenv("AGENT_TEST_READY") == "" {
		os.Exit(m.Run())
	}
	c, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET"))
	if err == nil {
		_, err = c.Write([]byte("STATUS=here\nREADY=1"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func TestReadinessIsReported(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// The shell stays until the word has come: with the command's end its socket goes.
	e := shell(self + "; read x")
	e.Env, e.Notify = []string{"AGENT_TEST_READY=1"}, true
	_, m := request(t, newConsole(t).dial(), wire.Request{Exec: e})
	for {
		k, _, err := m.Receive()
		if err != nil {
			t.Fatal(err)
		}
		if k == wire.KindReady {
			break
		}
	}
	if err := m.Send(wire.KindStdin, []byte("\n")); err != nil {
		t.Fatal(err)
	}
	if o := finish(t, m); o.exited.Code != 0 {
		t.Errorf("got %+v", o)
	}
}

func TestATerminalIsOne(t *testing.T) {
	e := shell("test -t 0 && stty size")
	e.Terminal = &wire.Terminal{Rows: 33, Columns: 99}
	_, m := request(t, newConsole(t).dial(), wire.Request{Exec: e})
	if o := finish(t, m); o.exited.Code != 0 || strings.TrimSpace(o.stdout) != "33 99" {
		t.Errorf("got %+v", o)
	}
}

func TestAFileIsWrittenWholeAndReadBack(t *testing.T) {
	s := newConsole(t).dial()
	path := filepath.Join(t.TempDir(), "new", "file")
	want := bytes.Repeat([]byte("0123456789abcde\x0f"), 10_000)
	_, m := request(t, s, wire.Request{Write: &wire.Write{Path: path, Mode: 0o750}})
	for part := want; len(part) > 0; part = part[min(len(part), piece):] {
		if err := m.Send(wire.KindData, part[:min(len(part), piece)]); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Send(wire.KindEnd, nil); err != nil {
		t.Fatal(err)
	}
	if k, _, err := m.Receive(); err != nil || k != wire.KindEnd {
		t.Fatalf("kind %d, %v", k, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o750 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	_, m = request(t, s, wire.Request{Read: path})
	var got []byte
	for {
		k, b, err := m.Receive()
		if err != nil {
			t.Fatal(err)
		}
		if k == wire.KindEnd {
			break
		}
		got = append(got, b...)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%d bytes came back that are not the %d that were written", len(got), len(want))
	}
}

func TestWhatCannotBeDoneIsAnErrorWithItsReason(t *testing.T) {
	s := newConsole(t).dial()
	for want, r := range map[string]wire.Request{
		"no such file":          {Read: "/no/such/file"},
		"executable file not":   {Exec: &wire.Exec{Argv: []string{"no-such-command"}}},
		"no detached command":   {Wait: 1 << 30},
		"an empty request":      {},
		"a command with no":     {Exec: &wire.Exec{}},
		"open /no/such/console": {Relay: "/no/such/console"},
	} {
		_, m := request(t, s, r)
		if _, _, err := m.Receive(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}
