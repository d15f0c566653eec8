package main

import "github.com/xnetfrontd/xnetfrontd/pkg/control"

// controlFlags say which daemon is asked.
type controlFlags struct {
	Control string `placeholder:"PATH" default:"${control}" help:"Control socket of the daemon (default: ${default})."`
}

func (c *controlFlags) client() *control.Client { return &control.Client{Path: c.Control} }
