package machine

import (
	"cmp"
	"fmt"
	"path/filepath"

	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

// Xen is the hypervisor below this guest: the real one, or an embedded one.
type Xen struct {
	Dir   string    // of the embedded Xen; empty: the real one
	DomID xen.DomID // of this guest, with an embedded Xen
	Locks string    // folder of the locks, with the real one; empty: /run/xnetfrontd
}

// Embedded tells whether it is an embedded Xen.
func (x Xen) Embedded() bool { return x.Dir != "" }

// Open connects to the hypervisor.
func (x Xen) Open(sys System) (*xen.Guest, error) {
	if !x.Embedded() {
		guest, err := xen.Open()
		if err != nil {
			return nil, sys.ExplainXen(err)
		}
		return guest, nil
	}
	conn, err := xensim.Dial(x.Dir, x.DomID)
	if err != nil {
		return nil, fmt.Errorf("embedded Xen in %s: %w", x.Dir, err)
	}
	return conn.Guest(), nil
}

// LockDir is where the locks of this domain's vifs are. Each Xen and domain has one set of
// vifs, whatever control sockets the daemons have.
func (x Xen) LockDir() string {
	if x.Embedded() {
		return filepath.Join(x.Dir, fmt.Sprintf("locks-%d", x.DomID))
	}
	return cmp.Or(x.Locks, "/run/xnetfrontd")
}
