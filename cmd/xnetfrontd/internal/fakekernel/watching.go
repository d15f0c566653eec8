package fakekernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/cmdtest"
	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

// Watching is a Kernel that remembers the states of vifs, and acts on the states that it
// sees in xenstore. Since Linux 7.0 (seven) it takes a vif that was reset for a new one. It
// sees a state before a watch that was set later does, as the kernel does.
type Watching struct {
	*Kernel
	xen.Store // the guest's, as the kernel has it
	domain0   xen.Store
	guest     xen.DomID
	seven     bool

	seeing  sync.Mutex
	changed []int // vifs whose new state it has not seen yet
}

// NewWatching is a kernel of a guest whose vifs xenstore has, with the driver loaded.
func NewWatching(t *testing.T, seven bool, guest xen.DomID, store, domain0 xen.Store, vifs ...int) *Watching {
	t.Helper()
	k := &Watching{Kernel: New(t, true, vifs...), Store: store, domain0: domain0, guest: guest, seven: seven}
	for _, devid := range vifs {
		k.Remember(devid, "Connected")
	}
	k.Closed = func(devid int) {
		k.Remember(devid, "Closed")
		if _, err := k.Read(t.Context(), fmt.Sprintf("device/vif/%d/state", devid)); err == nil {
			k.SetStates(devid, "6", "6")
		}
	}
	return k
}

// Remember sets the state that the kernel remembers.
func (k *Watching) Remember(devid int, state string) {
	k.t.Helper()
	cmdtest.WriteFile(k.t, k.Device(devid)+"/state", state+"\n")
}

// SetStates writes the states of both ends.
func (k *Watching) SetStates(devid int, frontend, backend string) {
	k.t.Helper()
	k.Must(errors.Join(
		k.domain0.Write(k.t.Context(), xensim.FrontendPath(k.guest, devid)+"/state", frontend),
		k.domain0.Write(k.t.Context(), xensim.BackendPath(0, k.guest, devid)+"/state", backend)))
}

// Write writes to xenstore, where the kernel may see it.
func (k *Watching) Write(ctx context.Context, path, value string) error {
	var devid int
	if n, _ := fmt.Sscanf(path, "device/vif/%d/state", &devid); n == 1 {
		k.seeing.Lock()
		defer k.seeing.Unlock()
		k.changed = append(k.changed, devid)
	}
	return k.Store.Write(ctx, path, value)
}

// Watch sets a watch. Before its first event the kernel sees what was written.
func (k *Watching) Watch(ctx context.Context, path string) (*xenstore.Watch, error) {
	k.seeing.Lock()
	defer k.seeing.Unlock()
	for _, devid := range k.changed {
		state, err := k.Store.Read(ctx, fmt.Sprintf("device/vif/%d/state", devid))
		k.Must(err)
		if !k.seven || state != "1" || !k.Owner().Stale(devid) {
			continue
		}
		k.Remember(devid, "Initialising")
		if auto, err := os.ReadFile(k.System.Sysfs + "/bus/xen/drivers_autoprobe"); err != nil || strings.TrimSpace(string(auto)) == "1" {
			k.Attach(devid)
		}
	}
	k.changed = nil
	return k.Store.Watch(ctx, path)
}

// WantDriver checks which driver has a vif.
func (k *Watching) WantDriver(devid int, want string) {
	k.t.Helper()
	if driver, err := k.Owner().Driver(devid); driver != want || err != nil {
		k.t.Errorf("vif %d has driver %q, %v, want %q", devid, driver, err, want)
	}
}
