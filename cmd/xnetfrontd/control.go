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
	Vif string `arg:"" optional:"" predictor:"vif" help:"Only this vif: its number, its MAC address or the name of its TAP."`
	controlFlags
	JSON bool `name:"json" help:"Print what the daemon answered, as JSON."`
}

func (c *statusCmd) Help() string {
	return `Shows of each vif the state of both sides, since when, and why; what was negotiated, and
why the rest was not; granted pages; what the kernel counts on the TAP; frames that were
lost, by cause; and of each queue its counters and its maps, which are granted buffers, tx
being from the TAP to the ring and rx from the ring to the TAP. Exit code 1 if no daemon
answers.`
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
	Vif string `arg:"" predictor:"vif" help:"The vif: its number, its MAC address or the name of its TAP."`
	controlFlags
	JSON bool `name:"json" help:"Print what the daemon answered, as JSON."`
}

func (c *dumpCmd) Help() string {
	return `What netback shows in debugfs as io_ring, from the frontend's side: the words that both
ends share, the indices that only this one has, and every map that the backend may use,
with its slot, its grant and, for tx, its age. A queue's figures belong to one moment.`
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
	Vif string `arg:"" predictor:"vif" help:"The vif: its number, its MAC address or the name of its TAP."`
	controlFlags
}

func (c *kickCmd) Help() string {
	return `Notifies the backend on every event channel of the vif and looks at every queue, whatever
the events say: what "kick" in netback's io_ring does from the other side. Frames that go
on after it were waiting for an event that was lost. It costs nothing, and needs root.`
}

func (c *kickCmd) Run(streams) error {
	return c.client().Kick(context.Background(), c.Vif)
}

type retryCmd struct {
	Vif string `arg:"" predictor:"vif" help:"The vif: its number, its MAC address or the name of its TAP."`
	controlFlags
}

func (c *retryCmd) Help() string {
	return `Takes a vif up again that is off, since its backend broke the protocol too often or keeps
too many pages: what it did is forgotten, and the next attempt comes at once. Find out
first what runs in the backend's domain. A connection that stands goes on. Needs root.`
}

func (c *retryCmd) Run(streams) error {
	return c.client().Retry(context.Background(), c.Vif)
}

type reloadCmd struct {
	controlFlags
}

func (c *reloadCmd) Help() string {
	return `As SIGHUP does, but it ends when the daemon goes by the configuration, or says why it
still goes by the one before: a file with a mistake changes nothing. Vifs of which nothing
changes do not notice. Needs root.`
}

func (c *reloadCmd) Run(streams) error {
	return c.client().Reload(context.Background())
}
