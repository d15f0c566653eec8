package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/xnetfrontd/xnetfrontd/internal/backdev"
	"github.com/xnetfrontd/xnetfrontd/internal/liar"
	"github.com/xnetfrontd/xnetfrontd/internal/netback"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

type lieCmd struct {
	Frontend xen.DomID `arg:"" help:"Domain of the frontend."`
	Device   int       `arg:"" help:"Its vif, whose backend is to be in this domain."`
	Guest    net.IP    `arg:"" help:"IPv4 address of the frontend's interface."`
	Self     net.IP    `arg:"" help:"Another one in its network."`
	Pace     int       `default:"160" help:"Frames in a second that it sends there."`
}

// Run is a hostile backend, from when the vif comes until all lies are told. It prints a line
// first, and one of JSON for each lie.
func (c *lieCmd) Run(ctx context.Context, stdout io.Writer) (err error) {
	d, err := backdev.Open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	fmt.Fprintln(stdout, "serving")
	out := json.NewEncoder(stdout)
	l := liar.Liar{Domain: d, ID: netback.VifID{Frontend: c.Frontend, Device: c.Device}, Guest: c.Guest, Self: c.Self, Pace: c.Pace}
	told, err := l.Run(ctx)
	for _, t := range told {
		err = errors.Join(err, out.Encode(t))
	}
	return err
}
