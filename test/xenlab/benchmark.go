package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/bench"
	"github.com/xnetfrontd/xnetfrontd/test/xenlab/lab"
)

type benchCmd struct {
	Pairs   int      `default:"3" help:"Pairs of samples for each metric."`
	Seconds int      `default:"3" help:"Length of a sample."`
	Only    []string `placeholder:"METRIC" help:"Only these: tcp, plain, udp, ping, or one way as in tcp-tx."`
	Out     string   `default:"bench-results" placeholder:"DIR" help:"Folder for the results (default: bench-results); empty to save none."`
	Check   bool     `help:"Exit with code 1 if a goal is missed."`
	Quick   bool     `help:"See that it works: one pair of samples of a second, which are not saved."`
	buildFlags
}

func (c *benchCmd) Run(e *env) (err error) {
	o, err := c.options(e)
	if err != nil {
		return usageError{err}
	}
	p, err := c.prepare(e)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	fmt.Fprintln(e.err, "booting Xen, dom0 and a domU")
	_, cpus, _ := lab.Room(1, p.memMiB())
	l, err := p.boot(e.ctx, cpus)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	domU, err := l.CreateDomU(e.ctx, lab.DomUConfig{Name: "bench", Vifs: []lab.VifConfig{{}}})
	if err != nil {
		return err
	}
	r, err := bench.Run(e.ctx, l, domU, o)
	if err != nil {
		return errors.Join(err, l.SaveEvidence(e.ctx, l.RunDir()), fmt.Errorf("logs are in %s", l.RunDir()))
	}
	if err := r.Report(e.out); err != nil {
		return err
	}
	if c.Out != "" && !c.Quick {
		paths, err := r.Save(c.Out)
		if err != nil {
			return err
		}
		fmt.Fprintf(e.out, "\nSaved: %s\n", strings.Join(paths, ", "))
	}
	if lines := r.Missed(); c.Check && len(lines) > 0 {
		return errors.New(strings.Join(lines, "; "))
	}
	return nil
}

// options checks the command line.
func (c *benchCmd) options(e *env) (bench.Options, error) {
	metrics, err := bench.Choose(c.Only)
	switch {
	case err != nil:
		return bench.Options{}, err
	case c.Pairs < 1:
		return bench.Options{}, fmt.Errorf("--pairs %d: want at least 1", c.Pairs)
	case c.Seconds < 1 || c.Seconds > 600:
		return bench.Options{}, fmt.Errorf("--seconds %d: want 1 to 600", c.Seconds)
	}
	o := bench.Options{Metrics: metrics, Pairs: c.Pairs, Seconds: c.Seconds, Omit: 1}
	if c.Quick {
		o = bench.Quick(metrics)
	}
	o.Progress = e.err
	return o, nil
}
