package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/needs"
)

func TestLockThatRootMakesIsOneThatTheDirectorysUserCanTake(t *testing.T) {
	needs.Root(t)
	const uid, gid = 65534, 65533
	dir := t.TempDir()
	if err := os.Chown(dir, uid, gid); err != nil {
		t.Fatal(err)
	}
	lock, err := lockVif(dir, 3)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.release()
	var st unix.Stat_t
	if err := unix.Stat(lockPath(dir, 3), &st); err != nil || st.Uid != uid || st.Gid != gid {
		t.Errorf("it belongs to %d:%d, want %d:%d: %v", st.Uid, st.Gid, uid, gid, err)
	}
}

func TestLockThatIsAnotherFileIsNotWrittenTo(t *testing.T) {
	for name, link := range map[string]func(old, new string) error{"symbolic link": os.Symlink, "hard link": os.Link} {
		dir := t.TempDir()
		secret := writeFile(t, filepath.Join(dir, "secret"), "keep")
		if err := link(secret, lockPath(dir, 0)); err != nil {
			t.Fatal(err)
		}
		if lock, err := lockVif(dir, 0); err == nil {
			t.Errorf("a %s was taken for a lock: %v", name, errors.Join(lock.release()))
		}
		if _, taken := lockOwner(dir, 0); taken {
			t.Errorf("a %s is somebody's lock", name)
		}
		if text, err := os.ReadFile(secret); err != nil || string(text) != "keep" {
			t.Errorf("behind the %s is %q, %v", name, text, err)
		}
	}
}
