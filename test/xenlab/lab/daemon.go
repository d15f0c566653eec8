package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// DaemonLog is where StartDaemon has the daemon write, one run behind the other.
const DaemonLog = "/run/xnetfrontd/lab.log"

// HoldSocket is where the daemon's holder listens.
const HoldSocket = "/run/xnetfrontd-hold/hold.sock"

// InstallDaemon puts the static binary into the PATH and makes the folder that its
// unit would make.
func (d *DomU) InstallDaemon(ctx context.Context) error {
	_, err := d.Shell(ctx, "ln -sf "+DaemonPath+" /usr/bin/xnetfrontd; mkdir -p /run/xnetfrontd")
	return err
}

// StartHolder starts the daemon's holder unless there is one. A daemon that reports to
// a service manager, as StartDaemon's do, leaves that to it.
func (d *DomU) StartHolder(ctx context.Context) error {
	_, err := d.Shell(ctx, "[ -S "+HoldSocket+" ] || "+DaemonPath+" hold --detach 2>>"+DaemonLog+" | grep -q ready")
	return err
}

// StartDaemon starts "xnetfrontd args...", detached, and returns when it says that it
// is ready: its TAPs exist then, and nothing else is promised. It installs the daemon
// and starts the holder.
func (d *DomU) StartDaemon(ctx context.Context, args ...string) (*Daemon, error) {
	return d.StartBuild(ctx, "", args...)
}

// StartBuild is StartDaemon for another build of the daemon, at a path in the guest, or
// the lab's if that is empty. The holder is the lab's.
func (d *DomU) StartBuild(ctx context.Context, path string, args ...string) (*Daemon, error) {
	if err := errors.Join(d.InstallDaemon(ctx), d.StartHolder(ctx)); err != nil {
		return nil, err
	}
	p, err := d.StartCommand(ctx, Command{Argv: append([]string{cmp.Or(path, "xnetfrontd")}, args...), Detached: DaemonLog, notify: true})
	if err != nil {
		return nil, err
	}
	daemon := &Daemon{Process: p, domU: d}
	select {
	case <-p.ready:
		return daemon, nil
	case <-p.ended:
		if p.err != nil {
			return nil, fmt.Errorf("%s: wait for the daemon: %w", d.Name, p.err)
		}
		log, err := daemon.Log(ctx)
		return nil, errors.Join(fmt.Errorf("%s: xnetfrontd %s ended before it was ready: exit code %d %s: %s",
			d.Name, strings.Join(args, " "), p.result.Code, p.result.Signal, lastLine(log)), err)
	case <-ctx.Done():
		return nil, fmt.Errorf("%s: wait for the daemon: %w", d.Name, context.Cause(ctx))
	}
}

func lastLine(log string) string {
	lines := strings.Split(strings.TrimSpace(log), "\n")
	return lines[len(lines)-1]
}

// Daemon is xnetfrontd in a domU. It is a detached process: Wait and Signal work after
// Reconnect too.
type Daemon struct {
	*Process
	domU *DomU
}

// Stop sends SIGTERM, waits, and fails unless the daemon ended with code 0.
func (d *Daemon) Stop(ctx context.Context) error {
	r, err := d.end(ctx, unix.SIGTERM)
	if err != nil {
		return err
	}
	if r.Code != 0 {
		log, err := d.Log(ctx)
		return errors.Join(fmt.Errorf("%s: the daemon ended with exit code %d %s: %s", d.domU.Name, r.Code, r.Signal, lastLine(log)), err)
	}
	return nil
}

// Kill sends SIGKILL and waits.
func (d *Daemon) Kill(ctx context.Context) error {
	_, err := d.end(ctx, unix.SIGKILL)
	return err
}

func (d *Daemon) end(ctx context.Context, s unix.Signal) (Result, error) {
	if err := d.Signal(ctx, s); err != nil {
		return Result{}, err
	}
	return d.Wait(ctx)
}

// Log is all that daemons have written in this domU so far.
func (d *Daemon) Log(ctx context.Context) (string, error) {
	b, err := d.domU.ReadFile(ctx, DaemonLog)
	return string(b), err
}
