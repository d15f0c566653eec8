// Package demo shows the frontend at work on a machine without Xen. The embedded Xen is a
// process in one network namespace, and the daemon is a process in another. Between them the
// demo pings, and copies data.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/show"
	"github.com/xnetfrontd/xnetfrontd/pkg/control"
)

// Options say what the demo does.
type Options struct {
	Program  string   // path of this program, which is the daemon and the embedded Xen, too
	Size     int64    // bytes copied each way
	Queues   int      // queue pairs that both ends offer
	Without  []string // features that the backend does not offer
	Disable  []string // features that the daemon does not negotiate
	Keep     bool     // leave it running until ctx ends
	Out      io.Writer
	Terminal bool      // Out is one: progress is redrawn in place
	Verbose  io.Writer // gets the logs of the processes; nil: none
	// UserNS says that the namespaces belong to the user namespace of a plain user. The
	// commands that --keep prints depend on it.
	UserNS bool
}

const (
	devID          = 0
	connectTimeout = 15 * time.Second
	pollInterval   = 20 * time.Millisecond
)

// demo is one run.
type demo struct {
	Options
	dir     string // for sockets; removed at the end
	guest   side   // where the daemon and its TAP are
	backend side   // where netback and its TAP are
	xen     *child
	daemon  *child
}

// Run runs the demo. It returns nil only if every ping was answered and every byte arrived as
// it was sent. It leaves nothing behind in any case. If ctx ends, the error is that of ctx;
// with Keep there is no error if everything was shown before.
func Run(ctx context.Context, o Options) (err error) {
	d := &demo{
		Options: o,
		guest:   side{name: "guest", v4: net.IPv4(192, 0, 2, 1), v6: net.ParseIP("2001:db8::1"), tap: fmt.Sprintf("xnf%d", devID)},
		backend: side{name: "backend", v4: net.IPv4(192, 0, 2, 2), v6: net.ParseIP("2001:db8::2"), tap: fmt.Sprintf("vif1.%d", devID)},
	}
	var undo []func() error
	defer func() {
		for i := len(undo) - 1; i >= 0; i-- {
			err = errors.Join(err, undo[i]())
		}
	}()
	d.dir, err = os.MkdirTemp("", "xnetfrontd-demo-")
	if err != nil {
		return err
	}
	undo = append(undo, func() error { return os.RemoveAll(d.dir) })
	for _, s := range []*side{&d.backend, &d.guest} {
		if err := s.open(); err != nil {
			return err
		}
		undo = append(undo, func() error { s.Close(); return nil })
	}
	if d.xen, err = d.start(ctx, &d.backend, "embedded-xen", d.xenArgs()...); err != nil {
		return err
	}
	undo = append(undo, d.xen.stop)
	if d.daemon, err = d.start(ctx, &d.guest, "daemon", d.daemonArgs()...); err != nil {
		return err
	}
	undo = append(undo, d.daemon.stop)
	if err := d.connect(ctx); err != nil {
		return err
	}
	if err := d.show(ctx); err != nil {
		return err
	}
	if o.Keep {
		d.explain()
		return d.wait(ctx)
	}
	return nil
}

func (d *demo) start(ctx context.Context, s *side, name string, args ...string) (*child, error) {
	began := time.Now()
	c, err := startChild(ctx, s, name, d.Program, d.dir, d.Verbose, args...)
	if err != nil {
		return nil, err
	}
	d.say("%-14s pid %d, TAP %s in a network namespace of its own, ready after %d ms",
		name, c.cmd.Process.Pid, s.tap, time.Since(began).Milliseconds())
	return c, nil
}

func (d *demo) xenArgs() []string {
	args := []string{"embedded-xen", "--devid", fmt.Sprint(devID), "--tap", d.backend.tap, "--queues", fmt.Sprint(d.Queues)}
	for _, f := range d.Without {
		args = append(args, "--without", f)
	}
	return append(args, d.dir)
}

func (d *demo) daemonArgs() []string {
	args := []string{"run", "--xen", d.dir, "--vif", fmt.Sprint(devID), "--tap", d.guest.tap,
		"--queues", fmt.Sprint(d.Queues), "--control", d.socket()}
	for _, f := range d.Disable {
		args = append(args, "--disable", f)
	}
	return args
}

func (d *demo) socket() string { return filepath.Join(d.dir, "control.sock") }

// status asks the daemon about the vif.
func (d *demo) status(ctx context.Context) (*control.Device, error) {
	st, err := (&control.Client{Path: d.socket()}).Status(ctx)
	if err != nil {
		return nil, err
	}
	if len(st.Vifs) != 1 || st.Vifs[0].Device == nil {
		return nil, fmt.Errorf("the daemon serves %d vifs, want one that works: %+v", len(st.Vifs), st.Vifs)
	}
	return st.Vifs[0].Device, nil
}

// connect sets both links up, and waits until the two ends are connected.
func (d *demo) connect(ctx context.Context) error {
	began := time.Now()
	for _, s := range []*side{&d.guest, &d.backend} {
		if err := s.setUp(); err != nil {
			return err
		}
	}
	for {
		st, err := d.status(ctx)
		if err != nil {
			return err
		}
		if st.State == "Connected" && st.BackendState == "Connected" {
			d.say("%-14s %d queues, %s", "connected", len(st.Queues), show.FeatureList(st.Features))
			return nil
		}
		if time.Since(began) > connectTimeout {
			return fmt.Errorf("not connected within %s: the frontend is %s, the backend %s: %s", connectTimeout, st.State, st.BackendState, st.Reason)
		}
		if err := d.pause(ctx, pollInterval); err != nil {
			return err
		}
	}
}

// pause waits for d, or less if ctx or a process ends.
func (d *demo) pause(ctx context.Context, t time.Duration) error {
	timer := time.NewTimer(t)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-d.xen.exited:
		return d.xen.failure()
	case <-d.daemon.exited:
		return d.daemon.failure()
	case <-timer.C:
		return nil
	}
}

// wait waits until ctx ends, which is no error, or until a process ends, which is one.
func (d *demo) wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-d.xen.exited:
		return d.xen.failure()
	case <-d.daemon.exited:
		return d.daemon.failure()
	}
}

func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.Out, format+"\n", args...) }
