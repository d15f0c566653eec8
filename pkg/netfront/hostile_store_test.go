package netfront

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/xnetfrontd/xnetfrontd/internal/netback"
	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

// storeLies are what a backend writes into the nodes that it owns.
var storeLies = []string{
	"", "0", "1", "2", "-1", "65536", "4294967296", "99999999999999999999", "1.5", "0x10", " 1 ", "one", "\x00", "\xff\xfe\n\x1b[2J",
	"/local/domain/0", "../../..", "%s%n", strings.Repeat("1", 2000), strings.Repeat("1", 4000), strings.Repeat("\x01", 2000), "1000,50000", "1,1", "4294967295,4294967295", ",", "1,",
}

// storeKeys are the nodes.
var storeKeys = []string{
	netif.KeyState, netif.KeyRxCopy, netif.KeySG, netif.KeyGSOTCPv4, netif.KeyGSOTCPv6, netif.KeyIPv6Csum, netif.KeySplitChannels,
	netif.KeyMaxQueues, netif.KeyRate, netif.KeyOnline, netif.KeyMTU, netif.KeyMAC, netif.KeyHotplugStatus, netif.KeyFrontend,
	netif.KeyFrontendID, netif.KeySmartPoll, netif.KeyRxNotify, "feature-nobody-knows", "queue-0/nested",
}

// hostileStore is a backend of which there is nothing but its directory in xenstore.
type hostileStore struct {
	w     *world
	store xen.Store
	rnd   *rand.Rand
	dir   string
	own   string // the frontend's state
	seen  *xenstore.Watch
}

// lie writes, removes, or changes a state, at random, and now and then goes along with the
// frontend: what comes after a connection has been made is not seen otherwise.
func (h *hostileStore) lie(ctx context.Context) {
	key := h.dir + "/" + storeKeys[h.rnd.IntN(len(storeKeys))]
	var err error
	switch n := h.rnd.IntN(64); {
	case n == 0:
		err = h.store.Remove(ctx, h.dir)
	case n < 4:
		err = h.store.Remove(ctx, key)
	case n < 10:
		err = h.store.Write(ctx, h.dir+"/"+netif.KeyState, strconv.Itoa(h.rnd.IntN(10)))
	case n < 48:
		err = h.goAlong(ctx)
	default:
		err = h.store.Write(ctx, key, storeLies[h.rnd.IntN(len(storeLies))])
	}
	// The toolstack has made the directory, so that it cannot be made again, and a value can be
	// longer than is allowed.
	for _, refused := range []error{xenstore.ErrNotFound, xenstore.ErrPermission, xenstore.ErrNoSpace} {
		if errors.Is(err, refused) {
			return
		}
	}
	h.w.check(err)
}

// patienceOfALie is how long a backend that goes along waits for the frontend's next state. It
// need not come.
const patienceOfALie = 20 * time.Millisecond

// goAlong does what netback would, and lets the frontend do its part.
func (h *hostileStore) goAlong(ctx context.Context) error {
	st, err := h.store.Read(ctx, h.own)
	if err != nil {
		return err
	}
	if st == "1" {
		if err := h.store.Write(ctx, h.dir+"/"+netif.KeyRxCopy, "1"); err != nil {
			return err
		}
	}
	if err := h.store.Write(ctx, h.dir+"/"+netif.KeyState, map[string]string{"1": "2", "4": "4", "5": "5", "6": "6"}[st]); err != nil {
		return err
	}
	select {
	case <-h.seen.Events():
	case <-time.After(patienceOfALie):
	}
	return nil
}

// A backend that writes anything into its directory, at any time, costs its own vif: the Device
// goes on, has no more than a connection's pages, and serves the next backend.
func TestHostileStoreCostsItsOwnVif(t *testing.T) {
	seed := *hostileSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("again: make hostile SEED=%d", seed)
	core, logs := observer.New(zap.InfoLevel)
	w := newWorld(t, worldConfig{offline: true, front: Config{Logger: zap.New(core), Queues: 2}})
	h := &hostileStore{w: w, store: w.backendStore(), rnd: rand.New(rand.NewPCG(seed, 2)),
		dir: xensim.BackendPath(driverDom, guestDom, 0), own: xensim.FrontendPath(guestDom, 0) + "/" + netif.KeyState}
	ctx := context.Background()
	var err error
	h.seen, err = h.store.Watch(ctx, h.own)
	w.check(err)
	defer h.seen.Close()
	const lies, inARow = 600, 50
	for i := range lies {
		h.lie(ctx)
		if i%inARow != inARow-1 {
			continue
		}
		if n := len(w.server.GrantsInUse(guestDom)); n > 2*pairPages(fullMaps) {
			t.Fatalf("%d grants after %d lies", n, i)
		}
		if err := w.dev.Alive(10 * time.Second); err != nil {
			t.Fatal(err)
		}
		// There is more to be seen after a back-off, and a directory that was removed.
		h.attach(ctx)
		w.dev.Retry()
	}
	s := w.dev.Status()
	if s.Ended["panic"] != 0 {
		t.Errorf("connections ended with %v", s.Ended)
	}
	if n := logs.Len(); n > lies*4 {
		t.Errorf("%d lines in the log for %d lies", n, lies)
	}
	t.Logf("%d connects, ended: %v, %d lines", s.Connects, s.Ended, logs.Len())

	// The toolstack gives the vif to a backend that works.
	h.attach(ctx)
	w.backend(worldConfig{back: netback.Options{}})
	w.dev.Retry()
	w.connected(s.Connects + 1)
	w.roundTrip(1514)
}

// attach has the toolstack attach the vif anew.
func (h *hostileStore) attach(ctx context.Context) {
	err := xensim.DetachVif(ctx, h.w.server.Toolstack(), guestDom, 0, time.Millisecond)
	if err != nil && !errors.Is(err, xensim.ErrDetachForced) {
		h.w.check(err)
	}
	h.w.check(xensim.AttachVif(ctx, h.w.server.Toolstack(), xensim.VifConfig{Frontend: guestDom, Backend: driverDom, MAC: guestMAC}))
}
