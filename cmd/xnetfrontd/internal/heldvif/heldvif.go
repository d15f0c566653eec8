// Package heldvif is the daemon's side of the holder: it keeps what the next process needs of
// each vif there, and tells what an earlier process has left.
package heldvif

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/config"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/logging"
	"github.com/xnetfrontd/xnetfrontd/internal/hold"
	"github.com/xnetfrontd/xnetfrontd/pkg/netfront"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

// calls are what a [hold.Keeper] and a [hold.Client] have in common.
type calls interface {
	Put(ctx context.Context, b hold.Bundle) error
	Get(ctx context.Context, key string) (*hold.Bundle, error)
	Drop(ctx context.Context, key string) error
	Park(ctx context.Context, key string) (id string, err error)
}

// Holder is the holder as a vif sees it: a [netfront.Holder]. A call that fails since the
// holder is away is no error: the keeper makes up for it when there is a holder again.
type Holder struct{ calls calls }

// New is the holder that a [hold.Keeper] or a [hold.Client] reaches.
func New(c calls) Holder { return Holder{c} }

// Put implements [netfront.Holder].
func (h Holder) Put(key, label string, files []netfront.HeldFile) error {
	b := hold.Bundle{Key: key, Label: label}
	for _, f := range files {
		b.Files = append(b.Files, hold.File{Name: f.Name, FD: f.FD})
	}
	return remembered(h.calls.Put(context.Background(), b))
}

// Get implements [netfront.Holder].
func (h Holder) Get(key string) (string, []netfront.HeldFile, error) {
	b, err := h.calls.Get(context.Background(), key)
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

// Drop implements [netfront.Holder].
func (h Holder) Drop(key string) error {
	err := remembered(h.calls.Drop(context.Background(), key))
	if errors.Is(err, hold.ErrNotFound) {
		return nil
	}
	return err
}

// Park implements [netfront.Holder].
func (h Holder) Park(key string) error {
	_, err := h.calls.Park(context.Background(), key)
	if errors.Is(err, hold.ErrNotFound) {
		return nil
	}
	return remembered(err)
}

// remembered is err, or nil if the keeper makes up for it when there is a holder again.
func remembered(err error) error {
	if errors.Is(err, hold.ErrUnavailable) {
		return nil
	}
	return err
}

// Timeout is how long a start waits for a holder, and how long a stop waits for the holder
// to have everything. Without a holder, all works but the take-over by the next process.
const Timeout = 3 * time.Second

// underSystemd tells whether systemd runs this process as a service that reports to it. Then
// the holder is a unit of its own, and its socket starts it. A holder that this process
// started would have the sandbox of this process, and would end with its control group.
func underSystemd() bool { return os.Getenv("NOTIFY_SOCKET") != "" }

// StartKeeper connects to the holder, starts a holder if there is none, and waits until it
// knows what the holder has.
func StartKeeper(ctx context.Context, socket string, log *zap.Logger) *hold.Keeper {
	options := hold.KeeperOptions{Socket: socket, Log: log}
	if !underSystemd() {
		options.Command = hold.StartCommand(socket)
	}
	keeper := hold.StartKeeper(options)
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	if err := keeper.Sync(ctx); err != nil {
		log.Warn("no holder: this daemon cannot take over from an earlier one, nor the next one from this one",
			zap.String("socket", socket), logging.Problem(err), logging.Event(hold.EventNoHolder))
	}
	return keeper
}

// Sync waits until the holder has everything that the keeper was told.
func Sync(keeper *hold.Keeper) error {
	ctx, cancel := context.WithTimeout(context.Background(), Timeout)
	defer cancel()
	return keeper.Sync(ctx)
}

// EndKeeper ends the keeper once the holder knows all. This process may be the last to have
// the parked descriptors.
func EndKeeper(keeper *hold.Keeper, log *zap.Logger) error {
	if err := Sync(keeper); err != nil {
		log.Warn("the holder does not have everything", logging.Problem(err), logging.Event(netfront.EventNotHeld))
	}
	return keeper.Close()
}

// Key is the key of a vif with the holder: the name of its TAP, by which the user knows it.
func Key(tap string) string { return "tap/" + tap }

// MayBe tells whether a table can be that of the vif under key.
func MayBe(t config.Vif, key string) bool {
	before, after, pattern := strings.Cut(Key(t.TAP), "%d")
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

// Discard ends the connection of vif devid that a daemon has left with the holder. Without a
// holder there is none.
func Discard(ctx context.Context, socket string, store xen.Store, devid int) error {
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
			errs = append(errs, netfront.Discard(store, New(client), key))
		}
	}
	return errors.Join(errs...)
}

// CheckAdoption fails if this program cannot go on with the connection under key.
func CheckAdoption(ctx context.Context, client *hold.Client, key string) error {
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
