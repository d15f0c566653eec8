package lab

import (
	"context"
	"errors"
)

var errSkeleton = errors.New("not built yet")

// Options are how the lab boots.
type Options struct {
	Images     string // folder with the images, see Images
	RunDir     string // logs and evidence go here; made if missing
	Agent      string // the agent's static binary
	Daemon     string // the daemon's static binary
	MemMiB     int    // QEMU's memory; 0 is 2048
	Dom0MemMiB int    // dom0's share; 0 is 768. Save and restore need 1400 of 3400.
	// Payload maps paths in dom0 to files of the host. They are in its initramfs.
	Payload  map[string]string
	XenArgs  string // added to Xen's command line
	Dom0Args string // added to dom0's kernel command line
}

// Lab is a running Xen.
type Lab struct{}

// Boot starts Xen and waits for dom0. QEMU ends with ctx, and with Close.
func Boot(ctx context.Context, o Options) (*Lab, error) { return nil, errSkeleton }

// Close ends QEMU at once, with every guest in it.
func (l *Lab) Close() error { return errSkeleton }

// Dom0 is the guest that has the toolstack and the backends.
func (l *Lab) Dom0() *Guest { return nil }

// RunDir is where this run's logs are.
func (l *Lab) RunDir() string { return "" }

// CreateDomU creates a guest and returns when its agent answers.
func (l *Lab) CreateDomU(ctx context.Context, c DomUConfig) (*DomU, error) { return nil, errSkeleton }

// SaveEvidence writes what a failure is looked into with to a folder: dom0's and every
// domU's dmesg, the daemons' logs, xenstore, Xen's own dumps of grants and event
// channels, netback's view of its rings. It writes what it can get and returns the
// rest as errors.
func (l *Lab) SaveEvidence(ctx context.Context, dir string) error { return errSkeleton }
