package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/config"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/failure"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/heldvif"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/logging"
	"github.com/xnetfrontd/xnetfrontd/internal/hold"
	"github.com/xnetfrontd/xnetfrontd/internal/printable"
	"github.com/xnetfrontd/xnetfrontd/pkg/netfront"
)

type holdCmd struct {
	Socket    string        `default:"${hold_socket}" placeholder:"PATH" help:"Where to listen, unless systemd passes a socket (default: ${default})."`
	AllowUser []string      `name:"allow-user" placeholder:"USER" help:"User who may connect besides root and the holder's own: a name or a number. The log has a line about a name that no user has."`
	LogLevel  string        `default:"info" placeholder:"LEVEL" help:"debug, info, warn or error (default: ${default})."`
	LogFormat string        `default:"auto" placeholder:"FORMAT" help:"auto, console, journal or json (default: ${default}: console on a terminal, journal where stderr is journald's, else json)."`
	Linger    time.Duration `hidden:"" help:"End after so long with nothing held and no client."`
	Detach    bool          `hidden:"" help:"Go on as nobody's child, and say \"ready\" on standard output."`
	Detached  bool          `hidden:"" help:"Be what --detach started."`
}

func (c *holdCmd) Help() string {
	return `Keeps the daemon's file descriptors, so that the next daemon goes on where the last one
ended: after a restart, an upgrade, or a crash. The holder does not use them itself. A
signal to stop (SIGTERM, SIGINT) ends it as soon as it holds nothing, such as after the
daemon was stopped. After a restore of the guest from a save, it keeps parked descriptors
until the guest is off, since Linux cannot release what they stand for.`
}

func (c *holdCmd) Run(streams) error {
	if c.Linger < 0 {
		return failure.Usagef("--linger %s: expected 0 or more", c.Linger)
	}
	if c.Detach {
		return hold.Detach(append(slices.DeleteFunc(slices.Clone(os.Args[1:]), func(arg string) bool { return arg == "--detach" }), "--detached"))
	}
	if err := hold.Rename(); err != nil {
		return err
	}
	log, err := logging.New(config.Log{Level: c.LogLevel, Format: c.LogFormat})
	if err != nil {
		return failure.Usage(err)
	}
	defer func() { _ = log.Sync() }() // fails on terminals and pipes, with nothing lost
	uids, unknown := lookupUsers(c.AllowUser)
	if len(unknown) > 0 {
		// That is no reason to end: nothing else keeps what a daemon will hand over.
		log.Warn("there are no such users: they cannot connect", zap.Strings("users", unknown))
	}
	var ready io.WriteCloser
	if c.Detached {
		ready = detachedOutput{os.Stdout}
	}
	return hold.Run(hold.RunOptions{Socket: c.Socket, AllowUIDs: uids, Linger: c.Linger, Ready: ready, Log: log})
}

// lookupUsers returns the numbers of users, and the names that no user has.
func lookupUsers(names []string) (uids []int, unknown []string) {
	for _, name := range names {
		number := name
		if u, err := user.Lookup(name); err == nil {
			number = u.Uid
		}
		if uid, err := strconv.ParseUint(number, 10, 31); err == nil {
			uids = append(uids, int(uid))
		} else {
			unknown = append(unknown, name)
		}
	}
	return uids, unknown
}

// detachedOutput is a standard output that Close turns into /dev/null.
type detachedOutput struct{ *os.File }

// Close leaves the descriptor open on /dev/null, so that no other file gets its number.
func (o detachedOutput) Close() error {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(unix.Dup3(int(null.Fd()), int(o.Fd()), 0), null.Close())
}

// adoptCheckCmd is what a package's upgrade runs of the new program, before it restarts the
// daemon.
type adoptCheckCmd struct {
	Socket string `default:"${hold_socket}" help:"The holder's socket (default: ${default})." placeholder:"PATH"`
}

func (c *adoptCheckCmd) Help() string {
	return `Checks the running daemon's connections, which the holder keeps, and tells for each whether
this program can go on with it. Exit code 0: a restart loses nothing. 1: the vifs that were
named get a new connection, which costs the frames of about a second; TAP, addresses and
sockets stay.`
}

func (c *adoptCheckCmd) Run(s streams) error {
	ctx, cancel := context.WithTimeout(context.Background(), heldvif.Timeout)
	defer cancel()
	client, err := hold.Dial(ctx, c.Socket)
	if err != nil {
		return fmt.Errorf("nothing can be taken over: %w", err)
	}
	defer client.Close()
	entries, err := client.List(ctx)
	if err != nil {
		return err
	}
	bad := 0
	for _, e := range entries {
		vif, ok := strings.CutSuffix(e.Key, netfront.KeyConnection)
		if !ok || e.Parked != "" {
			continue
		}
		if err := heldvif.CheckAdoption(ctx, client, e.Key); err != nil {
			bad++
			fmt.Fprintf(s.out, "%s: a restart makes a new connection: %s\n", printable.Line(vif), printable.Error(err))
			continue
		}
		fmt.Fprintf(s.out, "%s: can be taken over\n", printable.Line(vif))
	}
	if bad > 0 {
		return failure.Reported(failure.ExitRuntime)
	}
	return nil
}
