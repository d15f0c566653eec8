package main

import (
	"context"
	"encoding/json"
	"io"
	"time"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/printable"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/show"
)

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

// printJSON writes an answer for programs, and for people who look at it.
func printJSON[T any](w io.Writer, answer *T) error {
	doc, err := json.MarshalIndent(answer, "", "  ")
	if err == nil {
		_, err = w.Write(append(printable.JSON(doc), '\n'))
	}
	return err
}
