package main

import "context"

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
