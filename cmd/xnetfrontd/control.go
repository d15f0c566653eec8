package main

import (
	"context"
	"encoding/json"
	"io"
	"time"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/show"
	"github.com/xnetfrontd/xnetfrontd/internal/printable"
	"github.com/xnetfrontd/xnetfrontd/pkg/control"
)

// controlFlags say which daemon the command asks.
type controlFlags struct {
	Control string `placeholder:"PATH" default:"${control}" help:"Control socket of the daemon (default: ${default})."`
}

func (c *controlFlags) client() *control.Client { return &control.Client{Path: c.Control} }

type statusCmd struct {
	Vif string `arg:"" optional:"" complete:"vif" help:"Only this vif: its number, its MAC address or the name of its TAP."`
	controlFlags
	JSON bool `name:"json" help:"Print what the daemon answered, as JSON."`
}

func (c *statusCmd) Help() string {
	return `Shows for each vif the state of both sides, since when, and why; the features that were
negotiated, and why the others were not; granted pages; what the kernel counts on the TAP;
and lost frames by cause. For each queue it shows the counters and the maps, which are
granted buffers: tx is from the TAP to the ring, rx from the ring to the TAP. The exit code
is 1 if no daemon answers.`
}

func (c *statusCmd) Run(s streams) error {
	st, err := c.client().Status(context.Background())
	if err != nil {
		return err
	}
	if c.Vif != "" {
		if err := st.Only(c.Vif); err != nil {
			return err
		}
	}
	if c.JSON {
		return printJSON(s.out, st)
	}
	return show.Status(s.out, st, time.Now())
}

// printJSON writes an answer as indented JSON.
func printJSON[T any](w io.Writer, answer *T) error {
	doc, err := json.MarshalIndent(answer, "", "  ")
	if err == nil {
		_, err = w.Write(append(printable.JSON(doc), '\n'))
	}
	return err
}

type dumpCmd struct {
	Vif string `arg:"" complete:"vif" help:"The vif: its number, its MAC address or the name of its TAP."`
	controlFlags
	JSON bool `name:"json" help:"Print what the daemon answered, as JSON."`
}

func (c *dumpCmd) Help() string {
	return `Shows the rings from the frontend's side, as netback shows them in debugfs as io_ring: the
words that both ends share, the frontend's own indices, and every map that the backend may
use, with its slot, its grant and, for tx, its age. All of a queue belongs to one moment.`
}

func (c *dumpCmd) Run(s streams) error {
	d, err := c.client().Dump(context.Background(), c.Vif)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(s.out, d)
	}
	return show.Dump(s.out, d)
}

type kickCmd struct {
	Vif string `arg:"" complete:"vif" help:"The vif: its number, its MAC address or the name of its TAP."`
	controlFlags
}

func (c *kickCmd) Help() string {
	return `Notifies the backend on every event channel of the vif, and makes the daemon check every
queue. "kick" in netback's io_ring does the same from the other side. If frames flow again
after it, an event was lost. It does no harm. Needs root.`
}

func (c *kickCmd) Run(streams) error {
	return c.client().Kick(context.Background(), c.Vif)
}

type retryCmd struct {
	Vif string `arg:"" complete:"vif" help:"The vif: its number, its MAC address or the name of its TAP."`
	controlFlags
}

func (c *retryCmd) Help() string {
	return `A vif is off after its backend has broken the protocol too often, or if the backend keeps
too many pages. This forgets what the backend did, and makes the next attempt to connect at
once. Find out first what runs in the backend's domain. A connected vif goes on. Needs root.`
}

func (c *retryCmd) Run(streams) error {
	return c.client().Retry(context.Background(), c.Vif)
}

type reloadCmd struct {
	controlFlags
}

func (c *reloadCmd) Help() string {
	return `Does what SIGHUP does, and ends when the configuration is in force. If the configuration has
a mistake, it says so, and nothing changes. Vifs of which nothing changes go on without a
disturbance. Needs root.`
}

func (c *reloadCmd) Run(streams) error {
	return c.client().Reload(context.Background())
}
