package demo

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/show"
)

const (
	redrawInterval = 200 * time.Millisecond // of progress on a terminal
	lineInterval   = 2 * time.Second        // of progress elsewhere
)

// show pings, copies, and prints the daemon's counters.
func (d *demo) show(ctx context.Context) error {
	for _, p := range []struct {
		name string
		kind echo
		to   net.IP
	}{{"ping IPv4", echoV4, d.backend.v4}, {"ping IPv6", echoV6, d.backend.v6}} {
		if err := d.showPing(ctx, p.name, p.kind, p.to); err != nil {
			return err
		}
	}
	for _, c := range []struct {
		name     string
		from, to *side
		address  net.IP
	}{
		{"TCP over IPv4, guest to backend", &d.guest, &d.backend, d.backend.v4},
		{"TCP over IPv6, backend to guest", &d.backend, &d.guest, d.guest.v6},
	} {
		if err := d.showCopy(ctx, c.name, c.from, c.to, c.address); err != nil {
			return err
		}
	}
	st, err := d.status(ctx)
	if err != nil {
		return err
	}
	d.say("\nQueues as the daemon counted them (tx: from the TAP to the ring; maps: grants in the pool, each in one state):")
	if err := show.Queues(d.Out, st); err != nil {
		return err
	}
	d.say("\nEvery ping was answered, and every byte arrived as it was sent.")
	return nil
}

func (d *demo) showPing(ctx context.Context, name string, kind echo, to net.IP) error {
	p, err := newPinger(&d.guest, kind, to)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	defer p.close()
	if err := p.reach(ctx); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	r, err := p.series(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	d.say("%-14s %s", name, r)
	if len(r.rtts) < r.sent {
		return fmt.Errorf("%s of %s: %s", name, to, r)
	}
	return nil
}

func (d *demo) showCopy(ctx context.Context, name string, from, to *side, address net.IP) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// If a process died, a copy would wait until TCP gives up.
	go func() {
		if err := d.wait(ctx); err != nil {
			cancel(err)
		}
	}()
	var received atomic.Int64
	progress := d.startProgress(name, &received)
	t, err := copyTCP(ctx, from, to, address, d.Size, &received)
	progress()
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return fmt.Errorf("%s: %w", name, err)
	}
	if !t.equal() {
		return fmt.Errorf("%s: SHA-256 of what was sent is %x, of what arrived %x", name, t.sent, t.received)
	}
	d.say("%s: %s in %.1f s, %s, SHA-256 equal at both ends (%x…)",
		name, formatSize(d.Size), t.took.Seconds(), formatRate(d.Size, t.took), t.sent[:6])
	return nil
}

// startProgress shows the progress of a copy. The function that it returns ends that.
func (d *demo) startProgress(name string, received *atomic.Int64) (stop func()) {
	interval := lineInterval
	if d.Terminal {
		interval = redrawInterval
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(interval)
		defer tick.Stop()
		last, at := int64(0), time.Now()
		for {
			select {
			case <-done:
				d.eraseLine()
				return
			case now := <-tick.C:
				n := received.Load()
				d.eraseLine()
				fmt.Fprintf(d.Out, "%s: %d %% of %s, %s", name, 100*n/max(d.Size, 1), formatSize(d.Size), formatRate(n-last, now.Sub(at)))
				if !d.Terminal {
					fmt.Fprintln(d.Out)
				}
				last, at = n, now
			}
		}
	}()
	return func() {
		close(done)
		<-ended
	}
}

// eraseLine erases the line of progress on a terminal (ECMA-48 EL).
func (d *demo) eraseLine() {
	if d.Terminal {
		fmt.Fprint(d.Out, "\r\x1b[K")
	}
}

// explain prints what to type next.
func (d *demo) explain() {
	enter := func(pid int) string {
		user := ""
		if d.UserNS {
			user = " -U --preserve-credentials"
		}
		return fmt.Sprintf("nsenter -t %d%s -n", pid, user)
	}
	guest, backend := enter(d.daemon.cmd.Process.Pid), enter(d.xen.cmd.Process.Pid)
	d.say("\nIt goes on running. In another terminal, on the guest's side (%s):", d.guest.tap)
	d.say("  %s ip -s addr show dev %s", guest, d.guest.tap)
	d.say("  %s ping %s", guest, d.backend.v4)
	d.say("  %s ping %s", guest, d.backend.v6)
	d.say("  %s tcpdump -ni %s", guest, d.guest.tap)
	d.say("  %s status --control %s", d.Program, d.socket())
	d.say("  %s top --control %s", d.Program, d.socket())
	d.say("  %s dump --control %s %d", d.Program, d.socket(), devID)
	d.say("and against the backend's side (%s):", d.backend.tap)
	d.say("  %s iperf3 -s", backend)
	d.say("  %s iperf3 -c %s", guest, d.backend.v4)
	d.say("  %s iperf3 -c %s --reverse", guest, d.backend.v4)
	d.say("Ctrl-C ends it.")
}

func formatSize(n int64) string {
	for _, u := range []struct {
		name string
		size int64
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if n >= u.size && n%u.size == 0 {
			return fmt.Sprintf("%d %s", n/u.size, u.name)
		}
	}
	return fmt.Sprintf("%d bytes", n)
}

func formatRate(n int64, d time.Duration) string {
	return fmt.Sprintf("%.2f Gbit/s", float64(n)*8/max(d.Seconds(), 1e-9)/1e9)
}
