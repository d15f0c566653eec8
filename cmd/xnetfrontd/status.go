package main

import (
	"context"
	"encoding/json"
	"time"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/show"
	"github.com/xnetfrontd/xnetfrontd/pkg/control"
)

type statusCmd struct {
	Vif     string `arg:"" optional:"" predictor:"vif" help:"Only this vif: its number, its MAC address or the name of its TAP."`
	Control string `placeholder:"PATH" default:"${control}" help:"Control socket of the daemon (default: ${default})."`
	JSON    bool   `name:"json" help:"Print what the daemon answered, as JSON."`
}

func (c *statusCmd) Run(s streams) error {
	st, err := (&control.Client{Path: c.Control}).Status(context.Background())
	if err != nil {
		return err
	}
	if c.Vif != "" {
		if err := st.Only(c.Vif); err != nil {
			return err
		}
	}
	if c.JSON {
		enc := json.NewEncoder(s.out)
		enc.SetIndent("", "  ")
		return enc.Encode(st)
	}
	return show.Status(s.out, st, time.Now())
}
