package vifowner

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/cmdtest"
	"github.com/xnetfrontd/xnetfrontd/internal/needs"
)

func TestLockThatRootMakesIsOneThatTheDirectorysUserCanTake(t *testing.T) {
	needs.Root(t)
	const uid, gid = 65534, 65533
	dir := t.TempDir()
	if err := os.Chown(dir, uid, gid); err != nil {
		t.Fatal(err)
	}
	lock, err := Take(dir, 3)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Release()
	var st unix.Stat_t
	if err := unix.Stat(lockPath(dir, 3), &st); err != nil || st.Uid != uid || st.Gid != gid {
		t.Errorf("it belongs to %d:%d, want %d:%d: %v", st.Uid, st.Gid, uid, gid, err)
	}
}

func TestLockThatIsAnotherFileIsNotWrittenTo(t *testing.T) {
	for name, link := range map[string]func(old, new string) error{"symbolic link": os.Symlink, "hard link": os.Link} {
		dir := t.TempDir()
		secret := cmdtest.WriteFile(t, filepath.Join(dir, "secret"), "keep")
		if err := link(secret, lockPath(dir, 0)); err != nil {
			t.Fatal(err)
		}
		if lock, err := Take(dir, 0); err == nil {
			t.Errorf("a %s was taken for a lock: %v", name, errors.Join(lock.Release()))
		}
		if _, taken := Owner(dir, 0); taken {
			t.Errorf("a %s is somebody's lock", name)
		}
		if text, err := os.ReadFile(secret); err != nil || string(text) != "keep" {
			t.Errorf("behind the %s is %q, %v", name, text, err)
		}
	}
}

// locked holds the flock of a file with this text, as a process that has the vif does.
func locked(t *testing.T, path, text string) {
	t.Helper()
	cmdtest.WriteFile(t, path, text)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Fatal(err)
	}
}

func TestLockThatAnotherWroteDoesNothingToATerminal(t *testing.T) {
	ticks, err := startTicks(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(owner{PID: os.Getpid(), Ticks: ticks, Command: "xnetfrontd\x1b]0;title\x07\n\u009b2Jrun"})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	locked(t, lockPath(dir, 0), string(text))
	who, taken := Owner(dir, 0)
	if !taken || !strings.Contains(who, "(xnetfrontd?]0;title?; ?2Jrun)") {
		t.Errorf("owner %q", who)
	}
	_, err = Take(dir, 0)
	if err == nil || !strings.Contains(err.Error(), "another xnetfrontd serves it: pid ") || !cmdtest.Printable(err.Error()) {
		t.Errorf("got %q", err)
	}
}

func TestLockThatIsNoPlainFileIsNotReadAndDoesNotBlock(t *testing.T) {
	fifo := func(t *testing.T, path string) {
		if err := unix.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	elsewhere := func(t *testing.T, path string) {
		target := filepath.Join(t.TempDir(), "elsewhere")
		locked(t, target, `{"pid":1}`)
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
	}
	for name, put := range map[string]func(t *testing.T, path string){"FIFO": fifo, "link": elsewhere} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := lockPath(dir, 0)
			put(t, path)
			if name == "FIFO" { // another process has its lock
				f, err := os.OpenFile(path, os.O_RDWR, 0)
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
					t.Fatal(err)
				}
			}
			done := make(chan string, 1)
			go func() {
				who, _ := Owner(dir, 0)
				_, err := Take(dir, 0)
				done <- fmt.Sprint(who, ": ", err)
			}()
			select {
			case said := <-done:
				if strings.Contains(said, "pid") || strings.HasSuffix(said, "<nil>") {
					t.Errorf("it says %q", said)
				}
			case <-time.After(20 * time.Second):
				t.Error("it waits for somebody who writes into it")
			}
		})
	}
}

// The file can be replaced between the look at its lock and the look at its owner.
func TestOwnerOfALockIsReadFromTheFileThatIsLocked(t *testing.T) {
	dir := t.TempDir()
	path := lockPath(dir, 0)
	locked(t, path, "not its owner")
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ticks, err := startTicks(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(owner{PID: os.Getpid(), Ticks: ticks, Command: "another"})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	cmdtest.WriteFile(t, path, string(text))
	if who := findOwner(f); strings.Contains(who, "another") {
		t.Errorf("owner %q, which another file says", who)
	}
}
