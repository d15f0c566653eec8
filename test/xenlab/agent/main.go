// Agent is the lab's program inside its guests, one static binary: it serves the
// host's requests over a line that wire makes a session of, and is the tools that
// scenarios need there.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/alecthomas/kong"
	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/printable"
	"github.com/xnetfrontd/xnetfrontd/test/xenlab/agent/traffic"
)

// cli is the command line.
type cli struct {
	Dom0         dom0Cmd         `cmd:"" name:"dom0" help:"Serve the host over the virtio-serial port."`
	Guest        guestCmd        `cmd:"" help:"Serve the host over the console."`
	AwaitStore   awaitStoreCmd   `cmd:"" help:"Wait until a node of xenstore has one of some values."`
	AwaitCarrier awaitCarrierCmd `cmd:"" help:"Wait until an interface has a carrier, or has none."`
	AwaitText    awaitTextCmd    `cmd:"" help:"Wait until a file has a text, or has it several times."`
	AwaitFrames  awaitFramesCmd  `cmd:"" help:"Wait until an interface has sent some more frames."`
	Lie          lieCmd          `cmd:"" help:"Be a hostile backend of one vif."`
	traffic.Commands
}

func main() {
	os.Exit(execute(os.Args[1:], os.Stdout, os.Stderr))
}

// execute runs one command line and returns the exit code: 1 if it failed, 2 if it was
// called wrongly.
func execute(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	var c cli
	parser, err := kong.New(&c, kong.Name("agent"), kong.Writers(stdout, stderr),
		kong.BindTo(ctx, (*context.Context)(nil)), kong.BindTo(stdout, (*io.Writer)(nil)))
	if err != nil {
		fmt.Fprintln(stderr, "agent:", err)
		return 1
	}
	command, err := parser.Parse(args)
	if err != nil {
		fmt.Fprintln(stderr, "agent:", err)
		return 2
	}
	if err := command.Run(); err != nil {
		fmt.Fprintln(stderr, "agent:", printable.Error(err))
		return 1
	}
	return 0
}
