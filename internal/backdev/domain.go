//go:build linux

package backdev

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/netback"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

// Domain is the domain that this process is in, as [netback.Domain].
type Domain struct {
	id    xen.DomID
	store *xenstore.Client
	maps  int // /dev/xen/gntdev
}

var _ netback.Domain = (*Domain)(nil)

// Open opens the devices. It needs the rights of root.
func Open(ctx context.Context) (*Domain, error) {
	store, err := xenstore.Open()
	if err != nil {
		return nil, err
	}
	d := &Domain{store: store, maps: -1}
	if err := d.open(ctx); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

func (d *Domain) open(ctx context.Context) error {
	text, err := d.store.Read(ctx, "domid")
	if err != nil {
		return fmt.Errorf("this domain's number: %w", err)
	}
	id, err := strconv.ParseUint(text, 10, 15)
	if err != nil {
		return fmt.Errorf("this domain's number: %w", err)
	}
	d.id = xen.DomID(id)
	d.maps, err = openDevice("/dev/xen/gntdev", 0)
	return err
}

// openDevice opens a device of drivers/xen as a raw descriptor.
func openDevice(path string, flags int) (int, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|flags, 0)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", path, err)
	}
	return fd, nil
}

// Close closes the devices. A page that is still mapped stays so until its Unmap.
func (d *Domain) Close() error {
	err := d.store.Close()
	if d.maps >= 0 {
		err = errors.Join(err, unix.Close(d.maps))
	}
	return err
}

// ID implements [netback.Domain].
func (d *Domain) ID() xen.DomID { return d.id }

// Store implements [netback.Domain].
func (d *Domain) Store() xen.Store { return d.store }
