package netspace

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/needs"
)

func newSpace(t *testing.T) *Space {
	t.Helper()
	needs.Root(t)
	s, err := New()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSocketsAndProcessesAreInTheNamespace(t *testing.T) {
	s := newSpace(t)
	defer s.Close()
	here, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("readlink", "/proc/self/ns/net")
	var out strings.Builder
	cmd.Stdout = &out
	if err := errors.Join(s.Start(cmd), cmd.Wait()); err != nil {
		t.Fatal(err)
	}
	if there := strings.TrimSpace(out.String()); there == here || there == "" {
		t.Errorf("a process started in the namespace is in %q, this test in %q", there, here)
	}
	var ln net.Listener
	err = s.Do(func() (err error) { ln, err = net.Listen("tcp", "127.0.0.1:0"); return err })
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if c, err := net.Dial("tcp", ln.Addr().String()); err == nil {
		c.Close()
		t.Error("a listener in the namespace is reached from outside")
	}
}

func TestNamespaceIsNotThatOfTheMainThread(t *testing.T) {
	before, err := os.Readlink("/proc/self/ns/net") // the main thread's
	if err != nil {
		t.Fatal(err)
	}
	for range 20 { // whichever threads they get
		s := newSpace(t)
		defer s.Close()
		if now, err := os.Readlink("/proc/self/ns/net"); err != nil || now != before {
			t.Fatalf("the process went from %s to %s, %v", before, now, err)
		}
	}
}

func TestCloseKillsWhatWasStarted(t *testing.T) {
	s := newSpace(t)
	cmd := exec.Command("sleep", "1000")
	if err := s.Start(cmd); err != nil {
		t.Fatal(err)
	}
	s.Close()
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != unix.SIGKILL {
		t.Errorf("process ended with %v, want SIGKILL", err)
	}
}
