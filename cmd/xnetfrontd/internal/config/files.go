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

// readAll reads the file at path and its drop-ins, in the order in which they count.
// Either may not be there; when neither is, the only problem is an error for which
// errors.Is(err, fs.ErrNotExist) holds, and for others it does not.
func readAll(path string) (docs []*document, problems Problems) {
	missing := add(&docs, &problems, path, anyFile)
	dropIns, err := listDropIns(Folder(path))
	if err != nil {
		problems = append(problems, err)
	}
	for _, p := range dropIns {
		if err := add(&docs, &problems, p, regularFile); err != nil {
			problems = append(problems, fmt.Errorf("read configuration: %s is gone since its folder was read: try again", plain(p)))
		}
	}
	if missing != nil && len(docs) == 0 && len(problems) == 0 {
		problems = Problems{missing}
	}
	return docs, problems
}

// add reads and parses a file. Its error is that there is none; all others are added
// to the problems.
func add(docs *[]*document, problems *Problems, path string, kind fileKind) error {
	text, err := readFile(path, kind)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("read configuration: %w", err)
	case err != nil:
		*problems = append(*problems, fmt.Errorf("read configuration: %w", err))
		return nil
	}
	*docs = append(*docs, parse(path, text))
	return nil
}

// listDropIns returns the paths of the drop-ins in a folder, by their names' bytes. A
// name that begins with a dot is an editor's.
func listDropIns(folder string) ([]string, error) {
	entries, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		if target, ok := dangling(folder); ok {
			return nil, fmt.Errorf("read configuration: %s is a link to %s, which is not there", plain(folder), plain(target))
		}
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", onOneLine(err))
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
	anyFile     fileKind = true // a pipe too, which somebody has named
)

// readFile reads a whole file. It does not wait for somebody to open a pipe.
func readFile(path string, kind fileKind) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		if target, ok := dangling(path); ok && errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s is a link to %s, which is not there", plain(path), plain(target))
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

// dangling returns where a link leads, if there is a link at path.
func dangling(path string) (target string, ok bool) {
	target, err := os.Readlink(path)
	return target, err == nil
}

// onOneLine is err with a path that a line can show.
func onOneLine(err error) error {
	var e *fs.PathError
	if errors.As(err, &e) && plain(e.Path) != e.Path {
		return &fs.PathError{Op: e.Op, Path: plain(e.Path), Err: e.Err}
	}
	return err
}
