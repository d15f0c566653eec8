package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/bench"
	"github.com/xnetfrontd/xnetfrontd/test/xenlab/lab"
)

type benchCmd struct {
	Pairs        int           `default:"3" help:"Pairs of samples for each metric."`
	Seconds      int           `default:"3" help:"Length of a sample."`
	Only         []string      `placeholder:"METRIC" help:"Only these: tcp, plain, udp, ping, or one way as in tcp-tx; latency, which takes long, is measured only if it is named."`
	Rates        []string      `default:"10,30,100,none" placeholder:"MBIT,..." help:"Limits of vifs for latency, in Mb/s, or none (default: 10,30,100,none)."`
	Flows        []int         `default:"1,8" placeholder:"N,..." help:"Uploads at the same time for latency (default: 1,8)."`
	Upload       time.Duration `default:"25s" help:"Length of an upload for latency (default: 25s)."`
	RunArgs      string        `placeholder:"ARGS" help:"Added to xnetfrontd run."`
	Baseline     string        `placeholder:"FILE" type:"existingfile" help:"Another static binary of the daemon, to be measured beside."`
	BaselineArgs string        `placeholder:"ARGS" help:"Added to the run of the baseline, which is the same binary if there is no --baseline."`
	Out          string        `default:"bench-results" placeholder:"DIR" help:"Folder for the results (default: bench-results); empty to save none."`
	Check        bool          `help:"Exit with code 1 if a goal is missed."`
	Quick        bool          `help:"See that it works: one pair of samples of a second, which are not saved."`
	buildFlags
}

// baselinePath is where the guest has the baseline's binary.
const baselinePath = "/lab/baseline"

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
	domU, err := l.CreateDomU(e.ctx, c.domU(o.Latency.Vifs))
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

// domU is the guest: vif 0 without a limit, and those that latency needs.
func (c *benchCmd) domU(vifs []bench.Vif) lab.DomUConfig {
	u := lab.DomUConfig{Name: "bench", Vifs: []lab.VifConfig{{}}}
	for _, v := range vifs {
		if v.DevID > 0 {
			u.Vifs = append(u.Vifs, lab.VifConfig{Rate: bench.RateOf(v.Mbit)})
		}
	}
	if c.Baseline != "" {
		u.Payload = map[string]string{baselinePath: c.Baseline}
		u.MemMiB = 320 // the initramfs is unpacked in memory
	}
	return u
}

// options checks the command line.
func (c *benchCmd) options(e *env) (bench.Options, error) {
	metrics, latency, err := bench.Choose(c.Only)
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
		c.Upload = shortestUpload
	}
	o.Ours.Args = strings.Fields(c.RunArgs)
	if c.Baseline != "" || c.BaselineArgs != "" {
		o.Baseline = &bench.Build{Args: strings.Fields(c.BaselineArgs)}
		if c.Baseline != "" {
			o.Baseline.Path = baselinePath
		}
	}
	if latency {
		if o.Latency, err = c.latency(); err != nil {
			return o, err
		}
	}
	o.Progress = e.err
	return o, nil
}

// shortestUpload leaves some seconds in which something is measured.
const shortestUpload = 4 * time.Second

func (c *benchCmd) latency() (bench.Latency, error) {
	o := bench.Latency{Flows: c.Flows, Upload: int(c.Upload / time.Second)}
	if c.Upload < shortestUpload || c.Upload > 10*time.Minute || c.Upload%time.Second != 0 {
		return o, fmt.Errorf("--upload %s: want whole seconds, %s to 10m", c.Upload, shortestUpload)
	}
	for _, n := range c.Flows {
		if n < 1 || n > 100 {
			return o, fmt.Errorf("--flows %d: want 1 to 100", n)
		}
	}
	for _, rate := range c.Rates {
		if rate == "none" {
			o.Vifs = append(o.Vifs, bench.Vif{})
			continue
		}
		mbit, err := strconv.Atoi(rate)
		if err != nil || mbit < 1 || mbit > 10000 {
			return o, fmt.Errorf("--rates %s: want 1 to 10000, in Mb/s, or none", rate)
		}
		o.Vifs = append(o.Vifs, bench.Vif{Mbit: mbit})
	}
	// Vif 0 has no limit.
	n := 0
	for i := range o.Vifs {
		if o.Vifs[i].Mbit > 0 {
			n++
			o.Vifs[i].DevID = n
		}
	}
	return o, nil
}
