package daemon

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/machine"
	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/netfront"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

func TestStormBelowTheVifsIsAFewScans(t *testing.T) {
	const guest = xen.DomID(1)
	dir := t.TempDir()
	server, err := xensim.New(xensim.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	if err := server.Listen(); err != nil {
		t.Fatal(err)
	}
	domain0, err := server.Connect(0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { domain0.Close() })
	attach := func(devid int) {
		t.Helper()
		cfg := xensim.VifConfig{Frontend: guest, DevID: devid, MAC: net.HardwareAddr{0, 0x16, 0x3e, 0, 0, byte(devid)}}
		if err := xensim.AttachVif(t.Context(), domain0.Store(), cfg); err != nil {
			t.Fatal(err)
		}
	}
	attach(0)
	scan := scanner{place: place{xen: machine.Xen{Dir: dir, DomID: guest}, log: zap.NewNop(), watches: new(netfront.Watches)}}
	if _, err := scan.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	scans, ended := make(chan []netfront.Vif), make(chan struct{})
	go func() {
		defer close(ended)
		scan.run(ctx, scans)
	}()
	defer func() { cancel(); <-ended; scan.close() }()
	var writes atomic.Int64
	began := time.Now()
	// The toolstack and the backend change nodes of vif 0 as fast as they can.
	stormCtx, stop := context.WithCancel(t.Context())
	var storm sync.WaitGroup
	for _, path := range []string{xensim.FrontendPath(guest, 0) + "/mtu", xensim.BackendPath(0, guest, 0) + "/rate"} {
		storm.Go(func() {
			for stormCtx.Err() == nil {
				if err := domain0.Store().Write(stormCtx, path, "1400"); err != nil && stormCtx.Err() == nil {
					t.Error(err)
					return
				}
				writes.Add(1)
			}
		})
	}
	for range 3 * xenstore.PaceBurst {
		<-scans
	}
	took := time.Since(began)
	stop()
	storm.Wait()
	if least := 2*xenstore.PaceBurst - 2; took < time.Duration(least)*xenstore.PaceEvery {
		t.Errorf("%d scans in %v, for %d writes", 3*xenstore.PaceBurst, took, writes.Load())
	}
	// A vif that comes after the storm is in the list.
	attach(1)
	limit := time.After(patience)
	for n := 0; n < 2; {
		select {
		case vifs := <-scans:
			n = len(vifs)
		case <-limit:
			t.Fatal("the new vif is not seen")
		}
	}
}
