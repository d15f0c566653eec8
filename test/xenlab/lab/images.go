package lab

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// CacheDir is where images and the logs of runs are kept:
// ${XNETFRONTD_CACHE:-${XDG_CACHE_HOME:-~/.cache}/xnetfrontd}/xenlab.
func CacheDir() (string, error) {
	if dir := os.Getenv("XNETFRONTD_CACHE"); dir != "" {
		dir, err := filepath.Abs(dir)
		return filepath.Join(dir, "xenlab"), err
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache folder: %w: set XNETFRONTD_CACHE", err)
	}
	return filepath.Join(dir, "xnetfrontd", "xenlab"), nil
}

// ImagesDir is where the images belong that source, the folder with their build.sh,
// makes of these parts: a folder in the cache that is named after all that is in source,
// and after them.
func ImagesDir(source string, parts Parts) (string, error) {
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	h := sha256.New()
	fmt.Fprintf(h, "dom0 %q guests %q xen %q\n", parts.Dom0, parts.Guests, parts.Xen)
	err = filepath.WalkDir(source, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || filepath.Ext(path) == ".md" {
			return err
		}
		name, err := filepath.Rel(source, path)
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%s %o %d\n", name, info.Mode().Perm()&0o100, len(b))
		h.Write(b)
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("the images' sources: %w", err)
	}
	return filepath.Join(cache, fmt.Sprintf("%x", h.Sum(nil)[:8])), nil
}

// buildSpace is what a build of the images takes, with the packages it downloads.
const buildSpace = 6 << 30

// BuildImages returns the folder with the images of source that have these parts, and
// builds them first if they are not there. What the build says goes to out.
func BuildImages(ctx context.Context, source string, parts Parts, out io.Writer) (string, error) {
	dir, err := ImagesDir(source, parts)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(dir); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return dir, err
	}
	if os.Getuid() != 0 {
		return "", errors.New("the images have to be built, which needs root: run it once with sudo")
	}
	cache := filepath.Dir(dir)
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", fmt.Errorf("make the cache folder: %w", err)
	}
	if err := needSpace(cache, buildSpace); err != nil {
		return "", err
	}
	fmt.Fprintf(out, "building the images, once, in %s: Xen %s, dom0 has kernel %s, guests have %s\n", dir, parts.Xen, parts.Dom0, parts.Guests)
	cmd := exec.CommandContext(ctx, filepath.Join(source, "build.sh"), dir, parts.Dom0, parts.Guests, parts.Xen)
	said := &buildOutput{out: out}
	cmd.Stdout, cmd.Stderr = out, said
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) } // it cleans up
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return "", fmt.Errorf("build the images: %w", ctx.Err())
		}
		return "", fmt.Errorf("build the images: %w: %s", err, said)
	}
	return dir, nil
}

// buildOutput passes on what a build writes, and has its last line: why it failed.
type buildOutput struct {
	out  io.Writer
	line []byte
}

func (l *buildOutput) Write(p []byte) (int, error) {
	for line := range bytes.Lines(p) {
		if i := len(l.line); i > 0 && l.line[i-1] == '\n' {
			l.line = l.line[:0]
		}
		l.line = append(l.line, line...)
	}
	return l.out.Write(p)
}

func (l *buildOutput) String() string {
	return strings.TrimPrefix(strings.TrimSpace(string(l.line)), "xenlab images: ")
}

// needSpace says what is wrong if a folder's file system has less than size bytes.
func needSpace(dir string, size uint64) error {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return fmt.Errorf("look for space in %s: %w", dir, err)
	}
	if have := s.Bavail * uint64(s.Bsize); have < size {
		return fmt.Errorf("%s has %d MiB of space and %d are needed: make room, or set XNETFRONTD_CACHE to another folder", dir, have>>20, size>>20)
	}
	return nil
}
