package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/failure"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/top"
	"github.com/xnetfrontd/xnetfrontd/pkg/control"
)

// shortestInterval is how often top asks at most.
const shortestInterval = 100 * time.Millisecond

type topCmd struct {
	Vif string `arg:"" optional:"" complete:"vif" help:"Only this vif: its number, its MAC address or the name of its TAP."`
	controlFlags
	Interval time.Duration `default:"1s" help:"How often to look (default: ${default})."`
	Count    int           `placeholder:"N" help:"End after so many intervals."`
	Plain    bool          `help:"Append lines with a header instead of drawing on the terminal, as it does in a pipe or where TERM is dumb."`
}

func (c *topCmd) Help() string {
	return `Shows each queue and direction, tx being from the TAP to the ring:

  SLOTS     of the ring that the backend has: tx frames without an answer, rx buffers
  FREE      maps (granted buffers) of this side that are free, and
  FLIGHT    those that the backend may use
  BATCH     slots that are published at once, on average
  NOTIFY/k  events that were sent to the backend for 1000 packets
  OLDEST    for how long the backend has had a tx frame

q or Ctrl-C ends it. It goes on over a restart of the daemon. Plain lines have a field for
each column of the header, with "-" for a value that is not known; other lines begin with #.`
}

func (c *topCmd) Run(s streams) error {
	switch {
	case c.Interval < shortestInterval:
		return failure.Usagef("--interval %s: expected %s or more", c.Interval, shortestInterval)
	case c.Count < 0:
		return failure.Usagef("--count %d: expected 1 or more, or 0 for no end", c.Count)
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	o := top.Options{Ask: c.ask, Interval: c.Interval, Count: c.Count}
	if out, ok := terminal(s.out); ok && !c.Plain {
		return top.Live(ctx, o, out, os.Stdin)
	}
	return top.Plain(ctx, o, s.out)
}

func (c *topCmd) ask(ctx context.Context) (*control.Status, error) {
	st, err := c.client().Status(ctx)
	if err == nil && c.Vif != "" {
		err = st.Only(c.Vif)
	}
	if err != nil {
		return nil, err
	}
	return st, nil
}

// terminal is w as a file if it is a terminal that can be drawn on.
func terminal(w io.Writer) (*os.File, bool) {
	f, ok := w.(*os.File)
	return f, ok && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(f.Fd()))
}
