package localsocket

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
)

func name() Name { return Name{What: "test socket", Setting: "--test"} }

func listen(t *testing.T, path string) *Listener {
	t.Helper()
	l, err := Listen(path, name())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() }) // some tests have closed it
	return l
}

func wantAlive(t *testing.T, path string) {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

func TestSocketIsForTheGroupAndItsDirectoryIsMade(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b", "s")
	listen(t, path)
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o660 {
		t.Errorf("%v, %v; want mode 0660", fi, err)
	}
	wantAlive(t, path)
}

func TestSocketOfADeadProcessIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	listen(t, path)
	wantAlive(t, path)
}

func TestLiveProcessIsNamedByItsPIDAndLeftAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	listen(t, path)
	_, err := Listen(path, name())
	var inUse *InUseError
	want := fmt.Sprintf("test socket %s: pid %d listens on it already; stop that one, or choose another path with --test", path, os.Getpid())
	if !errors.As(err, &inUse) || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	wantAlive(t, path)
}

func TestFileThatIsNoSocketIsLeftAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Listen(path, name())
	want := fmt.Sprintf("test socket %s: something that is not a socket has that name; remove it, or choose another path with --test", path)
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "mine" {
		t.Errorf("file is now %q, %v", b, err)
	}
}

func TestCloseRemovesItsOwnSocketAndLeavesASuccessors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l := listen(t, path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	next := listen(t, path)
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	wantAlive(t, path)
	if err := next.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after its own Close: %v", err)
	}
}
