package netfront

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/netback"
	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

// A frame is read into a page that is granted already, and its checksum is finished
// there: a backend that could write it would change what was checked.
func TestBackendCanReadTxPagesAndNotWriteThem(t *testing.T) {
	w := newWorld(t, worldConfig{})
	w.connected(1)
	w.dev.mu.Lock()
	p := w.dev.view.pairs[0]
	tx, rx, rings := p.tx.slab.Granted().Refs(), p.rx.slab.Granted().Refs(), p.rings.Refs()
	w.dev.mu.Unlock()
	if len(tx) != fullMaps {
		t.Fatalf("%d tx pages, want %d", len(tx), fullMaps)
	}
	backend, err := w.server.Connect(driverDom)
	w.check(err)
	defer func() { w.check(backend.Close()) }()
	maps := func(ref xen.GrantRef, writable bool) error {
		m, err := backend.MapGrant(guestDom, ref, writable)
		if err == nil {
			err = m.Unmap()
		}
		return err
	}
	for _, ref := range tx {
		if err := maps(ref, false); err != nil {
			t.Errorf("tx page %d cannot be read: %v", ref, err)
		}
		if maps(ref, true) == nil {
			t.Errorf("tx page %d can be written", ref)
		}
	}
	for _, ref := range slices.Concat(rx, rings) {
		if err := maps(ref, true); err != nil {
			t.Errorf("page %d, of rx or a ring, cannot be written: %v", ref, err)
		}
	}
}

// What comes from another process is checked before anything is looked for in it: a
// number of queues that does not fit the file would lead past its end.
func TestStateFileWhoseSizeDoesNotFitItsQueuesIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		made, says uint32
		size       int64 // in the header; 0: the file's
	}{
		"fewer than it has room for": {made: 2, says: 1},
		"more than it has room for":  {made: 1, says: 2},
		"far more":                   {made: 1, says: maxQueues + 1},
		"none":                       {made: 1, says: 0},
		"another size in the header": {made: 1, says: 1, size: int64(stateFileSize(2))},
	} {
		t.Run(name, func(t *testing.T) {
			fd := sealed(t, int(c.made))
			f := &stateFile{fd: fd}
			if err := f.mapIt(stateFileSize(int(c.made))); err != nil {
				t.Fatal(err)
			}
			defer unix.Munmap(f.mem)
			f.head.Queues = c.says
			if c.size != 0 {
				f.head.Size = uint64(c.size)
			}
			if c.says <= c.made {
				f.seal() // its sum is right
			}
			if err := CheckState(fd); !errors.Is(err, ErrHandover) {
				t.Errorf("error %v, want ErrHandover", err)
			}
		})
	}
}

// Each retry is announced with its wait and comes no sooner: so many connections and no
// more can a backend that breaks the protocol every time cost.
func TestBackOffGrowsOverViolations(t *testing.T) {
	core, logs := observer.New(zap.InfoLevel)
	w := newWorld(t, worldConfig{vif: xensim.VifConfig{Script: "vif-bridge"}, front: Config{Logger: zap.New(core)}})
	w.connected(1)
	w.vif.Faults().Inject(netback.TxIDOutOfRange, netback.Always)
	const violations = 4
	ended := func() []observer.LoggedEntry { return logs.FilterMessage("disconnected").All() }
	for i := 0; len(ended()) < violations; i++ {
		w.send(tap.VirtioHeader{}, mark(100, i)) // the TAP drops what comes while it has no carrier
		time.Sleep(5 * time.Millisecond)
		if i > 4000 {
			t.Fatalf("%d connections have ended: %+v", len(ended()), w.dev.Status())
		}
	}
	w.vif.Faults().Clear()
	made := logs.FilterMessage("connected").All()
	for i, e := range ended()[:violations] {
		fields := e.ContextMap()
		if fields["cause"] != "violation" {
			t.Fatalf("connection %d ended with %v", i, fields)
		}
		wait, most := fields["retry_in"].(time.Duration), backoffMin<<i
		if wait < most/2 || wait > most {
			t.Errorf("retry %d comes in %v, want %v to %v", i, wait, most/2, most)
		}
		if next := i + 1; next < len(made) && made[next].Time.Sub(e.Time) < wait {
			t.Errorf("retry %d came after %v, before its %v", i, made[next].Time.Sub(e.Time), wait)
		}
	}
}

// scribbler is a TAP during whose write the backend writes the pages.
type scribbler struct {
	sink
	grants *heapGrants
}

func (s *scribbler) Write(frames [][]unix.Iovec, res []int32) error {
	for ref, page := range s.grants.pages {
		if ref == s.grants.next-1 {
			continue // the ring's
		}
		for i := range page {
			page[i] = 0xa5
		}
	}
	return s.sink.Write(frames, res)
}

// The kernel parses what it is given: headers that the backend could change after they
// were checked would have been checked in vain.
func TestPageThatChangesAfterTheCheckDoesNotChangeTheHeaders(t *testing.T) {
	r := newRxRig(t, fullMaps)
	out := &scribbler{grants: r.grants}
	r.q.out = out
	frame := tcpFrame(9000)
	gso := netif.NewGSO(1448, netif.GSOTCPv4)
	r.send(netif.RxCsumBlank|netif.RxDataValidated, &gso, 0, frame)
	r.service()
	if len(out.frames) != 1 {
		t.Fatalf("%d frames", len(out.frames))
	}
	got := out.frames[0]
	hdr, err := tap.ParseVirtioHeader(got)
	if err != nil || hdr.HdrLen == 0 {
		t.Fatalf("header %+v, %v", hdr, err)
	}
	if n := int(hdr.HdrLen); !bytes.Equal(got[tap.VirtioHeaderSize:][:n], frame[:n]) {
		t.Errorf("headers %x, which were checked as %x", got[tap.VirtioHeaderSize:][:n], frame[:n])
	}
	if bytes.Equal(got[len(got)-100:], frame[len(frame)-100:]) {
		t.Error("the payload was not rewritten: this tests nothing")
	}
}

// The backend's nodes are its own to write.
func TestNonsenseThatABackendOffersCountsAsMissing(t *testing.T) {
	server, err := xensim.New(xensim.Options{HeapPages: true})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	backend := xensim.BackendPath(driverDom, guestDom, 0)
	for queues, want := range map[string]int{
		"-1": 1, "0": 1, "": 1, "many": 1, "99999999999999999999": 1, "2147483647": 4, "3": 3, " 2\n": 2,
	} {
		for key, value := range map[string]string{
			netif.KeyRxCopy: "1", netif.KeySG: "yes", netif.KeyGSOTCPv4: "2", netif.KeyGSOTCPv6: strings.Repeat("1", 2000),
			netif.KeyIPv6Csum: "", netif.KeySplitChannels: "-1", netif.KeyMaxQueues: queues,
		} {
			if err := server.Toolstack().Write(t.Context(), backend+"/"+key, value); err != nil {
				t.Fatal(err)
			}
		}
		o, err := readOffer(t.Context(), server.Toolstack(), backend)
		if err != nil {
			t.Fatal(err)
		}
		a, err := negotiate(AllFeatures(), 4, o)
		if err != nil {
			t.Fatal(err)
		}
		if a.queues != want || a.Features != (Features{Csum: true}) {
			t.Errorf("%q queues: %d with %v", queues, a.queues, a.Names())
		}
	}
}
