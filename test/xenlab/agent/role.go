package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/wire"
)

type dom0Cmd struct {
	Port string `default:"/dev/virtio-ports/xenlab" help:"The host's virtio-serial port."`
}

func (c *dom0Cmd) Run(ctx context.Context) error {
	f, err := os.OpenFile(c.Port, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("open the host's port: %w", err)
	}
	defer f.Close()
	return wire.Serve(ctx, f, newServer().handle)
}

type guestCmd struct {
	Console string `default:"/dev/hvc0" help:"Terminal to serve."`
}

// Run ends with ctx: a system that stops its services waits for this one.
func (c *guestCmd) Run(ctx context.Context) error {
	f, err := openRaw(c.Console)
	if err != nil {
		return err
	}
	closed := sync.OnceValue(f.Close)
	stop := context.AfterFunc(ctx, func() { _ = closed() }) // it is reported below
	defer stop()
	err = wire.Serve(ctx, f, newServer().handle)
	if ctx.Err() != nil {
		err = nil // it was told to end
	}
	return errors.Join(err, closed())
}
