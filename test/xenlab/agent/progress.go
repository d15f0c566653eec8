package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

type awaitTextCmd struct {
	File  string `arg:"" help:"File that others append to."`
	Text  string `arg:"" help:"What to wait for."`
	Times int    `default:"1" help:"How often it must be there."`
}

// Run waits for the file to change, not for a while: a loop in a shell would take the
// guest's CPU from the program that is to write.
func (c *awaitTextCmd) Run(ctx context.Context) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("watch %s: %w", c.File, err)
	}
	changes := os.NewFile(uintptr(fd), "inotify")
	defer changes.Close()
	if _, err := unix.InotifyAddWatch(fd, c.File, unix.IN_MODIFY); err != nil {
		return fmt.Errorf("watch %s: %w", c.File, err)
	}
	defer context.AfterFunc(ctx, func() { changes.Close() })()
	events := make([]byte, 4096)
	for {
		b, err := os.ReadFile(c.File)
		if err != nil {
			return err
		}
		n := bytes.Count(b, []byte(c.Text))
		if n >= c.Times {
			return nil
		}
		if _, err := changes.Read(events); err != nil {
			return fmt.Errorf("%s has %q %d times, wanted %d: %w", c.File, c.Text, n, c.Times, err)
		}
	}
}

// countInterval is between two looks at a counter, for which the kernel has no event.
const countInterval = 20 * time.Millisecond

type awaitFramesCmd struct {
	Interface string `arg:"" help:"Its name."`
	More      int    `arg:"" help:"How many frames it has to send from now on."`
}

func (c *awaitFramesCmd) Run(ctx context.Context) error {
	path := filepath.Join("/sys/class/net", c.Interface, "statistics/tx_packets")
	sent := func() (int, error) {
		b, err := os.ReadFile(path)
		if err != nil {
			return 0, err
		}
		return strconv.Atoi(strings.TrimSpace(string(b)))
	}
	first, err := sent()
	for now := first; err == nil && now < first+c.More; now, err = sent() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s has sent %d frames, wanted %d", c.Interface, now-first, c.More)
		case <-time.After(countInterval):
		}
	}
	return err
}
