package main

import (
	"context"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/show"
)

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
