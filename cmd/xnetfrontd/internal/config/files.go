package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// maxFile is how large a file may be. A table for each of 1000 vifs is a quarter of it.
const maxFile = 256 << 10

// Folder is where the drop-ins of the file at path are.
func Folder(path string) string { return path + ".d" }

// reading is the files that were read, and the problems with the others.
type reading struct {
	docs     []*document // a later one goes before an earlier one
	problems Problems
}

// readAll reads the file at path and its drop-ins. The file or the drop-ins may be missing. If
// both are, the only problem is one for which errors.Is(err, fs.ErrNotExist) holds; it holds
// for no other problem.
func readAll(path string) reading {
	var r reading
	missing := r.file(path, anyFile)
	dropIns, err := listDropIns(Folder(path))
	if err != nil {
		r.problems = append(r.problems, fmt.Errorf("read configuration: %w", err))
	}
	for _, p := range dropIns {
		r.dropIn(p)
	}
	if missing != nil && len(r.docs) == 0 && len(r.problems) == 0 {
		r.problems = Problems{fmt.Errorf("read configuration: %w", missing)}
	}
	return r
}

// dropIn reads a file that the folder listed a moment ago.
func (r *reading) dropIn(path string) {
	if r.file(path, regularFile) != nil {
		r.problems = append(r.problems, fmt.Errorf("read configuration: %s is gone since its folder was read: try again", plain(path)))
	}
}

// file reads and parses a file. It returns an error only if there is no file, and adds every
// other error to the problems.
func (r *reading) file(path string, kind fileKind) error {
	text, err := readFile(path, kind)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return err
	case err != nil:
		r.problems = append(r.problems, fmt.Errorf("read configuration: %w", err))
	default:
		r.docs = append(r.docs, parse(path, text))
	}
	return nil
}

// listDropIns returns the paths of the drop-ins in a folder, in the order of their names'
// bytes. It leaves out names that begin with a dot: editors make such files.
func listDropIns(folder string) ([]string, error) {
	entries, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, dangling(folder)
	}
	if errors.Is(err, syscall.ENOTDIR) {
		return nil, fmt.Errorf("%s is no folder: expected one with drop-ins", plain(folder))
	}
	if err != nil {
		return nil, onOneLine(err)
	}
	var paths []string
	for _, e := range entries {
		if name := e.Name(); strings.HasSuffix(name, ".toml") && !strings.HasPrefix(name, ".") {
			paths = append(paths, filepath.Join(folder, name))
		}
	}
	return paths, nil
}

// fileKind is what a file may be.
type fileKind bool

const (
	regularFile fileKind = false
	anyFile     fileKind = true // a pipe, too: the user has named it
)

// readFile reads a whole file. It does not wait for a writer of a pipe.
func readFile(path string, kind fileKind) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) && dangling(path) != nil {
			err = dangling(path)
		}
		return nil, onOneLine(err)
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, onOneLine(err)
	case info.IsDir():
		return nil, fmt.Errorf("%s is a folder: expected a file", plain(path))
	case kind == regularFile && !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is a device or a pipe: expected a file", plain(path))
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, onOneLine(err)
	}
	if len(text) > maxFile {
		return nil, fmt.Errorf("%s is larger than 256 KiB: expected a few lines of TOML", plain(path))
	}
	return text, nil
}

// dangling returns where the link at path leads, if path is a link to nothing.
func dangling(path string) error {
	target, err := os.Readlink(path)
	if err != nil {
		return nil
	}
	return fmt.Errorf("%s is a link to %s, which is not there", plain(path), plain(target))
}

// onOneLine is err with its path made fit for one line.
func onOneLine(err error) error {
	var e *fs.PathError
	if errors.As(err, &e) && plain(e.Path) != e.Path {
		return &fs.PathError{Op: e.Op, Path: plain(e.Path), Err: e.Err}
	}
	return err
}
