package lab

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
)

// writeCPIO writes an archive of regular files, as the kernel unpacks it: "newc", see
// Documentation/driver-api/early-userspace/buffer-format.rst. files maps paths in the
// archive to files of this machine, whose permissions they get; the folders above
// them are made. The kernel unpacks archives that lie one behind the other, each at a
// multiple of four bytes, over what is there.
func writeCPIO(w io.Writer, files map[string]string) error {
	a := &cpioWriter{to: bufio.NewWriterSize(w, 1<<20), made: map[string]bool{".": true}}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := a.add(strings.TrimPrefix(path.Clean("/"+name), "/"), files[name]); err != nil {
			return fmt.Errorf("archive %s as %s: %w", files[name], name, err)
		}
	}
	if err := a.header("TRAILER!!!", 0, 0); err != nil {
		return err
	}
	return a.to.Flush()
}

type cpioWriter struct {
	to    *bufio.Writer
	inode uint32
	made  map[string]bool // folders
}

// Types of files in a cpio's mode.
const (
	cpioFolder = 0o040000
	cpioFile   = 0o100000
)

func (a *cpioWriter) add(name, from string) (err error) {
	if err := a.folder(path.Dir(name)); err != nil {
		return err
	}
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is no regular file: %w", from, fs.ErrInvalid)
	}
	if info.Size() > 1<<32-1 {
		return fmt.Errorf("%d bytes: the format ends at 4 GiB", info.Size())
	}
	if err := a.header(name, cpioFile|uint32(info.Mode().Perm()), uint32(info.Size())); err != nil {
		return err
	}
	if _, err := io.CopyN(a.to, f, info.Size()); err != nil {
		return err
	}
	return a.pad(int(info.Size()))
}

func (a *cpioWriter) folder(name string) error {
	if a.made[name] {
		return nil
	}
	a.made[name] = true
	if err := a.folder(path.Dir(name)); err != nil {
		return err
	}
	return a.header(name, cpioFolder|0o755, 0)
}

// header writes an entry's 13 fields of 8 hexadecimal digits, and its name.
func (a *cpioWriter) header(name string, mode, size uint32) error {
	a.inode++
	links := 1
	if mode&cpioFolder != 0 && mode&cpioFile == 0 {
		links = 2
	}
	const uid, gid, mtime, devMajor, devMinor, rdevMajor, rdevMinor, check = 0, 0, 0, 0, 0, 0, 0, 0
	_, err := fmt.Fprintf(a.to, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		a.inode, mode, uid, gid, links, mtime, size, devMajor, devMinor, rdevMajor, rdevMinor, len(name)+1, check, name)
	if err != nil {
		return err
	}
	return a.pad(6 + 13*8 + len(name) + 1)
}

// pad fills up to a multiple of four what had n bytes.
func (a *cpioWriter) pad(n int) error {
	_, err := a.to.Write(make([]byte, -n&3))
	return err
}

// concatenate writes files behind each other, each padded to four bytes.
func concatenate(w io.Writer, files ...string) error {
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		n, err := io.Copy(w, f)
		if err == nil {
			_, err = w.Write(make([]byte, -n&3))
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("append %s: %w", name, err)
		}
	}
	return nil
}
