package main

import (
	"context"
	"encoding/json"
	"io"
	"time"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/show"
)

type statusCmd struct {
	Vif string `arg:"" optional:"" predictor:"vif" help:"Only this vif: its number, its MAC address or the name of its TAP."`
	controlFlags
	JSON bool `name:"json" help:"Print what the daemon answered, as JSON."`
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

// printJSON writes an answer for programs, and for people who look at it.
func printJSON[T any](w io.Writer, answer *T) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(answer)
}
