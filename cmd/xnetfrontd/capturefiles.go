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
	FileSize amount `name:"file-size" short:"C" placeholder:"MB" help:"Go on in another file before one is larger than so many million bytes: FILE, FILE1, FILE2 and so on."`
	FileTime span   `name:"file-time" short:"G" placeholder:"TIME" help:"Go on in another file after that time: seconds, or like 10m."`
	Files    amount `name:"files" short:"W" placeholder:"N" help:"With -C or -G: so many files, FILE0 and so on, and then over the first one again."`
}

// amount is a number of an option, 0 if the option is not given. The largest is enough for files
// of a year by the minute, and for one of a terabyte.
type amount int

const maxAmount = 1000000

// UnmarshalText reads a whole number.
func (a *amount) UnmarshalText(text []byte) error {
	n, err := strconv.Atoi(string(text))
	if err != nil || n < 1 || n > maxAmount {
		return fmt.Errorf("%q: expected a whole number from 1 to %d", text, maxAmount)
	}
	*a = amount(n)
	return nil
}

// span is a time of an option, 0 if the option is not given.
type span time.Duration

const maxSpan = 10 * 365 * 24 * time.Hour

// UnmarshalText reads seconds, as tcpdump's options have them, or what time.ParseDuration reads.
func (s *span) UnmarshalText(text []byte) error {
	d, err := time.ParseDuration(string(text))
	if n, nerr := strconv.ParseUint(string(text), 10, 32); nerr == nil {
		d, err = time.Duration(n)*time.Second, nil
	}
	if err != nil || d < time.Second || d > maxSpan {
		return fmt.Errorf("%q: expected a second or more, such as 90 or 10m", text)
	}
	*s = span(d)
	return nil
}

func (c *captureFiles) several() bool { return c.FileSize != 0 || c.FileTime != 0 }

// check says what is wrong with the options for a capture to path.
func (c *captureFiles) check(path string) error {
	switch {
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
		return fmt.Sprintf("%s%0*d", path, len(strconv.Itoa(int(c.Files)-1)), n%int(c.Files))
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
