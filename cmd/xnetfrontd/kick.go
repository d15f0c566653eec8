package main

import "context"

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
