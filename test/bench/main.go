package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/test/figures"
)

// Exit codes.
const (
	exitFailed = 1 // it did not work, a hot loop allocates, or -check was not met
	exitUsage  = 2
)

// options are what the command line says.
type options struct {
	pairs   int
	seconds float64 // of a sample
	// loadPairs and loadSeconds are those of samples under load.
	loadPairs   int
	loadSeconds float64
	quick       bool
	only        string
	metrics     []metric
	loads       []loadCase
	hot         bool
	out         string
	check       bool
}

func main() {
	os.Exit(mainCode(os.Args[1:], os.Stdout, os.Stderr))
}

// mainCode runs the program, or the part of it that a child process is, and returns
// its exit code.
func mainCode(args []string, stdout, stderr io.Writer) int {
	if len(args) == 1 {
		switch args[0] {
		case agentRole:
			return fail(stderr, agentMain())
		case forwarderRole:
			return fail(stderr, forwarderMain())
		}
	}
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, help())
		return 0
	}
	if err != nil {
		fmt.Fprintf(stderr, "bench: %v\n", err)
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	err = run(ctx, o, stdout, stderr)
	if ctx.Err() != nil {
		err = errors.New("interrupted")
	}
	return fail(stderr, err)
}

func fail(w io.Writer, err error) int {
	if err == nil {
		return 0
	}
	fmt.Fprintf(w, "bench: %v\n", err)
	return exitFailed
}

// parse reads the command line.
func parse(args []string) (options, error) {
	var o options
	f := o.flags()
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return o, err
		}
		return o, fmt.Errorf("%w; see -help", err)
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("argument %q: there are only flags, see -help", f.Arg(0))
	}
	if o.quick {
		o.shorten(f)
	}
	for name, n := range map[string]int{"pairs": o.pairs, "load-pairs": o.loadPairs} {
		if n < 1 {
			return o, fmt.Errorf("-%s %d: want at least 1", name, n)
		}
	}
	for name, s := range map[string]float64{"seconds": o.seconds, "load-seconds": o.loadSeconds} {
		if !(s >= 0.01 && s <= 600) {
			return o, fmt.Errorf("-%s %g: want 0.01 to 600", name, s)
		}
	}
	var err error
	o.metrics, o.loads, o.hot, err = choose(o.only)
	return o, err
}

// shorten makes samples few and short, but for what the command line says of them.
func (o *options) shorten(f *flag.FlagSet) {
	given := make(map[string]bool)
	f.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if !given["pairs"] {
		o.pairs = 2
	}
	if !given["seconds"] {
		o.seconds = 0.3
	}
	if !given["load-pairs"] {
		o.loadPairs = 2
	}
	if !given["load-seconds"] {
		o.loadSeconds = 2.5
	}
}

// flags are the command line's, with o's fields behind them.
func (o *options) flags() *flag.FlagSet {
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(io.Discard) // an error is one line, and main's to print
	f.IntVar(&o.pairs, "pairs", 10, "how many `pairs` of samples for each metric")
	f.Float64Var(&o.seconds, "seconds", 1, "`length` of one sample")
	f.IntVar(&o.loadPairs, "load-pairs", 3, "how many `pairs` of samples for each load")
	f.Float64Var(&o.loadSeconds, "load-seconds", 4, "`length` of one sample under load, after 1 s without looking; of datagrams half of it")
	f.BoolVar(&o.quick, "quick", false, "few and short samples, to see roughly: -pairs 2 -seconds 0.3 -load-pairs 2 -load-seconds 2.5")
	f.StringVar(&o.only, "only", "", "only these `metrics`, separated by commas: "+metricNames())
	f.StringVar(&o.out, "out", "bench-results", "`folder` for the results; empty to save none")
	f.BoolVar(&o.check, "check", false, "exit with code 1 if the floor is missed")
	return f
}

// help is what -help prints.
func help() string {
	var b strings.Builder
	b.WriteString("Compares xnetfrontd with a veth pair and a plain forwarder, and times the hot loops.\n\n")
	f := new(options).flags()
	f.SetOutput(&b)
	f.PrintDefaults()
	return b.String()
}

// run measures what o says, and prints and saves it.
func run(ctx context.Context, o options, stdout, stderr io.Writer) error {
	r := &result{When: time.Now(), Machine: figures.DescribeMachine(ctx), Pairs: o.pairs, Seconds: o.seconds,
		LoadPairs: o.loadPairs, LoadSeconds: o.loadSeconds}
	var err error
	if len(o.metrics)+len(o.loads) > 0 {
		if err := r.measure(ctx, o, stderr); err != nil {
			return err
		}
	}
	if o.hot {
		fmt.Fprintln(stderr, "hot loops")
		if r.HotLoops, err = runHotLoops(ctx); err != nil {
			return err
		}
	}
	if err := r.report(stdout); err != nil {
		return err
	}
	if o.out != "" {
		paths, err := r.save(o.out)
		if err != nil {
			return err
		}
		fmt.Fprintf(stdout, "\nSaved: %s\n", strings.Join(paths, ", "))
	}
	if lines := r.allocating(); len(lines) > 0 {
		return errors.New("a hot loop allocates: " + strings.Join(lines, "; "))
	}
	if lines := r.missed(); o.check && len(lines) > 0 {
		return errors.New(strings.Join(lines, "; "))
	}
	return nil
}

// measure takes the pairs of every metric and load. It goes round them, so that a time
// in which the machine is busy with something else does not hit all samples of one.
func (r *result) measure(ctx context.Context, o options, stderr io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "xnetfrontd-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	b, err := openBed(ctx, dir, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	defer context.AfterFunc(ctx, b.interrupt)()
	if len(o.metrics) > 0 {
		if r.Metrics, err = b.measureMetrics(ctx, o, stderr); err != nil {
			return err
		}
	}
	r.Loads, err = b.measureLoads(ctx, o, stderr)
	return err
}

func (b *bed) measureMetrics(ctx context.Context, o options, stderr io.Writer) ([]measured, error) {
	var all []measured
	for _, m := range o.metrics {
		all = append(all, measured{metric: m})
	}
	for n := range o.pairs {
		fmt.Fprintf(stderr, "pair %d of %d\n", n+1, o.pairs)
		for i := range all {
			samples, err := b.round(ctx, n, all[i].metric)
			if err != nil {
				return nil, err
			}
			all[i].Rounds = append(all[i].Rounds, samples)
		}
	}
	for i := range all {
		m := &all[i]
		m.Ratios = map[string]figures.Spread{linkForwarder: m.ratios(linkForwarder, valueOf), linkXnetfrontd: m.ratios(linkXnetfrontd, valueOf)}
	}
	return all, nil
}

func (b *bed) measureLoads(ctx context.Context, o options, stderr io.Writer) ([]loaded, error) {
	var all []loaded
	if len(o.loads) > 0 {
		if err := b.likeAnUplink(); err != nil {
			return nil, err
		}
	}
	for _, c := range o.loads {
		all = append(all, loaded{loadCase: c})
	}
	for n := range o.loadPairs {
		for i := range all {
			fmt.Fprintf(stderr, "latency, pair %d of %d: %s\n", n+1, o.loadPairs, all[i].title())
			p, err := b.loadPair(ctx, n, all[i].loadCase)
			if err != nil {
				return nil, err
			}
			all[i].Pairs = append(all[i].Pairs, p)
		}
	}
	return all, nil
}
