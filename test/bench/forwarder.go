package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
)

// forwarderTAP is the name of both of the forwarder's TAPs, and where their
// namespaces are in the process: behind the standard files.
const (
	forwarderTAP  = "fwd0"
	guestFile     = 3
	networkFile   = 4
	forwarderRole = "forwarder"
)

// openForwarder starts the plain forwarder.
func (s spaces) openForwarder(ctx context.Context, dir string) (l *link, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	l = newLink(linkForwarder, forwarderTAP, [3]byte{198, 51, 100})
	cmd := exec.Command(self, forwarderRole)
	for _, space := range []*space{s.guest, s.network} {
		fd, err := unix.FcntlInt(uintptr(space.handle), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("pass network namespace: %w", err)
		}
		f := os.NewFile(uintptr(fd), "network namespace")
		defer f.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	p, err := startProcess(ctx, s.guest, forwarderRole, dir, cmd)
	if err != nil {
		return nil, err
	}
	l.processes = []*process{p}
	if err := s.address(l, forwarderTAP); err != nil {
		return nil, errors.Join(err, l.stop())
	}
	return l, nil
}

// forwarderMain is the forwarder's process: it hands frames from each TAP to the
// other until SIGTERM.
func forwarderMain() error {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	var devices [2]*tap.Device
	var queues [2]*tap.Queue
	for i, fd := range []int{guestFile, networkFile} {
		d, err := createIn(netns.NsHandle(fd))
		if err != nil {
			return err
		}
		defer d.Close()
		q, err := attach(d)
		if err != nil {
			return err
		}
		devices[i], queues[i] = d, q
	}
	failed := make(chan error, 2)
	for i := range queues {
		m, err := newMover(queues[i], queues[1-i])
		if err != nil {
			return err
		}
		go func() { failed <- m.run() }()
	}
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		return err
	}
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		// The movers still run: the process and both TAPs end together.
		os.Exit(0)
		return nil
	}
}

// createIn makes the TAP in a namespace.
func createIn(ns netns.NsHandle) (d *tap.Device, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: the thread stays in the namespace
		if err = netns.Set(ns); err != nil {
			err = fmt.Errorf("enter network namespace: %w", err)
			return
		}
		d, err = tap.Create(tap.Config{Name: forwarderTAP, MTU: mtu})
	}()
	<-done
	return d, err
}

// attach gives a TAP one queue and everything that it takes to be fast.
func attach(d *tap.Device) (*tap.Queue, error) {
	if err := d.SetOffload(d.ProbeOffload()); err != nil {
		return nil, err
	}
	queues, err := d.SetQueues(1)
	if err != nil {
		return nil, err
	}
	if err := d.SetCarrier(true); err != nil {
		return nil, err
	}
	return queues[0], d.SetUp(true)
}
