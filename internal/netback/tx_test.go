package netback

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

// Flags and extras become the virtio header that Linux's netback would make of them.
func TestTxOffloadsBecomeTheVirtioHeader(t *testing.T) {
	const blank, valid = netif.TxCsumBlank | netif.TxDataValidated, netif.TxDataValidated
	hops := packet(6, protoTCP, 1000)
	hops = append(hops[:54:54], append([]byte{protoTCP, 30, 247: 0}, hops[54:]...)...)
	hops[20] = protoHopOpts
	binary.BigEndian.PutUint16(hops[18:], uint16(len(hops)-54))
	for _, c := range []struct {
		name   string
		frame  []byte
		flags  uint16
		extras []netif.Extra
		want   tap.VirtioHeader
	}{
		{"nothing", frameOf(60, 1), 0, nil, tap.VirtioHeader{}},
		{"data_validated", packet(4, protoTCP, 10), valid, nil, tap.VirtioHeader{Flags: 2}},
		{"TCP over IPv4", packet(4, protoTCP, 1000), blank, nil, tap.VirtioHeader{Flags: 1, CsumStart: 34, CsumOffset: 16}},
		{"UDP over IPv4", packet(4, protoUDP, 10), blank, nil, tap.VirtioHeader{Flags: 1, CsumStart: 34, CsumOffset: 6}},
		{"TCP over IPv6", packet(6, protoTCP, 0), blank, nil, tap.VirtioHeader{Flags: 1, CsumStart: 54, CsumOffset: 16}},
		{"TCP behind 248 bytes of IPv6 options", hops, blank, nil, tap.VirtioHeader{Flags: 1, CsumStart: 302, CsumOffset: 16}},
		{"GSO over IPv4", packet(4, protoTCP, 20000), blank, []netif.Extra{netif.NewGSO(1448, netif.GSOTCPv4)},
			tap.VirtioHeader{Flags: 1, GSOType: tap.GSOTCPv4, GSOSize: 1448, HdrLen: 54, CsumStart: 34, CsumOffset: 16}},
		{"GSO over IPv6 without csum_blank", packet(6, protoTCP, 20000), valid, []netif.Extra{netif.NewGSO(1428, netif.GSOTCPv6)},
			tap.VirtioHeader{Flags: 1, GSOType: tap.GSOTCPv6, GSOSize: 1428, HdrLen: 74, CsumStart: 54, CsumOffset: 16}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, Options{})
			r.connect(1, true, allFeatures())
			q := r.queues[0]
			for _, size := range []int{4096, 1500, 100} {
				if len(c.frame) > 18*size {
					continue
				}
				q.expect(netif.StatusOkay, len(c.extras), q.send(c.frame, size, c.flags, c.extras...)...)
				got, err := r.port.Receive(r.ctx)
				r.check(err)
				if got.Header != c.want || !bytes.Equal(got.Frame, c.frame) {
					t.Errorf("slots of %d: %+v, want %+v; frame equal: %v", size, got.Header, c.want, bytes.Equal(got.Frame, c.frame))
				}
			}
			if fixups := r.vif.Stats().CsumFixups; (fixups > 0) != (c.flags == valid && c.extras != nil) {
				t.Errorf("%d checksums fixed up", fixups)
			}
		})
	}
}

func TestFrameOfTheLargestSizePasses(t *testing.T) {
	r := newRig(t, Options{})
	r.connect(1, true, allFeatures())
	q := r.queues[0]
	f := packet(4, protoTCP, 65535-54)
	for range 20 { // more than once around the ring
		q.expect(netif.StatusOkay, 1, q.send(f, 4096, netif.TxCsumBlank, netif.NewGSO(1448, netif.GSOTCPv4))...)
		got, err := r.port.Receive(r.ctx)
		r.check(err)
		if !bytes.Equal(got.Frame, f) || got.Slots != 17 {
			t.Fatalf("%d bytes in %d slots", len(got.Frame), got.Slots)
		}
	}
}

func TestZeroSizeSlotIsAnsweredOkay(t *testing.T) {
	r := newRig(t, Options{})
	r.connect(1, true, allFeatures())
	q := r.queues[0]
	copy(page(q.txPages, 1), frameOf(60, 5))
	q.putSlot(netif.TxRequest{Ref: uint32(q.txPages.Refs()[1]), ID: 1, Size: 60, Flags: more}.Slot())
	q.putSlot(netif.TxRequest{Ref: 1 << 30, ID: 2}.Slot())
	q.push()
	q.expect(netif.StatusOkay, 0, 1, 2)
	got, err := r.port.Receive(r.ctx)
	if r.check(err); !bytes.Equal(got.Frame, frameOf(60, 5)) {
		t.Error("wrong frame")
	}
}

func TestReadOnlyTxPagesAreEnough(t *testing.T) {
	r := newRig(t, Options{})
	r.connect(1, true, allFeatures())
	q := r.queues[0]
	p, err := r.front.Grants().Alloc(0, 1, false)
	r.check(err)
	defer p.Free()
	copy(p.Bytes(), frameOf(60, 5))
	q.putSlot(netif.TxRequest{Ref: uint32(p.Refs()[0]), ID: 1, Size: 60}.Slot())
	q.push()
	q.expect(netif.StatusOkay, 0, 1)
}

func TestRateStopsTheRingAndStartsItAgain(t *testing.T) {
	r := newRig(t, Options{}, func(c *xensim.VifConfig) { c.Rate = "60000,20000" })
	r.connect(1, true, allFeatures())
	q := r.queues[0]
	start := time.Now()
	var ids []uint16
	for range 240 { // 240 * 1500 = 360000 bytes: 60000 at once, then 5 intervals
		ids = append(ids, q.put(frameOf(1500, 1), 1500, 0)...)
	}
	q.push()
	q.expect(netif.StatusOkay, 0, ids...)
	if d := time.Since(start); d < 90*time.Millisecond {
		t.Errorf("360000 bytes in %v", d)
	}
	if s := r.vif.Stats(); s.CreditWaits < 4 || s.TxFrames != 240 {
		t.Errorf("%+v", s)
	}
	// The rate can be changed, and lifted.
	r.check(r.xen.Toolstack().Remove(r.ctx, r.backDir()+"/"+netif.KeyRate))
	r.eventually(func() bool {
		lifted := false
		r.check(r.vif.call(r.ctx, func(context.Context) error {
			lifted = r.vif.rate == ""
			return nil
		}))
		return lifted
	})
	waits := r.vif.Stats().CreditWaits
	for range 10 {
		ids = ids[:0]
		for range 240 {
			ids = append(ids, q.put(frameOf(1500, 1), 1500, 0)...)
		}
		q.push()
		q.expect(netif.StatusOkay, 0, ids...)
	}
	if n := r.vif.Stats().CreditWaits; n != waits {
		t.Errorf("%d stops without a rate", n-waits)
	}
}

func TestRingThatWaitsForCreditGoesOnAtOnceWithANewRate(t *testing.T) {
	const hour = "3600000000"
	r := newRig(t, Options{}, func(c *xensim.VifConfig) { c.Rate = "100," + hour })
	r.connect(1, true, allFeatures())
	q := r.queues[0]
	ids := q.put(frameOf(1500, 1), 1500, 0)
	q.push()
	r.eventually(func() bool { return r.vif.Stats().CreditWaits > 0 })
	r.check(r.xen.Toolstack().Write(r.ctx, r.backDir()+"/"+netif.KeyRate, "125000,50000"))
	q.expect(netif.StatusOkay, 0, ids...)
}

func TestMulticastMessages(t *testing.T) {
	r := newRig(t, Options{})
	r.connect(1, true, allFeatures().with(netif.KeyRequestMcast, "1"))
	q := r.queues[0]
	q.post(64)
	message := func(typ netif.ExtraType, last byte, status int16) {
		t.Helper()
		id := q.id()
		e := netif.Extra{Type: typ, Data: [6]byte{1, 0, 94, 0, 0, last}}
		q.putSlot(netif.TxRequest{Ref: 1 << 30, Flags: extra, ID: id, Size: 0, Offset: 9999}.Slot())
		q.putSlot(e.TxSlot())
		q.push()
		q.expect(status, 1, id)
	}
	for i := range byte(mcastMax) {
		message(netif.ExtraMcastAdd, i, netif.StatusOkay)
	}
	message(netif.ExtraMcastAdd, 200, netif.StatusError)
	message(netif.ExtraMcastDel, 3, netif.StatusOkay)
	message(netif.ExtraMcastDel, 3, netif.StatusOkay)
	to := func(dst ...byte) []byte {
		f := frameOf(60, 1)
		copy(f, dst)
		return f
	}
	for _, f := range [][]byte{to(1, 0, 94, 0, 0, 3), to(1, 0, 94, 0, 0, 200), to(1, 0, 94, 0, 0, 4),
		to(255, 255, 255, 255, 255, 255), to(0, 22, 62, 1, 2, 3)} {
		r.check(r.port.Send(0, tap.VirtioHeader{}, f))
	}
	for _, want := range []byte{1, 255, 0} {
		if data, _, _ := q.receive(); data[0] != want {
			t.Errorf("frame for %x", data[:6])
		}
	}
	r.drops(DropMcast, 2)
	// request-multicast-control can be taken back at any time.
	r.write(netif.KeyRequestMcast, "0")
	r.eventually(func() bool { return !r.vif.mcast.on.Load() })
	r.check(r.port.Send(0, tap.VirtioHeader{}, to(1, 0, 94, 0, 0, 200)))
	q.receive()
}

func TestPortThatRefusesCostsTheFrameOnly(t *testing.T) {
	r := newRig(t, Options{})
	r.connect(1, true, allFeatures())
	q := r.queues[0]
	r.port.Refuse(errors.New("link is down"))
	q.expect(netif.StatusOkay, 0, q.send(frameOf(60, 1), 60, 0)...)
	r.drops(DropPort, 1)
	r.port.Refuse(nil)
	q.expect(netif.StatusOkay, 0, q.send(frameOf(60, 1), 60, 0)...)
	_, err := r.port.Receive(r.ctx)
	r.check(err)
}

func TestHeldFramesAreAnsweredLateAndOutOfOrder(t *testing.T) {
	r := newRig(t, Options{})
	r.connect(1, true, allFeatures())
	q := r.queues[0]
	const hold = 30 * time.Millisecond
	r.vif.Faults().HoldTx(hold)
	start := time.Now()
	var ids []uint16
	for i := range 40 {
		ids = append(ids, q.put(frameOf(200+i, byte(i)), 4096, 0)...)
	}
	q.push()
	var got []uint16
	for _, resp := range q.txResponses(40) {
		got = append(got, resp.ID)
	}
	if d := time.Since(start); d < hold {
		t.Errorf("answered after %v", d)
	}
	if slices.Equal(got, ids) {
		t.Error("answered in order")
	}
	slices.Sort(got)
	if want := slices.Sorted(slices.Values(ids)); !slices.Equal(got, want) {
		t.Errorf("ids %v, want %v", got, want)
	}
	for i := range 40 {
		f, err := r.port.Receive(r.ctx)
		r.check(err)
		if !bytes.Equal(f.Frame, frameOf(200+i, byte(i))) {
			t.Errorf("frame %d is another", i)
		}
	}
}

// A held frame is read from the guest's pages when it is delivered, but for the
// first 128 bytes, and its pages stay mapped until then. The guest of this test
// breaks the rule and changes them, so it is not for the race detector's pages.
func TestHeldFrameStaysInTheGuestsPages(t *testing.T) {
	r := newRigOn(t, xensim.Options{}, Options{})
	r.connect(1, true, allFeatures())
	q := r.queues[0]
	r.vif.Faults().HoldTx(time.Hour)
	want := frameOf(2000, 1)
	id := q.send(want, 4096, 0)[0]
	r.awaitMapped(2 + 1) // the rings, too
	for _, at := range []int{100, 1000} {
		page(q.txPages, int(id))[at] ^= 0xff
	}
	want[1000] ^= 0xff
	r.close()
	f, err := r.port.Receive(r.ctx)
	if r.check(err); !bytes.Equal(f.Frame, want) {
		t.Error("not the frame as it was at its delivery")
	}
	r.awaitMapped(0)
}

// awaitMapped waits until n of the guest's pages are mapped by the backend.
func (r *rig) awaitMapped(n int) {
	r.t.Helper()
	r.eventually(func() bool {
		got := 0
		for _, g := range r.xen.GrantsInUse(guestID) {
			if g.Mapped > 0 {
				got++
			}
		}
		return got == n
	})
}

// A frontend that disconnects while frames are held must not get its pages back
// while they are mapped, nor are they mapped for ever.
func TestDisconnectDeliversHeldFrames(t *testing.T) {
	r := newRig(t, Options{})
	r.connect(1, true, allFeatures())
	q := r.queues[0]
	r.vif.Faults().HoldTx(time.Hour)
	q.send(frameOf(2000, 1), 4096, 0)
	r.eventually(func() bool { return r.vif.counts[0].txSlots.Load() == 1 })
	r.close()
	_, err := r.port.Receive(r.ctx)
	r.check(err)
	if list := r.xen.GrantsInUse(guestID); len(list) != 0 {
		t.Errorf("grants left: %+v", list)
	}
}

func TestTxFaults(t *testing.T) {
	for _, c := range []struct {
		fault Fault
		check func(ids []uint16, got []netif.TxResponse) bool
	}{
		{TxIDOutOfRange, func(ids []uint16, got []netif.TxResponse) bool { return got[0].ID >= 256 }},
		{TxIDNotInFlight, func(ids []uint16, got []netif.TxResponse) bool { return !slices.Contains(ids, got[0].ID) }},
		{TxIDTwice, func(ids []uint16, got []netif.TxResponse) bool { return got[0].ID != ids[0] }},
		{TxStatusError, func(ids []uint16, got []netif.TxResponse) bool { return got[0].Status == netif.StatusError }},
		{TxStatusDropped, func(ids []uint16, got []netif.TxResponse) bool { return got[0].Status == netif.StatusDropped }},
		{TxStatusUnknown, func(ids []uint16, got []netif.TxResponse) bool { return got[0].Status == 77 }},
		{TxUnanswered, func(ids []uint16, got []netif.TxResponse) bool { return got[0].ID == ids[1] }},
	} {
		r := newRig(t, Options{})
		r.connect(1, true, allFeatures())
		q := r.queues[0]
		q.expect(netif.StatusOkay, 0, q.send(frameOf(60, 1), 60, 0)...)
		r.vif.Faults().Inject(c.fault, 1)
		ids := append(q.put(frameOf(60, 1), 60, 0), q.put(frameOf(60, 2), 60, 0)...)
		q.push()
		n := 2
		if c.fault == TxUnanswered {
			n = 1
		}
		if got := q.txResponses(n); !c.check(ids, got) || r.vif.Faults().Left(c.fault) != 0 {
			t.Errorf("fault %d: sent %v, got %+v", c.fault, ids, got)
		}
		if c.fault != TxUnanswered { // and all is well again
			q.expect(netif.StatusOkay, 0, q.send(frameOf(60, 1), 60, 0)...)
		}
	}
}

func TestTxOverflowFault(t *testing.T) {
	r := newRig(t, Options{})
	r.connect(1, true, allFeatures())
	q := r.queues[0]
	r.vif.Faults().Inject(TxOverflow, 1)
	q.send(frameOf(60, 1), 60, 0)
	for {
		if _, err := q.tx.Responses(); err != nil {
			return
		}
		if r.ctx.Err() != nil {
			t.Fatal("no overflow seen")
		}
		q.wait()
	}
}

func TestIgnoredRingIsLookedAtAfterAKick(t *testing.T) {
	r := newRig(t, Options{})
	r.connect(1, true, allFeatures())
	q := r.queues[0]
	r.vif.Faults().Inject(TxIgnore, Always)
	ids := q.send(frameOf(60, 1), 60, 0)
	q.wait()
	if n, _ := q.tx.Responses(); n != 0 {
		t.Fatal("answered")
	}
	r.vif.Faults().Clear()
	r.vif.Kick()
	q.expect(netif.StatusOkay, 0, ids...)
}

// xen-netback's race with one channel for both rings: everything looks connected,
// frames come in, and nothing that the guest sends is ever taken.
func TestLostEOI(t *testing.T) {
	r := newRig(t, Options{LostEOI: 1})
	r.connect(1, false, allFeatures())
	q := r.queues[0]
	q.post(32)
	r.masked(q) // the event that the bind has raised was read
	ids := q.send(frameOf(60, 1), 60, 0)
	r.check(q.events.Notify(q.txPort)) // another one does not help
	q.wait()
	r.check(r.port.Send(0, tap.VirtioHeader{}, frameOf(60, 2)))
	q.receive()
	if n, _ := q.tx.Responses(); n != 0 {
		t.Fatal("the ring was looked at")
	}
	if h := q.tx.Header(); h.ReqEvent != 1 || h.RspProd != 0 {
		t.Errorf("ring %+v", h)
	}
	r.vif.Kick() // as debugfs' kick
	q.expect(netif.StatusOkay, 0, ids...)

	// Split channels do not have it.
	r.close()
	r.setState(netif.StateInitialising)
	r.awaitState(netif.StateInitWait)
	r.check(r.front.Store().Remove(r.ctx, r.frontDir()+"/"+netif.KeyEventChannel))
	r.connect(1, true, allFeatures())
	q = r.queues[0]
	q.expect(netif.StatusOkay, 0, q.send(frameOf(60, 1), 60, 0)...)
}

// masked waits until the backend's end of a queue's channel is masked.
func (r *rig) masked(q *frontQueue) {
	r.t.Helper()
	r.eventually(func() bool {
		for _, p := range r.xen.PortsInUse(0) {
			if p.RemotePort == q.txPort && p.Masked {
				return true
			}
		}
		return false
	})
}

func TestEventStorm(t *testing.T) {
	r := newRig(t, Options{})
	r.connect(1, true, allFeatures())
	q := r.queues[0]
	seen := 0
	for range 10 {
		r.vif.Storm(1)
		var ports [4]xen.Port
		n, err := q.events.Read(ports[:])
		r.check(err)
		for _, p := range ports[:n] {
			seen++
			r.check(q.events.Unmask(p))
		}
	}
	if seen != 20 {
		t.Errorf("%d events, want 20", seen)
	}
}

func TestSpuriousNotifiesAreCounted(t *testing.T) {
	r := newRig(t, Options{})
	r.connect(1, true, allFeatures())
	q := r.queues[0]
	before := r.vif.Stats().TxSpurious
	for i := range uint64(3) {
		r.check(q.events.Notify(q.txPort))
		r.eventually(func() bool { return r.vif.counts[0].txSpurious.Load() > before+i })
	}
}
