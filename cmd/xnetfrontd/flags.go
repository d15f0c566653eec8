package main

import (
	"errors"
	"io/fs"

	"go.uber.org/zap"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/config"
	"github.com/xnetfrontd/xnetfrontd/pkg/netfront"
)

// configFlags say what to serve: a file, or one vif on the command line. They belong
// to run and check.
type configFlags struct {
	Config     string           `short:"c" placeholder:"FILE" help:"Configuration file; FILE.d/*.toml are read after it (default: /etc/xnetfrontd/xnetfrontd.toml, unless --vif is given)."`
	Vif        *config.Selector `placeholder:"N|MAC|*" help:"This vif, or all of them (*), as the flags below say, instead of what is in a file."`
	TAP        string           `name:"tap" placeholder:"NAME" help:"With --vif: name of the TAP, %d being the vif's number (default: xnf%d)."`
	Queues     int              `placeholder:"N" help:"With --vif: queue pairs (default: one for each CPU, at most 8)."`
	MTU        int              `name:"mtu" placeholder:"BYTES" help:"With --vif: MTU (default: what the toolstack says, else 1500)."`
	TxQueueLen int              `name:"txqueuelen" placeholder:"FRAMES" help:"With --vif: frames the TAP queues before it drops (default: the kernel's, 1000)."`
	Disable    []string         `placeholder:"FEATURE" help:"With --vif: features not to negotiate (sg, csum, csum_ipv6, gso_tcpv4, gso_tcpv6, split_channels)."`
	Control    string           `placeholder:"PATH" help:"Control socket (default: the file's, else /run/xnetfrontd/control.sock)."`
	LogLevel   string           `placeholder:"LEVEL" help:"debug, info, warn or error (default: the file's, else info)."`
	LogFormat  string           `placeholder:"FORMAT" help:"auto, console, journal or json (default: the file's, else auto: console on a terminal, journal where stderr is journald's, else json)."`
}

// load returns the configuration that the flags stand for, checked.
func (f *configFlags) load() (config.Config, error) {
	l, err := f.loaded()
	if err != nil {
		return config.Config{}, err
	}
	return l.Config, nil
}

// loaded is load with where the values come from.
func (f *configFlags) loaded() (*config.Loaded, error) {
	l, err := f.base()
	if err != nil {
		return nil, usageError{err}
	}
	for _, o := range []struct{ key, val string }{
		{"control", f.Control}, {"log.level", f.LogLevel}, {"log.format", f.LogFormat},
	} {
		if o.val != "" {
			l.Set(o.key, o.val)
		}
	}
	if err := l.Check(); err != nil {
		return nil, usageError{err}
	}
	return l, nil
}

func (f *configFlags) base() (*config.Loaded, error) {
	if f.Vif == nil {
		if f.TAP != "" || f.Queues != 0 || f.MTU != 0 || f.TxQueueLen != 0 || len(f.Disable) != 0 {
			return nil, errors.New("--tap, --queues, --mtu, --txqueuelen and --disable describe the vif of --vif: give that too, or put them into the configuration file")
		}
		return f.file()
	}
	if f.Config != "" {
		return nil, errors.New("--config and --vif exclude each other: the vif belongs into the file as a [[vif]] table")
	}
	vif := config.NewVif(*f.Vif)
	if f.TAP != "" {
		vif.TAP = f.TAP
	}
	vif.Queues, vif.MTU, vif.TxQueueLen, vif.Disable = f.Queues, f.MTU, f.TxQueueLen, f.Disable
	return config.FromCommandLine(vif), nil
}

func (f *configFlags) file() (*config.Loaded, error) {
	if f.Config != "" {
		return config.Load(f.Config)
	}
	l, err := config.Load(config.DefaultPath)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nothingToServe{}
	}
	return l, err
}

// nothingToServe is the error of a run that was told nothing.
type nothingToServe struct{}

func (nothingToServe) Error() string {
	return "nothing to serve: give --vif, or --config FILE, or write " + config.DefaultPath
}

// Is makes it the error of a file that is not there.
func (nothingToServe) Is(target error) bool { return target == fs.ErrNotExist }

// frontendConfig is what netfront is told about vif devid, which is served by v. It
// logs nothing.
func frontendConfig(v config.Vif, devid int) netfront.Config {
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
	return cfg
}
