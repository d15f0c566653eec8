package netback

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

func blankHeader(family int, proto uint8) tap.VirtioHeader {
	h := tap.VirtioHeader{Flags: tap.VirtioNeedsCsum, CsumStart: 34, CsumOffset: 16}
	if family == 6 {
		h.CsumStart = 54
	}
	if proto == protoUDP {
		h.CsumOffset = 6
	}
	return h
}

func gsoHeader(family int, size uint16) tap.VirtioHeader {
	h := blankHeader(family, protoTCP)
	h.GSOSize, h.GSOType, h.HdrLen = size, tap.GSOTCPv4, h.CsumStart+20
	if family == 6 {
		h.GSOType = tap.GSOTCPv6
	}
	return h
}

// checksumOK tells whether a TCP or UDP frame's checksum is finished and right.
func checksumOK(t *testing.T, frame []byte, tags int) bool {
	t.Helper()
	// As checksumSetup sees it without the tags.
	plain := append(append([]byte(nil), frame[:12]...), frame[12+4*tags:]...)
	l, drop := checksumSetup(plain, len(plain))
	if drop != 0 {
		t.Fatalf("cannot find the checksum: %v", drop)
	}
	return tap.Checksum(plain[l.start:], uint32(l.pseudoHeaderSum(plain, len(plain)))) == 0xffff
}

// What the guest sees of a frame's virtio header, by what it says it takes.
func TestRxOffloads(t *testing.T) {
	const blank, valid = netif.RxCsumBlank | netif.RxDataValidated, netif.RxDataValidated
	without := func(keys ...string) features {
		f := allFeatures()
		for _, k := range keys {
			delete(f, k)
		}
		return f
	}
	for _, c := range []struct {
		name   string
		takes  features
		header tap.VirtioHeader
		frame  []byte
		flags  uint16
		sum    bool // finished
		tags   int
	}{
		{"nothing", allFeatures(), tap.VirtioHeader{}, frameOf(60, 1), 0, false, 0},
		{"verified", allFeatures(), tap.VirtioHeader{Flags: tap.VirtioDataValid}, packet(4, protoTCP, 10), valid, false, 0},
		{"blank IPv4", allFeatures(), blankHeader(4, protoUDP), packet(4, protoUDP, 10), blank, false, 0},
		{"blank IPv6", allFeatures(), blankHeader(6, protoTCP), packet(6, protoTCP, 10), blank, false, 0},
		{"blank IPv4 is finished for feature-no-csum-offload", allFeatures().with(netif.KeyNoCsumOffload, "1"),
			blankHeader(4, protoTCP), packet(4, protoTCP, 11), 0, true, 0},
		{"blank IPv6 is finished without feature-ipv6-csum-offload", without(netif.KeyIPv6Csum),
			blankHeader(6, protoUDP), packet(6, protoUDP, 11), 0, true, 0},
		{"blank tagged frame is finished", allFeatures(), tap.VirtioHeader{Flags: tap.VirtioNeedsCsum, CsumStart: 38, CsumOffset: 16},
			packet(4, protoTCP, 100, 0x8100), 0, true, 1},
		{"blank frame without sg", without(netif.KeySG), blankHeader(4, protoTCP), packet(4, protoTCP, 1000), blank, false, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, Options{})
			r.connect(1, true, c.takes)
			q := r.queues[0]
			q.post(32)
			r.check(r.port.Send(0, c.header, c.frame))
			data, flags, _ := q.receive()
			if flags != c.flags || len(data) != len(c.frame) {
				t.Errorf("flags %#x, want %#x; %d bytes of %d", flags, c.flags, len(data), len(c.frame))
			}
			if c.sum && !checksumOK(t, data, c.tags) {
				t.Error("checksum is wrong")
			}
			if !c.sum && !bytes.Equal(data, c.frame) {
				t.Error("frame is another")
			}
		})
	}
}

// A flag on the ring would mean the outer header's checksum.
func TestBlankChecksumInsideATunnelIsFinished(t *testing.T) {
	const vxlan = 8
	for _, c := range []struct {
		name         string
		outer, inner int // families
		size         int // of the inner frame's payload
	}{
		{"IPv4 in IPv4", 4, 4, 11},
		{"IPv6 in IPv4", 4, 6, 11},
		{"IPv4 in IPv6", 6, 4, 1200},
		{"over several pages", 4, 4, 9000},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, Options{})
			r.connect(1, true, allFeatures())
			q := r.queues[0]
			q.post(32)
			inner := packet(c.inner, protoTCP, c.size)
			f := packet(c.outer, protoUDP, vxlan+len(inner))
			at := len(f) - len(inner)
			copy(f[at:], inner)
			header := blankHeader(c.inner, protoTCP)
			header.CsumStart += uint16(at)
			for range 3 { // large ones take the direct path from the second on
				r.check(r.port.Send(0, header, bytes.Clone(f)))
				data, flags, _ := q.receive()
				if flags&^netif.RxMoreData != 0 || len(data) != len(f) {
					t.Errorf("flags %#x, %d bytes of %d", flags, len(data), len(f))
				}
				if !checksumOK(t, data[at:], 0) || !bytes.Equal(data[:at], f[:at]) {
					t.Error("the inner checksum is wrong, or the outer header is another")
				}
			}
		})
	}
}

func TestSuperFramesArriveWhole(t *testing.T) {
	for _, direct := range []bool{false, true} {
		r := newRig(t, Options{})
		r.connect(1, true, allFeatures())
		q := r.queues[0]
		q.post(256)
		for i := range 60 { // the direct path begins with the second one
			family, typ := 4, netif.GSOTCPv4
			if i%3 == 0 {
				family, typ = 6, netif.GSOTCPv6
			}
			size := 5000 + i*1000
			if !direct {
				q.r.vif.faults.any.Store(true)
			}
			f := packet(family, protoTCP, size)
			r.check(r.port.Send(0, gsoHeader(family, 1440), f))
			produced := q.rx.Consumed()
			data, flags, gso := q.receive()
			if flags != netif.RxCsumBlank|netif.RxDataValidated|netif.RxExtraInfo|netif.RxMoreData || !bytes.Equal(data, f) {
				t.Fatalf("frame %d: flags %#x, %d bytes of %d", i, flags, len(data), len(f))
			}
			if n, got := gso.GSO(); n != 1440 || got != typ {
				t.Errorf("GSO %d %d", n, got)
			}
			used := int(q.rx.Consumed() - produced)
			if want := (len(f)+4095)/4096 + 1; used != want {
				t.Errorf("%d bytes took %d slots, want %d", len(f), used, want)
			}
			q.post(used)
		}
		if got := r.vif.Stats(); got.RxFrames != 60 || got.RxCopyErrors != 0 {
			t.Errorf("%+v", got)
		}
	}
}

// Small frames, jumbo frames without GSO and frames that must be summed up, in
// between super-frames, come out as they are.
func TestMixedSizesKeepTheirOrder(t *testing.T) {
	r := newRig(t, Options{})
	r.connect(1, true, allFeatures())
	q := r.queues[0]
	q.post(256)
	type sent struct {
		header tap.VirtioHeader
		frame  []byte
	}
	var list []sent
	for i := range 8 {
		list = append(list,
			sent{gsoHeader(4, 1448), packet(4, protoTCP, 9000+i)},
			sent{tap.VirtioHeader{}, frameOf(60+i, byte(i))},
			sent{tap.VirtioHeader{}, frameOf(9000+i, byte(i))},
			sent{blankHeader(4, protoTCP), packet(4, protoTCP, 4000+i*40)},
			sent{gsoHeader(6, 1428), packet(6, protoTCP, 30000+i)},
			sent{tap.VirtioHeader{}, frameOf(4096, byte(i))},
			sent{tap.VirtioHeader{}, frameOf(4097, byte(i))})
	}
	for _, s := range list {
		r.check(r.port.Send(0, s.header, s.frame))
	}
	for i, s := range list {
		before := q.rx.Consumed()
		data, _, _ := q.receive()
		if !bytes.Equal(data, s.frame) {
			t.Fatalf("frame %d: %d bytes, want %d", i, len(data), len(s.frame))
		}
		q.post(int(q.rx.Consumed() - before))
	}
}

func TestSuperFrameIsCutForAFrontendThatTakesNone(t *testing.T) {
	for _, key := range []string{netif.KeyGSOTCPv4, netif.KeySG} {
		f := allFeatures()
		delete(f, key)
		r := newRig(t, Options{})
		r.connect(1, true, f)
		q := r.queues[0]
		q.post(32)
		whole := packet(4, protoTCP, 10*1000+500)
		r.check(r.port.Send(0, gsoHeader(4, 1000), whole))
		var payload []byte
		for range 11 {
			data, flags, _ := q.receive()
			if flags != 0 || !checksumOK(t, data, 0) {
				t.Errorf("without %s: flags %#x, checksum ok: %v", key, flags, checksumOK(t, data, 0))
			}
			payload = append(payload, data[54:]...)
		}
		if !bytes.Equal(payload, whole[54:]) {
			t.Error("payload is another")
		}
		if s := r.vif.Stats(); s.RxSegmented != 1 || s.RxFrames != 11 {
			t.Errorf("%+v", s)
		}
	}
}

func TestFrameWithoutSGMustFitOneSlot(t *testing.T) {
	f := allFeatures()
	delete(f, netif.KeySG)
	r := newRig(t, Options{})
	r.connect(1, true, f)
	q := r.queues[0]
	q.post(8)
	r.check(r.port.Send(0, tap.VirtioHeader{}, frameOf(4097, 1)))
	r.drops(DropTooLarge, 1)
	r.check(r.port.Send(0, tap.VirtioHeader{}, frameOf(4096, 1)))
	if data, _, _ := q.receive(); len(data) != 4096 {
		t.Errorf("%d bytes", len(data))
	}
}

func TestMalformedFramesFromThePortAreDropped(t *testing.T) {
	r := newRig(t, Options{})
	r.connect(1, true, allFeatures())
	r.queues[0].post(8)
	udp := gsoHeader(4, 1000)
	udp.GSOType = tap.GSOUDPL4
	noCsum := gsoHeader(4, 1000)
	noCsum.Flags = 0
	for _, h := range []tap.VirtioHeader{udp, noCsum, gsoHeader(4, 0)} {
		r.check(r.port.Send(0, h, packet(4, protoTCP, 3000)))
	}
	r.check(r.port.Send(0, tap.VirtioHeader{}, make([]byte, 13)))
	r.drops(DropMalformed, 4)
}

func TestFrameWaitsForAllItsSlots(t *testing.T) {
	r := newRig(t, Options{})
	r.connect(1, true, allFeatures())
	q := r.queues[0]
	f := packet(4, protoTCP, 3*4096-54) // three pages and an extra
	r.check(r.port.Send(0, gsoHeader(4, 1448), f))
	for range 3 {
		q.post(1)
		q.wait()
		if n, _ := q.rx.Responses(); n != 0 {
			t.Fatalf("%d responses before there were enough slots", n)
		}
	}
	q.post(1)
	if data, _, _ := q.receive(); !bytes.Equal(data, f) {
		t.Error("frame is another")
	}
}

func TestExpiredFramesAreDropped(t *testing.T) {
	r := newRig(t, Options{DrainTimeout: 40 * time.Millisecond})
	r.connect(1, true, allFeatures())
	q := r.queues[0]
	start := time.Now()
	for range 5 {
		r.check(r.port.Send(0, tap.VirtioHeader{}, frameOf(60, 1)))
	}
	r.drops(DropExpired, 5)
	if d := time.Since(start); d < 40*time.Millisecond {
		t.Errorf("dropped after %v", d)
	}
	q.post(8)
	r.check(r.port.Send(0, tap.VirtioHeader{}, frameOf(60, 2)))
	if data, _, _ := q.receive(); !bytes.Equal(data, frameOf(60, 2)) {
		t.Error("an expired frame came after all")
	}
}

func TestWithoutRxNotifyFramesExpireSoonForGood(t *testing.T) {
	f := allFeatures()
	delete(f, netif.KeyRxNotify)
	r := newRig(t, Options{StallTimeout: time.Millisecond})
	r.connect(1, true, f)
	start := time.Now()
	r.check(r.port.Send(0, tap.VirtioHeader{}, frameOf(60, 1)))
	r.drops(DropExpired, 1)
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("dropped after %v", d)
	}
	if !r.vif.carrierOn() {
		t.Error("stalled without feature-rx-notify")
	}
	// Linux never goes back to the long timeout on the same device.
	r.close()
	r.setState(netif.StateInitialising)
	r.awaitState(netif.StateInitWait)
	r.connect(1, true, allFeatures())
	r.check(r.port.Send(0, tap.VirtioHeader{}, frameOf(60, 1)))
	r.drops(DropExpired, 2)
}

func (v *Vif) carrierOn() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.carrier
}

func TestStalledGuestLosesTheCarrierUntilItGivesSlots(t *testing.T) {
	r := newRig(t, Options{StallTimeout: 30 * time.Millisecond})
	r.connect(2, true, allFeatures())
	r.queues[1].post(8)
	r.check(r.port.WaitCarrier(r.ctx, true))
	r.check(r.port.Send(0, tap.VirtioHeader{}, frameOf(60, 1)))
	r.check(r.port.WaitCarrier(r.ctx, false))
	r.queues[0].post(8)
	r.check(r.port.WaitCarrier(r.ctx, true))
	r.queues[0].receive()
}

func TestRxGrantErrorsBecomeTheStatus(t *testing.T) {
	r := newRig(t, Options{})
	r.connect(1, true, allFeatures())
	q := r.queues[0]
	ro, err := r.front.Grants().Alloc(0, 1, false)
	r.check(err)
	defer ro.Free()
	for i, ref := range []uint32{3000, uint32(ro.Refs()[0])} {
		s := netif.RxRequest{ID: uint16(i), Ref: ref}.Slot()
		q.rx.Put(&s)
	}
	q.post(2) // ids 2 and 3
	for range 3 {
		r.check(r.port.Send(0, tap.VirtioHeader{}, frameOf(60, 1)))
	}
	s := q.rxSlots(3)
	if s[0].Status != grantBadRef || s[1].Status != grantGeneralError || s[2].Status != 60 {
		t.Errorf("statuses %d, %d, %d", s[0].Status, s[1].Status, s[2].Status)
	}
	for _, b := range ro.Bytes() {
		if b != 0 {
			t.Fatal("a read-only page was written")
		}
	}
	if n := r.vif.Stats().RxCopyErrors; n != 2 {
		t.Errorf("%d errors counted", n)
	}
}

func TestRxOffset(t *testing.T) {
	r := newRig(t, Options{RxOffset: 2})
	r.connect(1, true, allFeatures())
	q := r.queues[0]
	q.post(16)
	for _, size := range []int{60, 4094, 4095, 9000} {
		f := frameOf(size, 1)
		r.check(r.port.Send(0, tap.VirtioHeader{}, f))
		before := q.rx.Consumed()
		data, _, _ := q.receive()
		if !bytes.Equal(data, f) {
			t.Errorf("%d bytes: frame is another", size)
		}
		if used, want := int(q.rx.Consumed()-before), (size+4093)/4094; used != want {
			t.Errorf("%d bytes took %d slots, want %d", size, used, want)
		}
	}
}

func TestFirstRxSlotCarriesTheWholeSizeWhereItIsTold(t *testing.T) {
	r := newRig(t, Options{RxFirstWhole: true})
	r.connect(1, true, allFeatures())
	q := r.queues[0]
	for _, size := range []int{60, 4096, 4097, 9000} {
		slots := (size + 4095) / 4096
		q.post(slots)
		r.check(r.port.Send(0, tap.VirtioHeader{}, frameOf(size, 1)))
		for i, s := range q.rxSlots(slots) {
			want := min(4096, size-i*4096)
			if i == 0 {
				want = size
			}
			if int(s.Status) != want || (s.Flags&netif.RxMoreData != 0) != (i < slots-1) {
				t.Errorf("%d bytes: slot %d has %+v, want size %d", size, i, s.RxResponse, want)
			}
		}
	}
}

func TestImpossibleRxRequestsDisableTheVif(t *testing.T) {
	r := newRig(t, Options{})
	r.connect(1, true, allFeatures())
	q := r.queues[0]
	setWord(page(q.rxPages, ringPage), 0, func(p uint32) uint32 { return p + 257 })
	r.check(r.port.Send(0, tap.VirtioHeader{}, frameOf(60, 1)))
	fatal, err := r.vif.WaitFatal(r.ctx)
	if r.check(err); !errors.Is(fatal, ErrImpossibleRequests) {
		t.Errorf("disabled for %v", fatal)
	}
}

// Each fault shows on the ring what its name says.
func TestRxFaults(t *testing.T) {
	for _, c := range []struct {
		fault Fault
		gso   bool
		slots int
		check func(s []rxSlot) bool
	}{
		{RxIDWrong, false, 1, func(s []rxSlot) bool { return s[0].ID != 0 }},
		{RxOffsetTooLarge, false, 1, func(s []rxSlot) bool { return int(s[0].Offset)+int(s[0].Status) > 4096 }},
		{RxStatusTooLarge, false, 1, func(s []rxSlot) bool { return s[0].Status > 4096 }},
		{RxStatusError, false, 1, func(s []rxSlot) bool { return s[0].Status == netif.StatusError }},
		{RxStatusGrant, false, 1, func(s []rxSlot) bool { return s[0].Status == grantBadRef }},
		{RxStatusZero, false, 1, func(s []rxSlot) bool { return s[0].Status == 0 }},
		{RxShort, false, 1, func(s []rxSlot) bool { return s[0].Status == 5 }},
		{RxExtraMissing, false, 1, func(s []rxSlot) bool { return s[0].Flags&netif.RxExtraInfo != 0 }},
		{RxExtraType, false, 2, func(s []rxSlot) bool { _, err := netif.ParseExtra(s[1].raw); return errors.Is(err, netif.ErrExtraType) }},
		{RxExtraEndless, false, 32, func(s []rxSlot) bool { return s[31].raw[1]&netif.ExtraMore != 0 }},
		{RxMoreDataEndless, false, 32, func(s []rxSlot) bool { return s[31].Flags&netif.RxMoreData != 0 }},
		{RxChainCut, false, 1, func(s []rxSlot) bool { return s[0].Flags&netif.RxMoreData != 0 }},
		{RxGSOSizeZero, true, 4, func(s []rxSlot) bool { _, err := netif.ParseExtra(s[1].raw); return errors.Is(err, netif.ErrGSO) }},
		{RxGSOTypeUnknown, true, 4, func(s []rxSlot) bool { _, err := netif.ParseExtra(s[1].raw); return errors.Is(err, netif.ErrGSO) }},
		{RxGSOUnasked, false, 2, func(s []rxSlot) bool { _, err := netif.ParseExtra(s[1].raw); return err == nil }},
		{RxGSONoCsum, true, 4, func(s []rxSlot) bool { return s[0].Flags&netif.RxCsumBlank == 0 }},
		{RxGSOPrefix, false, 1, func(s []rxSlot) bool { return s[0].Flags&netif.RxGSOPrefix != 0 }},
		{RxCsumBlankOnAll, false, 1, func(s []rxSlot) bool { return s[0].Flags&netif.RxCsumBlank != 0 }},
	} {
		r := newRig(t, Options{})
		r.connect(1, true, allFeatures())
		q := r.queues[0]
		q.post(32)
		r.vif.Faults().Inject(c.fault, 1)
		header, frame := tap.VirtioHeader{}, frameOf(60, 1)
		if c.gso {
			header, frame = gsoHeader(4, 1448), packet(4, protoTCP, 3*4096-54)
		}
		r.check(r.port.Send(0, header, frame))
		if s := q.rxSlots(c.slots); !c.check(s) || r.vif.Faults().Left(c.fault) != 0 {
			t.Errorf("fault %d: %+v", c.fault, s[0].RxResponse)
		}
	}
}

func TestScribbleFaultChangesThePageAfterItsResponse(t *testing.T) {
	r := newRig(t, Options{})
	r.connect(1, true, allFeatures())
	q := r.queues[0]
	q.post(1)
	r.vif.Faults().Inject(RxScribble, 1)
	r.vif.Faults().Inject(RxMute, 1) // so that this test reads only when it is over
	r.check(r.port.Send(0, tap.VirtioHeader{}, frameOf(60, 1)))
	r.eventually(func() bool { return q.rx.Header().RspProd == 1 })
	r.check(r.vif.Rebind(r.ctx)) // the worker has ended
	if data, _, _ := q.receive(); data[0] != 0xff {
		t.Errorf("page begins with %x", data[:14])
	}
}

func TestIgnoredPortIsReadAfterAKick(t *testing.T) {
	r := newRig(t, Options{})
	r.connect(1, true, allFeatures())
	q := r.queues[0]
	q.post(8)
	r.vif.Faults().Inject(RxIgnore, Always)
	r.check(r.port.Send(0, tap.VirtioHeader{}, frameOf(60, 1)))
	q.wait()
	if n := r.port.Waiting(0); n != 1 {
		t.Errorf("%d frames wait", n)
	}
	r.vif.Faults().Clear()
	r.vif.Kick()
	q.receive()
}
