package netfront

import (
	"context"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

// waits are for how long the Device said that it waits before it connects again.
func waits(logs *observer.ObservedLogs) (all []time.Duration) {
	for _, l := range logs.FilterMessage("disconnected").All() {
		all = append(all, l.ContextMap()["retry_in"].(time.Duration))
	}
	return all
}

// The node that says that a device is to go is the backend's to write. What it says there must
// not pass for a re-plug, after which connections begin at once again.
func TestBackOffGrowsWhateverTheBackendWritesInItsDirectory(t *testing.T) {
	for name, forge := range map[string]func(ctx context.Context, s xen.Store, node string) error{
		"online is missing": func(ctx context.Context, s xen.Store, node string) error { return s.Remove(ctx, node) },
		"online is 0":       func(ctx context.Context, s xen.Store, node string) error { return s.Write(ctx, node, "0") },
	} {
		t.Run(name, func(t *testing.T) {
			log, logs := observed(zap.InfoLevel)
			w := newWorld(t, worldConfig{offline: true, front: Config{Logger: log}})
			store, dir, ctx := w.backendStore(), xensim.BackendPath(driverDom, guestDom, 0), w.deadline()
			w.check(store.Write(ctx, dir+"/feature-rx-copy", "1"))
			w.check(forge(ctx, store, dir+"/"+netif.KeyOnline))
			// It takes part in each connection until that stands.
			answers := map[string]string{"1": "2", "4": "5", "5": "5", "6": "6"}
			w.eventually("the sixth end of a connection", func() bool {
				st, err := store.Read(ctx, xensim.FrontendPath(guestDom, 0)+"/"+netif.KeyState)
				w.check(err)
				w.check(store.Write(ctx, dir+"/"+netif.KeyState, answers[st]))
				return len(waits(logs)) == 6
			})
			all := waits(logs)
			// Doubled six times, and cut at random to a half at most.
			if last, least := all[5], backoffMin<<5/2; last < least {
				t.Errorf("waited %v: the last one is shorter than %v", all, least)
			}
		})
	}
}

// What the toolstack does shows in the vif's own directory, however fast it is.
func TestReplugEndsTheBackOff(t *testing.T) {
	log, logs := observed(zap.InfoLevel)
	w := newWorld(t, worldConfig{front: Config{Logger: log}})
	w.connected(1)
	for n := range uint64(8) {
		w.reattach(xensim.VifConfig{MAC: guestMAC})
		w.connected(n + 2)
	}
	// It doubles where an attempt meets a vif that is about to go; else it would by each time.
	if all := waits(logs); len(all) < 8 || all[len(all)-1] > 8*backoffMin {
		t.Errorf("waited %v", all)
	}
}
