package controlserver

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/needs"
	"github.com/xnetfrontd/xnetfrontd/pkg/control"
)

// refused checks that err is a refusal with this text.
func refused(t *testing.T, err error, reason string) {
	t.Helper()
	var r *control.RefusedError
	if !errors.As(err, &r) || r.Reason != reason {
		t.Errorf("got %v, want the reason %q", err, reason)
	}
}

func TestDumpKickAndRetryReachTheVifOrNameThoseThatThereAre(t *testing.T) {
	d := &daemon{}
	path := filepath.Join(t.TempDir(), "c.sock")
	start(t, path, d, defaultLimits())
	c := control.Client{Path: path}
	if dump, err := c.Dump(t.Context(), "0"); err != nil || dump.TAP != "xnf0" {
		t.Errorf("%+v, %v", dump, err)
	}
	if err := c.Kick(t.Context(), "0"); err != nil || d.kicks.Load() != 1 {
		t.Errorf("%v, %d kicks", err, d.kicks.Load())
	}
	if err := c.Retry(t.Context(), "0"); err != nil || d.retries.Load() != 1 {
		t.Errorf("%v, %d retries", err, d.retries.Load())
	}
	_, err := c.Dump(t.Context(), "7")
	refused(t, err, errNoVif.Error())
	refused(t, c.Retry(t.Context(), "7"), errNoVif.Error())
	refused(t, c.Kick(t.Context(), "7"), errNoVif.Error())
}

func TestReloadSaysOnOneLineWhyNothingChanged(t *testing.T) {
	d := &daemon{}
	path := filepath.Join(t.TempDir(), "c.sock")
	start(t, path, d, defaultLimits())
	c := control.Client{Path: path}
	if err := c.Reload(t.Context()); err != nil {
		t.Error(err)
	}
	d.reload = func(context.Context) error { return errors.Join(errors.New("a:1: x"), errors.New("a:2: y")) }
	refused(t, c.Reload(t.Context()), "a:1: x; a:2: y")
}

// A fault in an answer must not end the process, which carries frames.
func TestHandlerThatPanicsCostsItsRequestOnly(t *testing.T) {
	d := &daemon{
		reload:  func(context.Context) error { panic("at the disco") },
		capture: func(context.Context, io.Writer) error { panic("again") },
	}
	path := filepath.Join(t.TempDir(), "c.sock")
	start(t, path, d, defaultLimits())
	c := control.Client{Path: path}
	refused(t, c.Reload(t.Context()), "a fault of the daemon")
	_, err := c.Capture(t.Context(), control.CaptureRequest{Vif: "0"})
	refused(t, err, "a fault of the daemon")
	if want := []string{"reload: at the disco", "capture: again"}; !slices.Equal(d.panics, want) {
		t.Errorf("noted: %q, want %q", d.panics, want)
	}
	if err := c.Kick(t.Context(), "0"); err != nil {
		t.Errorf("the next request: %v", err)
	}
}

func TestHandlerThatHangsIsToldWhenTheClientWouldNotWait(t *testing.T) {
	d := &daemon{reload: func(ctx context.Context) error {
		<-ctx.Done()
		return errors.New("not applied")
	}}
	path := filepath.Join(t.TempDir(), "c.sock")
	l := defaultLimits()
	l.handler = time.Millisecond
	start(t, path, d, l)
	c := control.Client{Path: path, Timeout: time.Minute}
	refused(t, c.Reload(t.Context()), "not applied")
}

func TestCloseDoesNotWaitForAHandlerThatHeedsItsContext(t *testing.T) {
	needNumber(t)
	entered := make(chan struct{})
	d := &daemon{reload: func(ctx context.Context) error {
		close(entered)
		<-ctx.Done()
		return ctx.Err()
	}}
	path := filepath.Join(t.TempDir(), "c.sock")
	l := defaultLimits()
	l.handler = time.Hour
	s, err := newServer(path, d, l)
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, 1)
	go func() {
		c := control.Client{Path: path, Timeout: time.Hour}
		failed <- c.Reload(context.Background())
	}()
	<-entered
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	// The answer can get lost at the end of the connection.
	if err := <-failed; !errors.Is(err, control.ErrNoDaemon) {
		refused(t, err, errClosed.Error())
	}
}

// asUser calls f in a thread with another effective uid. The other end of a socket sees that
// uid.
func asUser(t *testing.T, uid int, f func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		// The raw call changes this thread alone, unlike unix.Setresuid.
		_, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0))
		if errno != 0 {
			done <- errno
			return
		}
		f()
		done <- nil
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestUserWhoMayOpenTheSocketMayReadAndNotWrite(t *testing.T) {
	needs.Root(t)
	d := &daemon{}
	dir, err := os.MkdirTemp("/tmp", "control") // only root may use t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "c.sock")
	start(t, path, d, defaultLimits())
	for _, p := range []struct {
		path string
		mode os.FileMode
	}{{dir, 0o711}, {path, 0o666}} {
		if err := os.Chmod(p.path, p.mode); err != nil {
			t.Fatal(err)
		}
	}
	asUser(t, 4242, func() {
		c := control.Client{Path: path}
		if _, err := c.Status(t.Context()); err != nil {
			t.Error(err)
		}
		if _, err := c.Dump(t.Context(), "0"); err != nil {
			t.Error(err)
		}
		refused(t, c.Kick(t.Context(), "0"), "kick: only root and the daemon's own user may do that: you are uid 4242")
		refused(t, c.Reload(t.Context()), "reload: only root and the daemon's own user may do that: you are uid 4242")
		_, err := c.Capture(t.Context(), control.CaptureRequest{Vif: "0"})
		refused(t, err, "capture: only root and the daemon's own user may do that: you are uid 4242")
		if err := os.Chmod(path, 0o660); err == nil {
			t.Error("the thread is still root")
		}
	})
	if n := d.kicks.Load(); n != 0 {
		t.Errorf("%d kicks", n)
	}
	// The thread has root's groups still.
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	asUser(t, 4242, func() {
		c := control.Client{Path: path}
		_, err := c.Status(t.Context())
		if want := "control socket " + path + ": no permission; run as root or as a member of its group"; !errors.Is(err, os.ErrPermission) || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	})
}
