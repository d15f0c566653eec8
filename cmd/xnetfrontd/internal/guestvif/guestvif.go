// Package guestvif is what the daemon and the commands say and do alike about a vif of the
// guest: how the driver is configured for it, and how the user is told what is wrong.
package guestvif

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.uber.org/zap"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/config"
	"github.com/xnetfrontd/xnetfrontd/pkg/netfront"
	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

// Dir is where a guest's vifs are, below its home in xenstore.
const Dir = "device/vif"

// Config is the configuration of the driver for vif devid, by the table v. It has no logger.
func Config(v config.Vif, devid int) netfront.Config {
	cfg := netfront.Config{
		DevID:      devid,
		TAPName:    v.TAPName(devid),
		TxQueueLen: v.TxQueueLen,
		MTU:        v.MTU,
		Queues:     v.Queues,
		NoShaping:  v.Shaping == config.ShapingOff,
		Features:   netfront.AllFeatures(),
		Logger:     zap.NewNop(),
	}
	off := map[string]*bool{
		"sg":             &cfg.Features.SG,
		"csum":           &cfg.Features.Csum,
		"csum_ipv6":      &cfg.Features.CsumIPv6,
		"gso_tcpv4":      &cfg.Features.GSOv4,
		"gso_tcpv6":      &cfg.Features.GSOv6,
		"split_channels": &cfg.Features.SplitChannels,
	}
	for _, name := range v.Disable {
		*off[name] = false // config knows no other names
	}
	cfg.NoFeatures = cfg.Features == netfront.Features{}
	return cfg
}

// Existing tells which vifs the toolstack gave this domain, by number.
func Existing(ctx context.Context, s xen.Store) string {
	vifs, err := netfront.Vifs(ctx, s)
	if err != nil {
		return fmt.Sprintf("which ones there are cannot be read: %v", err)
	}
	return Have(config.SelectDevID(0), vifs)
}

// Have tells which vifs this domain has: by number if match is a number, else with their
// addresses.
func Have(match config.Selector, vifs []netfront.Vif) string {
	if len(vifs) == 0 {
		return "this domain has none; attach one with `xl network-attach` in domain 0"
	}
	_, byNumber := match.DevID()
	var texts []string
	for _, v := range vifs {
		text := fmt.Sprint(v.DevID)
		if !byNumber {
			text += " (" + v.MAC.String() + ")"
		}
		texts = append(texts, text)
	}
	return "this domain has " + strings.Join(texts, ", ")
}

// ExplainOpen adds to an error of [netfront.Open] or [netfront.Inspect] what the user can do.
func ExplainOpen(ctx context.Context, guest *xen.Guest, cfg netfront.Config, err error) error {
	switch {
	case errors.Is(err, netfront.ErrNoVif):
		return fmt.Errorf("%w: %s", netfront.ErrNoVif, Existing(ctx, guest.Store))
	case errors.Is(err, tap.ErrNameTaken):
		return TAPTaken(cfg.TAPName)
	}
	return err
}

// TAPTaken is the error of a TAP whose name another link has.
func TAPTaken(name string) error {
	return fmt.Errorf("TAP %q: %w: choose another `tap`, or remove that link with `ip link del %s`", name, tap.ErrNameTaken, name)
}
