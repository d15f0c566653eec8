package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"time"
)

// captureFiles are the options for a capture in several files, as tcpdump has them.
type captureFiles struct {
	FileSize int           `name:"file-size" short:"C" placeholder:"MB" help:"Go on in another file before one is larger than so many million bytes: FILE, FILE1, FILE2 and so on."`
	FileTime time.Duration `name:"file-time" short:"G" placeholder:"TIME" help:"Go on in another file after that time, like 10m."`
	Files    int           `name:"files" short:"W" placeholder:"N" help:"With -C or -G: so many files, FILE0 and so on, and then over the first one again."`
}

// maxFiles is how many files there can be: enough for a year of them by the minute.
const maxFiles = 1000000

func (c *captureFiles) several() bool { return c.FileSize != 0 || c.FileTime != 0 }

// check says what is wrong with the options for a capture to path.
func (c *captureFiles) check(path string) error {
	switch {
	case c.FileSize < 0:
		return usagef("-C %d: expected a whole number of million bytes", c.FileSize)
	case c.FileTime < 0 || c.FileTime != 0 && c.FileTime < time.Second:
		return usagef("-G %v: expected a second or more", c.FileTime)
	case c.Files < 0 || c.Files > maxFiles:
		return usagef("-W %d: expected 1 to %d files", c.Files, maxFiles)
	case c.Files != 0 && !c.several():
		return usagef("-W %d: how many files needs -C, how large they get, or -G, how long they go on", c.Files)
	case c.several() && path == "-":
		return usagef("-w -: the standard output is one file: -C and -G need a name")
	}
	return nil
}

// name is that of the n-th file of a capture to path.
func (c *captureFiles) name(path string, n int) string {
	switch {
	case c.Files != 0:
		return fmt.Sprintf("%s%0*d", path, len(strconv.Itoa(c.Files-1)), n%c.Files)
	case n == 0:
		return path
	}
	return path + strconv.Itoa(n)
}

// opener opens one file after the other.
func (c *captureFiles) opener(path string) func() (io.WriteCloser, error) {
	n := 0
	return func() (io.WriteCloser, error) {
		f, err := openCapture(c.name(path, n))
		n++
		return f, err
	}
}

// openCapture makes a file, which only its owner may read if it is new.
func openCapture(path string) (io.WriteCloser, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("-w: %w", err)
	}
	return f, nil
}
