package main

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"go.uber.org/zap"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/config"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/daemon"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/failure"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/logging"
	"github.com/xnetfrontd/xnetfrontd/internal/netback"
	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

// maxDemoQueues is how many queue pairs the embedded backend offers at most.
const maxDemoQueues = 16

// embeddedXenCmd is the embedded Xen as a process: a domain 0 with one network device for one
// guest. The backend's TAP is in the network namespace of the process.
type embeddedXenCmd struct {
	Dir     string    `arg:"" help:"Directory for the sockets."`
	DomID   xen.DomID `name:"domid" default:"1" help:"The guest."`
	DevID   int       `name:"devid" default:"0" help:"Its vif."`
	TAP     string    `name:"tap" placeholder:"NAME" help:"Name of the backend's TAP (default: vif<domid>.<devid>)."`
	Queues  int       `default:"2" help:"Queue pairs to offer."`
	Rate    string    `placeholder:"BYTES,USEC" help:"What each queue may send: so many bytes in so many microseconds, as in the backend's rate node (default: no limit)."`
	Without []string  `help:"Features not to offer."`
}

// backendFeatureNames are the features that the backend can leave out, as [config] names them.
// IPv4's checksum offload is not among them: it has no node in xenstore, and every backend
// has it.
func backendFeatureNames() []string {
	return slices.DeleteFunc(config.Features(), func(s string) bool { return s == "csum" })
}

func backendFeatures(without []string) (netback.Features, error) {
	f := netback.LinuxFeatures()
	off := map[string]*bool{
		"sg": &f.SG, "csum_ipv6": &f.CsumIPv6, "gso_tcpv4": &f.GSOv4, "gso_tcpv6": &f.GSOv6, "split_channels": &f.SplitChannels,
	}
	for _, name := range without {
		p, ok := off[name]
		if !ok {
			return f, failure.Usagef("feature %q: expected one of %s", name, strings.Join(backendFeatureNames(), ", "))
		}
		*p = false
	}
	return f, nil
}

func (c *embeddedXenCmd) Run(streams) error {
	features, err := backendFeatures(c.Without)
	if err != nil {
		return err
	}
	features.MaxQueues = c.Queues
	if err := netback.CheckRate(c.Rate); err != nil {
		return failure.Usagef("--rate %q: expected bytes and microseconds, such as \"125000,50000\"", c.Rate)
	}
	log, err := logging.New(config.Log{Level: "info", Format: "auto"})
	if err != nil {
		return err
	}
	sig := daemon.CatchSignals(log)
	defer sig.Close()
	ctx := sig.Context
	server, err := xensim.New(xensim.Options{Dir: c.Dir, AllowRaise: true})
	if err != nil {
		return err
	}
	defer server.Close()
	if err := server.Listen(); err != nil {
		return err
	}
	domain0, err := server.Connect(0)
	if err != nil {
		return err
	}
	defer domain0.Close()
	err = xensim.AttachVif(ctx, domain0.Store(), xensim.VifConfig{
		Frontend: c.DomID, Backend: 0, DevID: c.DevID,
		MAC:     net.HardwareAddr{0x00, 0x16, 0x3e, 0, byte(c.DomID), byte(c.DevID)}, // Xen's OUI
		VifName: c.TAP, Rate: c.Rate,
	})
	if err != nil {
		return err
	}
	return c.serve(ctx, domain0, features, log)
}

// serve is netback until ctx ends. It tells systemd READY=1 when the backend's TAP is there.
func (c *embeddedXenCmd) serve(ctx context.Context, domain0 *xensim.Connection, features netback.Features, log *zap.Logger) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	backend := netback.New(domain0, netback.Options{
		Features: &features,
		Log:      log,
		NewPort: func(v netback.VifInfo) (netback.Port, error) {
			port, err := netback.NewTAPPort(tap.Config{Name: v.Name, MTU: v.MTU})
			if err != nil {
				cancel(err) // there is nothing else to serve
				return nil, err
			}
			return port, nil
		},
	})
	served := make(chan error, 1)
	go func() { served <- backend.Serve(ctx) }()
	if _, err := backend.Vif(ctx, netback.VifID{Frontend: c.DomID, Device: c.DevID}); err == nil {
		daemon.Notify(log, sd.SdNotifyReady)
	}
	err := <-served
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return err
}
