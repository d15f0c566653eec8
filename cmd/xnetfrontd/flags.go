package main

import (
	"errors"
	"io/fs"
	"os"

	"go.uber.org/zap"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/config"
	"github.com/xnetfrontd/xnetfrontd/pkg/netfront"
)

// configFlags say what to serve: a file, or one vif on the command line. They belong
// to run and check.
type configFlags struct {
	Config     string           `short:"c" placeholder:"FILE" help:"Configuration file (default: /etc/xnetfrontd/xnetfrontd.toml, unless --vif is given)."`
	Vif        *config.Selector `placeholder:"N|MAC|*" help:"Serve this vif, or all of them (*), as the flags below say, instead of a file's."`
	TAP        string           `name:"tap" placeholder:"NAME" help:"With --vif: name of the TAP, %%d being the vif's number (default: xnf%%d)."`
	Queues     int              `placeholder:"N" help:"With --vif: queues (default: one for each CPU, at most 8)."`
	MTU        int              `name:"mtu" placeholder:"BYTES" help:"With --vif: MTU (default: what the toolstack says, else 1500)."`
	TxQueueLen int              `name:"txqueuelen" placeholder:"FRAMES" help:"With --vif: frames the TAP queues before it drops."`
	Disable    []string         `placeholder:"FEATURE" help:"With --vif: features not to negotiate (sg, csum, csum_ipv6, gso_tcpv4, gso_tcpv6, split_channels)."`
	Control    string           `placeholder:"PATH" help:"Control socket (default: the file's, else /run/xnetfrontd/control.sock)."`
	LogLevel   string           `placeholder:"LEVEL" help:"debug, info, warn or error (default: the file's, else info)."`
	LogFormat  string           `placeholder:"FORMAT" help:"auto, console, journal or json (default: the file's, else auto: console on a terminal, journal where stderr is journald's, else json)."`
}

// load returns the configuration that the flags stand for, checked.
func (f *configFlags) load() (config.Config, error) {
	cfg, err := f.base()
	if err != nil {
		return cfg, usageError{err}
	}
	for _, o := range []struct {
		dst *string
		val string
	}{{&cfg.Control, f.Control}, {&cfg.Log.Level, f.LogLevel}, {&cfg.Log.Format, f.LogFormat}} {
		if o.val != "" {
			*o.dst = o.val
		}
	}
	if err := cfg.Validate(); err != nil {
		return cfg, usagef("command line: %w", err)
	}
	return cfg, nil
}

func (f *configFlags) base() (config.Config, error) {
	if f.Vif == nil {
		if f.TAP != "" || f.Queues != 0 || f.MTU != 0 || f.TxQueueLen != 0 || len(f.Disable) != 0 {
			return config.Config{}, errors.New("--tap, --queues, --mtu, --txqueuelen and --disable describe the vif of --vif: give that too, or put them into the configuration file")
		}
		return f.file()
	}
	if f.Config != "" {
		return config.Config{}, errors.New("--config and --vif exclude each other: the vif belongs into the file as a [[vif]] table")
	}
	cfg := config.Default()
	vif := config.NewVif(*f.Vif)
	if f.TAP != "" {
		vif.TAP = f.TAP
	}
	vif.Queues, vif.MTU, vif.TxQueueLen, vif.Disable = f.Queues, f.MTU, f.TxQueueLen, f.Disable
	cfg.Vifs = []config.Vif{vif}
	return cfg, nil
}

func (f *configFlags) file() (config.Config, error) {
	if f.Config != "" {
		return config.Load(f.Config)
	}
	if _, err := os.Stat(config.DefaultPath); errors.Is(err, fs.ErrNotExist) {
		return config.Config{}, errors.New("nothing to serve: give --vif, or --config FILE, or write " + config.DefaultPath)
	}
	return config.Load(config.DefaultPath)
}

// frontendConfig is what netfront is told about vif devid, which is served by v. It
// logs nothing.
func frontendConfig(v config.Vif, devid int) netfront.Config {
	cfg := netfront.Config{
		DevID:      devid,
		TAPName:    v.TAPName(devid),
		TxQueueLen: v.TxQueueLen,
		MTU:        v.MTU,
		Queues:     v.Queues,
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
	return cfg
}
