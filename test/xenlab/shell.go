package main

import (
	"context"
	"errors"
	"os"

	"golang.org/x/term"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/lab"
)

type shellCmd struct {
	buildFlags
}

func (c *shellCmd) Run(e *env) error { return errors.New("unfinished") }

// onTerminal is whether a prompt can be given.
func onTerminal() bool {
	return term.IsTerminal(int(os.Stdin.Fd())) && term.IsTerminal(int(os.Stdout.Fd()))
}

func prompt(e *env, l *lab.Lab) error { _ = context.Background(); return nil }
