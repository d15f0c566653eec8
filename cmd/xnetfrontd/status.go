package main

import (
	"encoding/json"
	"time"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/control"
)

// statusTimeout is how long status waits for the daemon.
const statusTimeout = 5 * time.Second

type statusCmd struct {
	Vif     string `arg:"" optional:"" help:"Only this vif: its number, its MAC address or the name of its TAP."`
	Control string `placeholder:"PATH" default:"${control}" help:"Control socket of the daemon (default: ${default})."`
	JSON    bool   `name:"json" help:"Print what the daemon answered, as JSON."`
}

func (c *statusCmd) Run(s streams) error {
	st, err := control.QueryStatus(c.Control, statusTimeout)
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
	return control.Print(s.out, st, time.Now())
}
