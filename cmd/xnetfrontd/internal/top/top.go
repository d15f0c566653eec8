package top

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/pkg/control"
)

// Options say what top shows, and how often.
type Options struct {
	// Ask asks the daemon. After the first answer an error is shown and does not end top: the
	// daemon can be started again, and a vif can come back.
	Ask      func(ctx context.Context) (*control.Status, error)
	Interval time.Duration
	Count    int // intervals after which to end; 0: at the end of ctx
}

// Plain appends lines to w after each interval. The first line names the columns. The end of
// ctx is no error.
func Plain(ctx context.Context, o Options, w io.Writer) error {
	first, err := o.Ask(ctx)
	if err != nil {
		return err
	}
	if err := plainHeader(w); err != nil {
		return err
	}
	return o.run(ctx, first, nil, func(f frame) error { return plain(w, f) })
}

// Live draws each interval on a terminal, in place of the one before, until ctx ends or the
// user types q or Ctrl-C. It leaves the terminal as it was, with the last picture.
func Live(ctx context.Context, o Options, out, in *os.File) (err error) {
	ctx, quit := context.WithCancel(ctx)
	defer quit()
	// An error of the first request is reported before the terminal is taken over.
	first, err := o.Ask(ctx)
	if err != nil {
		return err
	}
	s, err := newScreen(out, in, quit)
	if err != nil {
		return err
	}
	var last []string
	defer func() {
		if err = errors.Join(err, s.close()); err == nil {
			err = s.leave(last)
		}
	}()
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, unix.SIGWINCH)
	defer signal.Stop(resized)
	return o.run(ctx, first, resized, func(f frame) error {
		width, height := s.size()
		last = table(f, o.Interval, width)
		return s.draw(last, width, height)
	})
}

// run gives show the first answer, and one after each interval. It gives it the last answer
// again whenever that is asked for.
func (o *Options) run(ctx context.Context, first *control.Status, again <-chan os.Signal, show func(frame) error) error {
	tick := time.NewTicker(o.Interval)
	defer tick.Stop()
	var m meter
	f := m.next(first, nil, time.Now())
	for n := 0; ; n++ {
		if err := show(f); err != nil {
			return err
		}
		if o.Count > 0 && n == o.Count {
			return nil
		}
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
				return nil
			case <-again:
				if err := show(f); err != nil {
					return err
				}
			case <-tick.C:
				waiting = false
			}
		}
		st, err := o.Ask(ctx)
		if ctx.Err() != nil {
			return nil
		}
		f = m.next(st, err, time.Now())
	}
}

// leave writes the last picture to the terminal as lines, behind which other output goes on.
func (s *screen) leave(last []string) error {
	for _, l := range fit(last, 0, 0) {
		if _, err := fmt.Fprintln(s.out, l); err != nil {
			return err
		}
	}
	return nil
}
