package main

import "context"

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
