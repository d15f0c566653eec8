package xensim

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

// The toolstack works through any xenstore of domain 0, in any process, and writes
// what libxl writes, with its permissions (libxl_create.c, libxl_device.c,
// libxl_nic.c).

// HomePath is a domain's directory in xenstore.
func HomePath(dom xen.DomID) string { return fmt.Sprintf("/local/domain/%d", dom) }

// FrontendPath is the directory of a vif in its frontend's home.
func FrontendPath(frontend xen.DomID, devID int) string {
	return fmt.Sprintf("%s/device/vif/%d", HomePath(frontend), devID)
}

// BackendPath is the directory of a vif in its backend's home.
func BackendPath(backend, frontend xen.DomID, devID int) string {
	return fmt.Sprintf("%s/backend/vif/%d/%d", HomePath(backend), frontend, devID)
}

// libxlPath is the toolstack's own record of a vif, which no guest can change.
func libxlPath(frontend xen.DomID, devID int) string {
	return fmt.Sprintf("/libxl/%d/device/vif/%d", frontend, devID)
}

// CreateDomain makes the home of dom in xenstore, if it has none.
func CreateDomain(ctx context.Context, store xenstore.Operations, dom xen.DomID) error {
	home := HomePath(dom)
	if _, err := store.Read(ctx, home+"/domid"); err == nil {
		return nil
	} else if !errors.Is(err, xenstore.ErrNotFound) {
		return fmt.Errorf("create domain %d: %w", dom, err)
	}
	guestReads := []xenstore.Permission{{Domain: 0}, {Domain: uint16(dom), Read: true}}
	guestOwns := []xenstore.Permission{{Domain: uint16(dom)}}
	w := writer{ctx: ctx, store: store}
	w.dir(home, guestReads)
	w.dir(home+"/device", guestReads)
	w.dir(home+"/data", guestOwns)
	w.dir(home+"/attr", guestOwns)
	w.dir(home+"/error", guestOwns)
	w.node(home, guestReads, "name", fmt.Sprintf("domain-%d", dom))
	w.node(home, guestReads, "domid", strconv.Itoa(int(dom))) // last: it says that all is there
	if w.err != nil {
		return fmt.Errorf("create domain %d: %w", dom, w.err)
	}
	return nil
}

// RemoveDomain removes the home of dom, as when it is destroyed, and with it its
// ends of all devices. The other ends stay.
func RemoveDomain(ctx context.Context, store xenstore.Operations, dom xen.DomID) error {
	if err := store.Remove(ctx, HomePath(dom)); err != nil {
		return fmt.Errorf("remove domain %d: %w", dom, err)
	}
	return nil
}

// writer writes nodes until one fails.
type writer struct {
	ctx   context.Context
	store xenstore.Operations
	err   error
}

// dir makes a directory.
func (w *writer) dir(path string, perms []xenstore.Permission) {
	if w.err == nil {
		w.err = w.store.Mkdir(w.ctx, path)
	}
	if w.err == nil {
		w.err = w.store.SetPermissions(w.ctx, path, perms)
	}
}

// node writes a node below dir; without perms it has those of dir.
func (w *writer) node(dir string, perms []xenstore.Permission, key, value string) {
	if w.err == nil {
		w.err = w.store.Write(w.ctx, dir+"/"+key, value)
	}
	if w.err == nil && perms != nil {
		w.err = w.store.SetPermissions(w.ctx, dir+"/"+key, perms)
	}
}

// optional writes a node unless the value is empty.
func (w *writer) optional(dir string, perms []xenstore.Permission, key, value string) {
	if value != "" {
		w.node(dir, perms, key, value)
	}
}

func (w *writer) remove(path string) {
	if w.err != nil {
		return
	}
	if err := w.store.Remove(w.ctx, path); !errors.Is(err, xenstore.ErrNotFound) {
		w.err = err
	}
}
