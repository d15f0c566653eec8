package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// vifLock says that this process serves a vif. It ends with the process, however
// that ends.
type vifLock struct{ f *os.File }

// lockVif takes the lock of a vif, which is the file vif-N.lock in dir. When it is
// taken, the error names the process that has it.
func lockVif(dir string, devid int) (*vifLock, error) {
	path := lockPath(dir, devid)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make directory for the lock: %w", err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = fmt.Errorf("another xnetfrontd, pid %s, serves it (lock %s); stop that one first", readOwner(path), path)
		} else {
			err = fmt.Errorf("lock %s: %w", path, err)
		}
		return nil, errors.Join(err, f.Close())
	}
	// The number is for people; the lock itself is the flock. The file stays when the
	// process ends: removing it would let two processes lock two files of one name.
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("write lock: %w", err), f.Close())
	}
	return &vifLock{f}, nil
}

func readOwner(path string) string {
	b, err := os.ReadFile(path)
	if pid := strings.TrimSpace(string(b)); err == nil && pid != "" {
		return pid
	}
	return "unknown"
}

func (l *vifLock) release() error { return l.f.Close() }

func lockPath(dir string, devid int) string {
	return filepath.Join(dir, fmt.Sprintf("vif-%d.lock", devid))
}

// lockOwner says which process has a vif's lock, without taking it.
func lockOwner(dir string, devid int) (pid string, taken bool) {
	f, err := os.Open(lockPath(dir, devid))
	if err != nil {
		return "", false // nobody ever made it, or it cannot be known
	}
	defer f.Close()
	if unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) == nil {
		return "", false
	}
	return readOwner(f.Name()), true
}
