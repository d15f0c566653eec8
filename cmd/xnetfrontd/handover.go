package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/config"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/printable"
	"github.com/xnetfrontd/xnetfrontd/internal/hold"
	"github.com/xnetfrontd/xnetfrontd/pkg/netfront"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

// holderCalls are what a [hold.Keeper] and a [hold.Client] have in common.
type holderCalls interface {
	Put(ctx context.Context, b hold.Bundle) error
	Get(ctx context.Context, key string) (*hold.Bundle, error)
	Drop(ctx context.Context, key string) error
	Park(ctx context.Context, key string) (id string, err error)
}

// vifHolder is the holder as a vif sees it: a [netfront.Holder].
type vifHolder struct{ keeper holderCalls }

func (h vifHolder) Put(key, label string, files []netfront.HeldFile) error {
	b := hold.Bundle{Key: key, Label: label}
	for _, f := range files {
		b.Files = append(b.Files, hold.File{Name: f.Name, FD: f.FD})
	}
	return remembered(h.keeper.Put(context.Background(), b))
}

func (h vifHolder) Get(key string) (string, []netfront.HeldFile, error) {
	b, err := h.keeper.Get(context.Background(), key)
	if errors.Is(err, hold.ErrNotFound) {
		return "", nil, fs.ErrNotExist
	}
	if err != nil {
		return "", nil, err
	}
	var files []netfront.HeldFile
	for _, f := range b.Files {
		files = append(files, netfront.HeldFile{Name: f.Name, FD: f.FD})
	}
	return b.Label, files, nil
}

func (h vifHolder) Drop(key string) error {
	err := remembered(h.keeper.Drop(context.Background(), key))
	if errors.Is(err, hold.ErrNotFound) {
		return nil
	}
	return err
}

func (h vifHolder) Park(key string) error {
	_, err := h.keeper.Park(context.Background(), key)
	if errors.Is(err, hold.ErrNotFound) {
		return nil
	}
	return remembered(err)
}

// remembered is err, unless the keeper makes up for it when there is a holder again.
func remembered(err error) error {
	if errors.Is(err, hold.ErrUnavailable) {
		return nil
	}
	return err
}

// holderTimeout is how long a start waits for a holder, and a stop for the last word to
// it. Without one everything works but the next process's take-over.
const holderTimeout = 3 * time.Second

// underSystemd tells whether systemd runs this process as a service that reports to it.
// The holder is a unit of its own then, started by its socket: one that this process
// started would have this one's sandbox, and end with its control group.
func underSystemd() bool { return os.Getenv("NOTIFY_SOCKET") != "" }

// holdFlags say where the holder is.
type holdFlags struct {
	Holder string `placeholder:"PATH" help:"Socket of the holder, which keeps what the next daemon needs to go on without an outage (default: ${hold_socket}; run starts one if there is none); 'none': do without."`
}

// socket is the holder's, or empty. An embedded Xen's guests have one only if it is
// named: the machine's own is for the machine's own vifs.
func (f *holdFlags) socket(embedded bool) string {
	switch {
	case f.Holder == "none", f.Holder == "" && embedded:
		return ""
	case f.Holder == "":
		return hold.DefaultSocket
	}
	return f.Holder
}

// startKeeper connects to the holder, starting one if need be, and waits until what it
// has is known.
func startKeeper(ctx context.Context, socket string, log *zap.Logger) *hold.Keeper {
	options := hold.KeeperOptions{Socket: socket, Log: log}
	if !underSystemd() {
		options.Command = hold.StartCommand(socket)
	}
	keeper := hold.StartKeeper(options)
	ctx, cancel := context.WithTimeout(ctx, holderTimeout)
	defer cancel()
	if err := keeper.Sync(ctx); err != nil {
		log.Warn("no holder: what an earlier daemon left cannot be taken over, nor will the next one go on with this one's connections",
			zap.String("socket", socket), problem(err), event(hold.EventNoHolder))
	}
	return keeper
}

// syncKeeper waits until the holder has everything that it was told.
func syncKeeper(keeper *hold.Keeper) error {
	ctx, cancel := context.WithTimeout(context.Background(), holderTimeout)
	defer cancel()
	return keeper.Sync(ctx)
}

// endKeeper ends the keeper when the holder knows all: this process may be the last to
// have what is parked.
func endKeeper(keeper *hold.Keeper, log *zap.Logger) error {
	if err := syncKeeper(keeper); err != nil {
		log.Warn("the holder was not told everything", problem(err), event(netfront.EventNotHeld))
	}
	return keeper.Close()
}

// holdKey is under which a vif is with the holder: what the user knows it by, the name
// of its TAP.
func holdKey(tap string) string { return "tap/" + tap }

// dropStale ends what an earlier daemon left of vifs that the configuration does not
// have any more. What is not there now, and may come back, stays.
func (p place) dropStale(ctx context.Context, keeper *hold.Keeper, cfg config.Config, store xen.Store) {
	entries, err := keeper.List(ctx)
	if err != nil {
		return // startKeeper has said that there is no holder
	}
	stale := map[string]string{} // number of the vif, or empty, by key
	for _, e := range entries {
		cut := strings.LastIndexByte(e.Key, '/')
		if e.Parked != "" || cut < 0 || slices.ContainsFunc(cfg.Vifs, func(t config.Vif) bool { return mayBe(t, e.Key[:cut]) }) {
			continue
		}
		key := e.Key[:cut]
		if e.Key == key+netfront.KeyConnection {
			stale[key] = e.Label
		} else if _, ok := stale[key]; !ok {
			stale[key] = ""
		}
	}
	for key, number := range stale {
		p.log.Info("ending what an earlier daemon left: the configuration does not have its vif any more", zap.String("key", key), event(eventStale))
		var err error
		if devid, nerr := strconv.Atoi(number); nerr == nil {
			err = p.freeVif(ctx, store, devid)
		}
		if err = errors.Join(err, netfront.Discard(store, vifHolder{keeper}, key)); err != nil {
			p.log.Warn("not ended cleanly", zap.String("key", key), problem(err), event(eventNotTidied))
		}
	}
}

// freeVif has the backend let go of a vif that no process serves. It is left alone if
// somebody has taken it since.
func (p place) freeVif(ctx context.Context, store xen.Store, devid int) (err error) {
	if !p.xen.embedded() {
		limited, cancel := context.WithTimeout(ctx, handLimit)
		defer cancel()
		release, err := p.sys.share(limited, devid)
		if err != nil {
			return err
		}
		defer release()
		if err := p.sys.checkOwner(devid); err != nil {
			return err
		}
	}
	lock, err := lockVif(p.xen.lockDir(), devid)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.release()) }()
	ctx, cancel := context.WithTimeout(ctx, holderTimeout)
	defer cancel()
	if err := netfront.Release(ctx, store, devid, nil); err != nil && !errors.Is(err, netfront.ErrNoVif) {
		return err
	}
	return nil
}

// mayBe tells whether a table can be that of the vif under key.
func mayBe(t config.Vif, key string) bool {
	before, after, pattern := strings.Cut(holdKey(t.TAP), "%d")
	if !pattern {
		return key == before
	}
	number, ok := strings.CutPrefix(key, before)
	if !ok {
		return false
	}
	number, ok = strings.CutSuffix(number, after)
	_, err := strconv.ParseUint(number, 10, 16)
	return ok && err == nil
}

// discardHeld ends what a daemon that is gone has left of vif devid with the holder, if
// there is one.
func discardHeld(ctx context.Context, socket string, store xen.Store, devid int) error {
	client, err := hold.Dial(ctx, socket)
	if errors.Is(err, hold.ErrUnavailable) {
		return nil
	}
	if err != nil {
		return err
	}
	defer client.Close()
	entries, err := client.List(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if key, ok := strings.CutSuffix(e.Key, netfront.KeyConnection); ok && e.Parked == "" && e.Label == strconv.Itoa(devid) {
			errs = append(errs, netfront.Discard(store, vifHolder{client}, key))
		}
	}
	return errors.Join(errs...)
}

// adoptCheckCmd is what a package's upgrade asks the new program before it restarts the
// daemon.
type adoptCheckCmd struct {
	Socket string `default:"${hold_socket}" help:"The holder's socket (default: ${default})." placeholder:"PATH"`
}

func (c *adoptCheckCmd) Help() string {
	return `Looks at what the holder keeps of the running daemon's connections and tells for each
whether this program can go on with it. Exit code 0: a restart loses nothing. 1: those
that were named get a new connection, which costs the frames of about a second; TAP,
addresses and sockets stay.`
}

func (c *adoptCheckCmd) Run(s streams) error {
	ctx, cancel := context.WithTimeout(context.Background(), holderTimeout)
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
		if err := checkAdoption(ctx, client, e.Key); err != nil {
			bad++
			fmt.Fprintf(s.out, "%s: a restart makes a new connection: %s\n", printable.Line(vif), oneLine(err))
			continue
		}
		fmt.Fprintf(s.out, "%s: can be taken over\n", printable.Line(vif))
	}
	if bad > 0 {
		return exitCode(exitRuntime)
	}
	return nil
}

// checkAdoption looks at one connection's state.
func checkAdoption(ctx context.Context, client *hold.Client, key string) error {
	b, err := client.Get(ctx, key)
	if err != nil {
		return err
	}
	for _, f := range b.Files {
		if f.Name == "state" {
			return errors.Join(netfront.CheckState(f.FD), b.Close())
		}
	}
	return errors.Join(fmt.Errorf("%w: it has no state", netfront.ErrHandover), b.Close())
}
