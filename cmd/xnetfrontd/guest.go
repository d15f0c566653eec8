package main

import (
	"cmp"
	"fmt"
	"path/filepath"

	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

// xenFlags choose the hypervisor.
type xenFlags struct {
	Xen   string    `hidden:"" env:"XNETFRONTD_XEN" placeholder:"DIR" help:"Use the embedded Xen in this directory instead of the devices in /dev/xen."`
	DomID xen.DomID `hidden:"" name:"domid" default:"1" help:"With --xen: the domain to be."`

	locks string // folder of the locks; empty but in tests
}

// embedded reports whether the embedded Xen was chosen.
func (f *xenFlags) embedded() bool { return f.Xen != "" }

// open connects to the hypervisor.
func (f *xenFlags) open(sys system) (*xen.Guest, error) {
	if !f.embedded() {
		guest, err := xen.Open()
		if err != nil {
			return nil, sys.explainXen(err)
		}
		return guest, nil
	}
	conn, err := xensim.Dial(f.Xen, f.DomID)
	if err != nil {
		return nil, fmt.Errorf("embedded Xen in %s: %w", f.Xen, err)
	}
	return conn.Guest(), nil
}

// lockDir is where the locks of this domain's vifs are: there is one set of vifs for
// each Xen and domain, whatever control sockets the daemons have.
func (f *xenFlags) lockDir() string {
	if f.embedded() {
		return filepath.Join(f.Xen, fmt.Sprintf("locks-%d", f.DomID))
	}
	return cmp.Or(f.locks, "/run/xnetfrontd")
}
