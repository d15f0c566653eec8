package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

// xenstored is where it listens in dom0.
const xenstored = "/run/xenstored/socket"

type awaitStoreCmd struct {
	Path   string   `arg:"" help:"Node to watch."`
	Values []string `arg:"" optional:"" help:"Values, one of which ends the wait; none: any that is not empty."`
	Gone   bool     `help:"Wait until the node is missing."`
}

// Run prints the value.
func (c *awaitStoreCmd) Run(ctx context.Context) error {
	open := xenstore.Open
	if _, err := os.Stat(xenstored); err == nil {
		open = func() (*xenstore.Client, error) { return xenstore.Dial(xenstored) }
	}
	store, err := open()
	if err != nil {
		return err
	}
	defer store.Close()
	w, err := store.Watch(ctx, c.Path)
	if err != nil {
		return err
	}
	last := "nothing"
	for {
		select {
		case _, ok := <-w.Events():
			if !ok {
				return w.Err()
			}
		case <-ctx.Done():
			return fmt.Errorf("%s is %s, wanted %s", c.Path, last, strings.Join(c.Values, " or "))
		}
		value, err := store.Read(ctx, c.Path)
		switch {
		case errors.Is(err, xenstore.ErrNotFound):
			last = "missing"
			if c.Gone {
				return nil
			}
		case err != nil:
			return err
		case !c.Gone && (len(c.Values) == 0 && value != "" || slices.Contains(c.Values, value)):
			_, err := fmt.Println(value)
			return err
		default:
			last = strconv.Quote(value)
		}
	}
}

type awaitCarrierCmd struct {
	Interface string `arg:"" help:"Its name; it may not exist yet."`
	Off       bool   `help:"Wait until it has none, or is gone."`
}

func (c *awaitCarrierCmd) Run(ctx context.Context) error {
	updates, done := make(chan netlink.LinkUpdate, 16), make(chan struct{})
	defer close(done)
	if err := netlink.LinkSubscribe(updates, done); err != nil {
		return fmt.Errorf("watch the interfaces: %w", err)
	}
	for {
		on := false
		link, err := netlink.LinkByName(c.Interface)
		var missing netlink.LinkNotFoundError
		switch {
		case errors.As(err, &missing):
		case err != nil:
			return err
		default:
			on = link.Attrs().RawFlags&unix.IFF_LOWER_UP != 0
		}
		if on != c.Off {
			return nil
		}
		select {
		case _, ok := <-updates:
			if !ok {
				return errors.New("watch the interfaces: the kernel ended it")
			}
		case <-ctx.Done():
			return fmt.Errorf("%s: no change of its carrier", c.Interface)
		}
	}
}
