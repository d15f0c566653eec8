package lab

import (
	"context"
	"io/fs"

	"golang.org/x/sys/unix"
)

// Guest is dom0 or a domU: a place where commands run. Its methods may be used by any
// goroutine.
type Guest struct {
	name string
}

// Run executes a command and returns what it wrote to stdout. If it failed the error
// is an *ExitError, which holds stderr. The command ends with ctx.
func (g *Guest) Run(ctx context.Context, argv ...string) (string, error) { return "", errSkeleton }

// Shell runs a script with /bin/sh, under set -eu.
func (g *Guest) Shell(ctx context.Context, script string) (string, error) { return "", errSkeleton }

// Start starts a command, which ends with ctx.
func (g *Guest) Start(ctx context.Context, argv ...string) (*Process, error) {
	return g.StartCommand(ctx, Command{Argv: argv})
}

// StartCommand starts a command, which ends with ctx unless it is detached.
func (g *Guest) StartCommand(ctx context.Context, c Command) (*Process, error) {
	return nil, errSkeleton
}

// WriteFile writes a file and makes the folders above it. It appears whole.
func (g *Guest) WriteFile(ctx context.Context, path string, data []byte, mode fs.FileMode) error {
	return errSkeleton
}

// ReadFile reads a file of any kind that ends, also in /proc and /sys.
func (g *Guest) ReadFile(ctx context.Context, path string) ([]byte, error) { return nil, errSkeleton }

// Process is a command that was started.
type Process struct {
	Pid int
}

// Wait waits for the end, which it may have seen before. An exit code other than 0 is
// no error; a connection that broke is.
func (p *Process) Wait(ctx context.Context) (Result, error) { return Result{}, errSkeleton }

// Signal sends a signal to the command's process group.
func (p *Process) Signal(ctx context.Context, s unix.Signal) error { return errSkeleton }

// Stdout is what the command has written so far.
func (p *Process) Stdout() string { return "" }

// Stderr is what the command has written so far.
func (p *Process) Stderr() string { return "" }
