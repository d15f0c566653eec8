package prepare

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/failure"
)

// accessGroup gives a group read and write access to the devices of Xen.
func (p *preparer) accessGroup(name string) error {
	g, err := user.LookupGroup(name)
	if err != nil {
		return failure.Usagef("--group %s: no such group: make it with `groupadd --system %s`", name, name)
	}
	gid, err := strconv.Atoi(g.Gid)
	if err != nil {
		return fmt.Errorf("group %s: its number is %q", name, g.Gid)
	}
	return p.accessDevices(gid, name)
}

// accessDevices gives a group, named in the output, the devices of Xen.
func (p *preparer) accessDevices(gid int, group string) error {
	for _, name := range []string{"xenbus", "gntalloc", "evtchn"} {
		path := p.sys.Dev + "/xen/" + name
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			return &fs.PathError{Op: "stat", Path: path, Err: err}
		}
		if int(st.Gid) == gid && st.Mode&0o060 == 0o060 {
			p.say("device %s: group %s may use it", path, group)
			continue
		}
		if err := os.Chown(path, -1, gid); err != nil {
			return err
		}
		if err := os.Chmod(path, fs.FileMode(st.Mode&0o777|0o060)); err != nil {
			return err
		}
		p.say("device %s: given to group %s", path, group)
	}
	return nil
}

// accessUser lets a user run the daemon. It gives the devices to the user's group. It gives
// the user what a daemon of another user has left in the directories of sockets and locks.
func (p *preparer) accessUser(name string, dirs ...string) error {
	u, err := user.Lookup(name)
	if err != nil {
		return failure.Usagef("--user %s: no such user: make it with `useradd --system %s`", name, name)
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return fmt.Errorf("user %s: its number is %q", name, u.Uid)
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return fmt.Errorf("user %s: its group's number is %q", name, u.Gid)
	}
	errs := []error{p.accessDevices(gid, name)}
	for _, dir := range dirs {
		errs = append(errs, p.giveFiles(dir, uid, name))
	}
	return errors.Join(errs...)
}

// giveFiles gives a user the files and sockets in a directory that belong to another user.
func (p *preparer) giveFiles(dir string, uid int, name string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		given, err := giveFile(path, uid)
		if err != nil {
			errs = append(errs, fmt.Errorf("give %s to user %s: %w", path, name, err))
		} else if given {
			p.say("file %s: given to user %s", path, name)
		}
	}
	return errors.Join(errs...)
}

// giveFile changes the owner of a file or socket. The owner of the directory can have put
// something else there meanwhile, such as a link to another user's file. So giveFile looks at
// and changes one open file, and only a file without another name.
func giveFile(path string, uid int) (given bool, err error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false, err
	}
	kind := st.Mode & unix.S_IFMT
	if int(st.Uid) == uid || st.Nlink != 1 || kind != unix.S_IFREG && kind != unix.S_IFSOCK {
		return false, nil
	}
	return true, unix.Fchownat(fd, "", uid, -1, unix.AT_EMPTY_PATH)
}
