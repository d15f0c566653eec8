package vifowner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/printable"
)

// Lock says that this process serves the vif with a number. It is an flock, so it ends with
// the process, however that ends.
type Lock struct {
	f     *os.File
	devid int
}

// DevID is the number of the vif.
func (l *Lock) DevID() int { return l.devid }

// Take takes the lock of a vif, which is the file vif-N.lock in dir. If another process has
// the lock, the error names that process.
func Take(dir string, devid int) (*Lock, error) {
	path := lockPath(dir, devid)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make directory for the lock: %w", err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := checkLock(f, dir); err != nil {
		return nil, errors.Join(fmt.Errorf("open lock: %w", err), f.Close())
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = fmt.Errorf("another xnetfrontd serves it: %s; stop that one first (lock %s)", findOwner(f), path)
		} else {
			err = fmt.Errorf("lock %s: %w", path, err)
		}
		return nil, errors.Join(err, f.Close())
	}
	// The text in the file is for people; the lock itself is the flock. The file stays when
	// the process ends: if it were removed, two processes could lock two files of one name.
	if err := writeOwner(f); err != nil {
		return nil, errors.Join(fmt.Errorf("write lock: %w", err), f.Close())
	}
	return &Lock{f, devid}, nil
}

// checkLock makes sure that the next process can take a lock, and that root writes into no
// other file. The directory can belong to another user, the unit's. That user could have put
// any file there under this name, and that user's daemon must be able to write into a file
// that root makes.
func checkLock(f *os.File, dir string) error {
	var file, in unix.Stat_t
	if err := errors.Join(unix.Fstat(int(f.Fd()), &file), unix.Stat(dir, &in)); err != nil {
		return err
	}
	if file.Mode&unix.S_IFMT != unix.S_IFREG || file.Nlink != 1 {
		return fmt.Errorf("%s is no plain file, or has a second name (a hard link): remove it", f.Name())
	}
	if os.Geteuid() == 0 && file.Uid != in.Uid {
		_ = f.Chown(int(in.Uid), int(in.Gid)) // fails in some user namespaces; prepare does it, too
	}
	return nil
}

// Release gives the lock up.
func (l *Lock) Release() error { return l.f.Close() }

func lockPath(dir string, devid int) string {
	return filepath.Join(dir, fmt.Sprintf("vif-%d.lock", devid))
}

// Owner tells which process has a vif's lock, without taking the lock.
func Owner(dir string, devid int) (who string, taken bool) {
	f, err := os.OpenFile(lockPath(dir, devid), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", false // no process ever made it, or this one may not know
	}
	defer f.Close()
	if unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) == nil {
		return "", false
	}
	return findOwner(f), true
}

// Await waits until no process has a vif's lock, or until ctx ends.
func Await(ctx context.Context, dir string, devid int) {
	f, err := os.OpenFile(lockPath(dir, devid), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return // no process ever made it, or this one may not know
	}
	if flock(ctx, f, unix.LOCK_SH) == nil {
		_ = f.Close()
	}
}

// lockDirectory takes a lock of a directory, and waits for it until ctx ends. If there is no
// such directory, there is nothing to lock and no error.
func lockDirectory(ctx context.Context, path string, how int) (release func(), err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return func() {}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	if err := flock(ctx, f, how); err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { _ = f.Close() }, nil
}

// flock waits for a lock until ctx ends. After an error it has closed the file, or closes it
// as soon as the kernel's wait for the lock is over: nothing else ends that wait.
func flock(ctx context.Context, f *os.File, how int) error {
	locked := make(chan error, 1)
	go func() { locked <- flockAgain(int(f.Fd()), how) }()
	select {
	case err := <-locked:
		if err != nil {
			return errors.Join(err, f.Close())
		}
		return nil
	case <-ctx.Done():
		go func() {
			<-locked
			_ = f.Close()
		}()
		return ctx.Err()
	}
}

// flockAgain is flock(2), begun again when a signal has ended the wait.
func flockAgain(fd, how int) error {
	for {
		if err := unix.Flock(fd, how); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// owner is a process that has, or had, a lock. Ticks is the start of the process as the
// kernel counts it: it tells the process from a later one with the same number.
type owner struct {
	PID     int       `json:"pid"`
	Ticks   uint64    `json:"start_ticks"`
	Command string    `json:"command"`
	Since   time.Time `json:"since"`
}

func (o owner) String() string {
	return fmt.Sprintf("pid %d (%s), since %s", o.PID, o.Command, o.Since.Format(time.DateTime+" MST"))
}

func writeOwner(f *os.File) error {
	o := owner{PID: os.Getpid(), Command: strings.Join(os.Args, " "), Since: time.Now()}
	var err error
	if o.Ticks, err = startTicks(o.PID); err != nil {
		return err
	}
	text, err := json.Marshal(o)
	if err != nil {
		return err
	}
	if _, err = f.WriteAt(append(text, '\n'), 0); err != nil {
		return err
	}
	return f.Truncate(int64(len(text)) + 1)
}

// maxOwner is how much of a lock is read. A process with a longer command line is not
// named.
const maxOwner = 64 << 10

// findOwner names the process that has a lock which is taken. A lock that was taken this
// moment can still have the last owner in its file: that process is gone, so findOwner
// reads again. It reads the file that was opened and locked: another user can own the
// directory, and could put anything under the file's name, even a FIFO without a writer.
// That user can also write anything into the file.
func findOwner(f *os.File) string {
	const tries = 10
	for range tries {
		var o owner
		// At an offset: a FIFO has none, so the read fails there and does not block.
		text, err := io.ReadAll(io.NewSectionReader(f, 0, maxOwner))
		if err == nil && json.Unmarshal(text, &o) == nil {
			if ticks, err := startTicks(o.PID); err == nil && ticks == o.Ticks {
				return printable.Line(o.String())
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	return "a process that cannot be seen from here"
}

// startTicks is the start of a process in clock ticks since the boot (field 22 of
// /proc/PID/stat, proc(5)). The name in field 2 can contain anything, even parentheses.
func startTicks(pid int) (uint64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text[strings.LastIndexByte(string(text), ')')+1:]), " ")
	const state, start = 3, 22
	fields := strings.Fields(rest)
	if len(fields) <= start-state {
		return 0, fmt.Errorf("/proc/%d/stat: %w", pid, unix.EINVAL)
	}
	return strconv.ParseUint(fields[start-state], 10, 64)
}
