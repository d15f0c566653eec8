// Xenlab is the program behind make test-xen, make bench-xen and make xen-shell: it
// boots a real Xen under QEMU and proves in it what the daemon promises.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/lab"
	"github.com/xnetfrontd/xnetfrontd/test/xenlab/scenario"
)

// Exit codes.
const (
	exitFailed = 1 // a scenario failed, or the lab could not be had
	exitUsage  = 2
)

// cli is the command line.
type cli struct {
	Test   testCmd   `cmd:"" help:"Run the scenarios."`
	Matrix matrixCmd `cmd:"" help:"Run some scenarios on each ground of a table, and print a grid."`
	Bench  benchCmd  `cmd:"" help:"Compare with the kernel's xen-netfront."`
	Shell  shellCmd  `cmd:"" help:"Give a prompt in dom0, and in a domU with the daemon."`
	Images imagesCmd `cmd:"" help:"Build the images if they are not there, and print their folder."`
	List   listCmd   `cmd:"" help:"Print the scenarios and what each proves."`

	Source string `default:"." type:"existingdir" help:"Root of the sources."`
}

// env is what a command has.
type env struct {
	ctx    context.Context
	out    io.Writer
	err    io.Writer
	source string
}

// usageError is an error of what was asked for: exit code 2.
type usageError struct{ error }

// errFailed says that scenarios failed, which has been printed.
var errFailed = errors.New("scenarios failed")

func main() {
	os.Exit(execute(os.Args[1:], os.Stdout, os.Stderr))
}

// execute runs one command line and returns the exit code.
func execute(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	// The first signal ends the run in order, a second one at once.
	defer context.AfterFunc(ctx, stop)()
	var c cli
	parser, err := kong.New(&c, kong.Name("xenlab"), kong.Description("A real Xen under QEMU."), kong.Writers(stdout, stderr),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}))
	if err != nil {
		return report(stderr, err)
	}
	command, err := parser.Parse(args)
	if err != nil {
		return report(stderr, usageError{fmt.Errorf("%w; see xenlab --help", err)})
	}
	err = command.Run(&env{ctx: ctx, out: stdout, err: stderr, source: c.Source})
	if ctx.Err() != nil && err != nil {
		err = errors.New("interrupted")
	}
	return report(stderr, err)
}

func report(w io.Writer, err error) int {
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errFailed):
		return exitFailed
	case errors.As(err, &usage):
		fmt.Fprintln(w, "xenlab:", err)
		return exitUsage
	}
	fmt.Fprintln(w, "xenlab:", strings.TrimRight(err.Error(), "\n"))
	return exitFailed
}

type testCmd struct {
	Scenario []string `placeholder:"NAME,..." help:"Only these."`
	Keep     bool     `help:"Stop at the first failure and give a prompt where it happened."`
	Boots    int      `default:"2" placeholder:"N" help:"So many Xens at a time, if there are CPUs and memory for them (default: 2); one with --keep."`
	Verbose  bool     `short:"v" help:"Print what scenarios log."`
	buildFlags
}

func (c *testCmd) Run(e *env) error {
	if c.Keep && !onTerminal() {
		return usageError{errors.New("--keep gives a prompt and needs a terminal")}
	}
	chosen, err := scenario.Choose(scenario.All(), c.Scenario)
	if err != nil {
		return usageError{err}
	}
	if c.Boots < 1 {
		return usageError{fmt.Errorf("--boots %d: want at least 1", c.Boots)}
	}
	if c.Keep {
		c.Boots = 1 // with two, the other one's scenario would go on behind the prompt
	}
	r := &scenario.Runner{Out: e.out, Source: e.source, Verbose: c.Verbose, Keep: c.Keep, Boots: c.Boots}
	return c.run(e, r, chosen)
}

type imagesCmd struct{ partFlags }

func (c *imagesCmd) Run(e *env) error {
	parts, err := c.choose(e)
	if err != nil {
		return err
	}
	dir, err := lab.BuildImages(e.ctx, imagesSource(e), parts, e.err)
	if err == nil {
		_, err = fmt.Fprintln(e.out, dir)
	}
	return err
}

func imagesSource(e *env) string { return filepath.Join(e.source, "test", "xenlab", "images") }

type listCmd struct{}

func (listCmd) Run(e *env) error {
	for _, s := range scenario.All() {
		if _, err := fmt.Fprintf(e.out, "%-20s %s\n", s.Name, s.Proves); err != nil {
			return err
		}
	}
	return nil
}

// run runs scenarios and prints the totals.
func (b *buildFlags) run(e *env, r *scenario.Runner, chosen []scenario.Scenario) (err error) {
	begun := time.Now()
	p, err := b.prepare(e)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	r.Boot, r.MemMiB, r.Stands = p.boot, p.memMiB(), p.stands()
	fmt.Fprintln(e.out, r.Stands)
	defer func() { err = errors.Join(err, r.Close()) }()
	err = r.Run(e.ctx, chosen)
	if err == nil && r.Keep && r.Failed > 0 {
		err = prompt(e, r.Lab())
	}
	fmt.Fprintf(e.out, "%d passed, %d failed, in %s\n", r.Passed, r.Failed, time.Since(begun).Round(time.Second))
	if err == nil && r.Failed > 0 {
		err = errFailed
	}
	return err
}
