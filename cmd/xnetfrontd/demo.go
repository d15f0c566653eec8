package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/config"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/demo"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/failure"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/logging"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/machine"
)

type demoCmd struct {
	Size           byteSize `default:"1GiB" placeholder:"SIZE" help:"Bytes to copy each way, such as 64MiB (default: ${default})."`
	Queues         int      `default:"2" placeholder:"N" help:"Queue pairs (default: ${default})."`
	BackendWithout []string `placeholder:"FEATURE" help:"Features that the backend does not offer (${backend_features})."`
	Disable        []string `placeholder:"FEATURE" help:"Features that the daemon does not negotiate (as its own --disable)."`
	Keep           bool     `help:"Leave it running, and print what to try next. Ctrl-C ends it."`
	Verbose        bool     `short:"v" help:"Show what the processes log."`
}

func (c *demoCmd) Help() string {
	return `Starts an embedded Xen with a network backend and this daemon, each in a network
namespace of its own, pings and copies data from one to the other through real TAPs
and kernel stacks, and removes everything again. Needs root, or a user who may make
user namespaces and open /dev/net/tun; nothing of Xen.`
}

func (c *demoCmd) Run(s streams) error {
	if c.Size < 1 {
		return failure.Usagef("--size %d: expected at least 1 byte", c.Size)
	}
	if c.Queues < 1 || c.Queues > maxDemoQueues {
		return failure.Usagef("--queues %d: expected 1 to %d", c.Queues, maxDemoQueues)
	}
	if _, err := backendFeatures(c.BackendWithout); err != nil {
		return err
	}
	if _, err := (&configFlags{Vif: new(config.Selector), Disable: c.Disable}).load(); err != nil {
		return err
	}
	if err := machine.Local().CheckTUN(); err != nil {
		return err
	}
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	// A second Ctrl-C ends the program at once, and the processes that it started with it.
	// Other signals do not: when a parent is killed, each of its threads sends one.
	defer context.AfterFunc(ctx, func() { signal.Reset(unix.SIGINT) })()
	if os.Geteuid() != 0 {
		return c.asUser(ctx, program, s)
	}
	o := demo.Options{
		Program:  program,
		Size:     int64(c.Size),
		Queues:   c.Queues,
		Without:  c.BackendWithout,
		Disable:  c.Disable,
		Keep:     c.Keep,
		Out:      s.out,
		Terminal: s.out == io.Writer(os.Stdout) && logging.IsTerminal(os.Stdout),
		UserNS:   demo.InUserNamespace(),
	}
	if c.Verbose {
		o.Verbose = s.err
	}
	err = demo.Run(ctx, o)
	if ctx.Err() != nil && err != nil {
		return errors.New("interrupted")
	}
	return err
}

// asUser runs the same demo as root of a user namespace.
func (c *demoCmd) asUser(ctx context.Context, program string, s streams) error {
	fmt.Fprintln(s.out, "Not root: going on in a user namespace.")
	code, err := demo.RunInUserNamespace(ctx, program, os.Args[1:], s.out, s.err)
	if err != nil {
		return err
	}
	if code != 0 {
		return failure.Reported(code)
	}
	return nil
}

// byteSize is a number of bytes, with or without a unit.
type byteSize int64

// UnmarshalText implements [encoding.TextUnmarshaler].
func (b *byteSize) UnmarshalText(text []byte) error {
	number, shift := string(text), 0
	for i, unit := range []string{"KiB", "MiB", "GiB"} {
		if n, ok := strings.CutSuffix(number, unit); ok {
			number, shift = n, 10*(i+1)
		}
	}
	n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64>>shift {
		return fmt.Errorf("size %q: expected a whole number of bytes, KiB, MiB or GiB", text)
	}
	*b = byteSize(n << shift)
	return nil
}
