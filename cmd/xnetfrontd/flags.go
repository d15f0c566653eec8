package main

import (
	"errors"
	"io/fs"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/config"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/failure"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/machine"
	"github.com/xnetfrontd/xnetfrontd/internal/hold"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

// configFlags say what to serve: a file, or one vif on the command line.
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

// loaded is load, and tells where the values come from.
func (f *configFlags) loaded() (*config.Loaded, error) {
	l, err := f.base()
	if err != nil {
		return nil, failure.Usage(err)
	}
	for _, o := range []struct{ key, val string }{
		{"control", f.Control}, {"log.level", f.LogLevel}, {"log.format", f.LogFormat},
	} {
		if o.val != "" {
			l.Set(o.key, o.val)
		}
	}
	if err := l.Check(); err != nil {
		return nil, failure.Usage(err)
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

// nothingToServe is the error of a run without a file and without --vif.
type nothingToServe struct{}

func (nothingToServe) Error() string {
	return "nothing to serve: give --vif, or --config FILE, or write " + config.DefaultPath
}

// Is makes it an error of a file that is not there.
func (nothingToServe) Is(target error) bool { return target == fs.ErrNotExist }

// xenFlags choose the hypervisor.
type xenFlags struct {
	Xen   string    `hidden:"" env:"XNETFRONTD_XEN" placeholder:"DIR" help:"Use the embedded Xen in this directory instead of the devices in /dev/xen."`
	DomID xen.DomID `hidden:"" name:"domid" default:"1" help:"With --xen: the domain to be."`
}

func (f *xenFlags) xen() machine.Xen { return machine.Xen{Dir: f.Xen, DomID: f.DomID} }

// holdFlags say where the holder is.
type holdFlags struct {
	Holder string `placeholder:"PATH" help:"Socket of the holder, which keeps what the next daemon needs to go on without an outage (default: ${hold_socket}; run starts one if there is none); 'none': do without."`
}

// socket is the holder's, or empty. The guest of an embedded Xen has a holder only if that
// is named: the machine's own holder is for the machine's own vifs.
func (f *holdFlags) socket(embedded bool) string {
	switch {
	case f.Holder == "none", f.Holder == "" && embedded:
		return ""
	case f.Holder == "":
		return hold.DefaultSocket
	}
	return f.Holder
}
