// Xnetfrontd is the Xen network frontend as a Linux daemon: it carries frames
// between a vif's shared rings and a TAP. This program is its command line; the
// protocol is in pkg/netfront.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/config"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/failure"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/framefilter"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/logging"
	"github.com/xnetfrontd/xnetfrontd/internal/hold"
	"github.com/xnetfrontd/xnetfrontd/internal/printable"
)

// cli is the command line.
type cli struct {
	Run         runCmd         `cmd:"" help:"Serve vifs until SIGTERM or SIGINT."`
	Check       checkCmd       `cmd:"" help:"Tell what run would do, and what would keep it from that. Changes nothing."`
	Status      statusCmd      `cmd:"" help:"Show the state of the vifs that a running daemon serves: backend, features, queues, grants."`
	Top         topCmd         `cmd:"" help:"Show live what each queue carries and loses."`
	Dump        dumpCmd        `cmd:"" help:"Show the rings of a vif: indices, events, what is in flight."`
	Capture     captureCmd     `cmd:"" help:"Capture the frames that cross the rings of a vif, for Wireshark and tcpdump."`
	Kick        kickCmd        `cmd:"" help:"Wake a vif's backend and the daemon, in case an event was lost."`
	Retry       retryCmd       `cmd:"" help:"Connect a vif again that is off, and forget what its backend has done."`
	Reload      reloadCmd      `cmd:"" help:"Make a running daemon read its configuration again."`
	Prepare     prepareCmd     `cmd:"" help:"Do what needs privileges before run: load modules, raise the limit of granted pages, take vifs from the kernel's driver."`
	Release     releaseCmd     `cmd:"" help:"Give a vif back to the kernel's driver."`
	Config      configCmd      `cmd:"" help:"Check the configuration, or show it and where it comes from."`
	AdoptCheck  adoptCheckCmd  `cmd:"" name:"adopt-check" help:"Tell whether a restart with this program loses nothing. Changes nothing."`
	Hold        holdCmd        `cmd:"" help:"Keep the daemon's file descriptors over its restarts. systemd or run starts it."`
	Demo        demoCmd        `cmd:"" help:"Demonstrate it on this machine: an embedded Xen, two network namespaces, no Xen needed."`
	Version     versionCmd     `cmd:"" help:"Print the version."`
	Attribute   attributeCmd   `cmd:"" name:"store-attribute" hidden:"" help:"Write an attribute of sysfs."`
	EmbeddedXen embeddedXenCmd `cmd:"" hidden:"" help:"Run the embedded Xen: xenstored, hypercalls, toolstack and netback."`
}

// streams are the outputs of a command.
type streams struct {
	out io.Writer
	err io.Writer
}

func main() {
	os.Exit(execute(os.Args[1:], streams{out: os.Stdout, err: os.Stderr}))
}

// execute runs one command line and returns the exit code. An error is one line on
// s.err.
func execute(args []string, s streams) int {
	parser, err := newParser(s)
	if err != nil {
		return report(s.err, err)
	}
	if askedToComplete() {
		return report(s.err, completions(parser, s.out))
	}
	ctx, err := parser.Parse(args)
	if err != nil {
		return report(s.err, failure.Usagef("%w; see xnetfrontd --help", err))
	}
	return report(s.err, ctx.Run(s))
}

// newParser returns the parser of a command line.
func newParser(s streams) (*kong.Kong, error) {
	return kong.New(new(cli),
		kong.Name("xnetfrontd"),
		kong.Description("The Xen network frontend as a Linux daemon: it carries frames between a vif of this guest and a TAP. In a Xen guest, begin with check; without one, with demo."),
		kong.Writers(s.out, s.err),
		kong.Vars{
			"control":          config.DefaultControl,
			"hold_socket":      hold.DefaultSocket,
			"backend_features": strings.Join(backendFeatureNames(), ", "),
			"protos":           strings.Join(framefilter.Protos(), ", "),
		},
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
	)
}

// report writes err as one line, or several errors as one each, and returns the exit code. If
// w is the journal's stream, the lines become entries of the journal.
func report(w io.Writer, err error) int {
	var reported failure.Reported
	code := failure.Code(err)
	if err == nil || errors.As(err, &reported) {
		return code
	}
	var lines failure.Several
	lines.Add(err)
	for _, err := range lines {
		if !logging.NoteFailure(w, err, code) {
			fmt.Fprintf(w, "xnetfrontd: %s\n", printable.Error(err))
		}
	}
	return code
}

// version is set by the linker (-X main.version=...).
var version = "unknown"

type versionCmd struct{}

func (versionCmd) Run(s streams) error {
	_, err := fmt.Fprintf(s.out, "xnetfrontd %s (%s, %s/%s)\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}
