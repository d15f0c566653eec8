package netback

import (
	"encoding/binary"
	"errors"
	"sync/atomic"
	"testing"
	"unsafe"

	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

// setWord changes one of a ring's shared words behind the frontend's back.
func setWord(page []byte, offset int, f func(uint32) uint32) {
	w := (*uint32)(unsafe.Pointer(&page[offset]))
	atomic.StoreUint32(w, f(atomic.LoadUint32(w)))
}

// Each rule, over a real ring: the vif is disabled, on all queues and for good.
func TestViolationDisablesTheVif(t *testing.T) {
	slots := func(s ...netif.TxSlot) func(q *frontQueue) {
		return func(q *frontQueue) {
			for _, slot := range s {
				q.putSlot(slot)
			}
			q.push()
		}
	}
	for _, c := range []struct {
		name string
		do   func(q *frontQueue)
		want error
	}{
		{"257 requests", func(q *frontQueue) {
			setWord(page(q.txPages, ringPage), 0, func(p uint32) uint32 { return p + 257 })
			q.r.check(q.events.Notify(q.txPort))
		}, ErrImpossibleRequests},
		{"req_prod goes back", func(q *frontQueue) {
			setWord(page(q.txPages, ringPage), 0, func(p uint32) uint32 { return p - 1 })
			q.r.check(q.events.Notify(q.txPort))
		}, ErrImpossibleRequests},
		{"frame published in two halves", slots(request(0, 0, 200, more)), ErrUnpublishedSlots},
		{"21 further slots", slots(chain(21, 100)...), ErrTooManySlots},
		{"slot over the page's end", slots(request(0, 4000, 200, 0)), ErrCrossesPage},
		{"extra_info without an extra", slots(request(0, 0, 200, extra)), ErrMissingExtra},
		{"extra of type 6", slots(request(0, 0, 200, extra), netif.TxSlot{6}), ErrExtraType},
		{"GSO size 0", slots(request(0, 0, 200, extra), gsoExtra(0, 1, 0)), nil}, // the grant is bad as well
	} {
		if c.want == nil {
			c.want = ErrGSOSize
		}
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, Options{})
			r.connect(2, true, allFeatures())
			r.queues[1].post(8)
			good := r.queues[0]
			good.expect(netif.StatusOkay, 0, good.send(frameOf(60, 1), 60, 0)...)
			c.do(good)
			fatal, err := r.vif.WaitFatal(r.ctx)
			r.check(err)
			if !errors.Is(fatal, c.want) {
				t.Fatalf("disabled for %v, want %v", fatal, c.want)
			}
			r.check(r.port.WaitCarrier(r.ctx, false))

			// The other queue is dead, too, both ways.
			q := r.queues[1]
			q.send(frameOf(60, 2), 60, 0)
			r.check(r.port.Send(1, tap.VirtioHeader{}, frameOf(60, 2)))
			r.vif.Kick()
			r.eventually(func() bool { return r.vif.counts[1].drops[DropDisabled].Load() == 1 })
			if n, _ := q.tx.Responses(); n != 0 {
				t.Errorf("%d responses on the other queue", n)
			}

			// A reconnect does not help ...
			r.close()
			r.setState(netif.StateInitialising)
			r.awaitState(netif.StateInitWait)
			r.connect(1, true, allFeatures())
			r.queues[0].send(frameOf(60, 3), 60, 0)
			if !r.vif.Disabled() {
				t.Error("a reconnect has revived the vif")
			}
			// ... but a new device does.
			r.check(r.vif.Rebind(r.ctx))
			r.check(r.vif.WaitConnected(r.ctx))
			r.queues[0].txResponses(1)
		})
	}
}

// drops waits until a reason has been counted.
func (r *rig) drops(why DropReason, n uint64) {
	r.t.Helper()
	r.eventually(func() bool { return r.vif.Stats().Drops[why] >= n })
	if got := r.vif.Stats().Drops[why]; got != n {
		r.t.Errorf("%d frames dropped for %q, want %d", got, why, n)
	}
}

func TestUnofferedFeatureDisablesTheVif(t *testing.T) {
	f := LinuxFeatures()
	f.GSOv6 = false
	r := newRig(t, Options{Features: &f})
	r.connect(1, true, allFeatures())
	r.queues[0].send(packet(6, protoTCP, 3000), 4096, netif.TxCsumBlank, netif.NewGSO(1440, netif.GSOTCPv6))
	fatal, err := r.vif.WaitFatal(r.ctx)
	if r.check(err); !errors.Is(fatal, ErrNotOffered) {
		t.Errorf("disabled for %v", fatal)
	}
}

func TestTooManySlotsAreAnsweredWithErrors(t *testing.T) {
	r := newRig(t, Options{})
	r.connect(1, true, allFeatures())
	q := r.queues[0]
	ids := q.send(frameOf(20*100, 1), 100, 0) // 19 further ones
	q.expect(netif.StatusError, 0, ids...)
	r.drops(DropSlots, 1)
	ids = q.send(frameOf(19*100, 1), 100, 0) // 18: the last that pass
	q.expect(netif.StatusOkay, 0, ids...)
	_, err := r.port.Receive(r.ctx)
	r.check(err)
}

func TestShortFirstSlotIsAnsweredWithErrors(t *testing.T) {
	r := newRig(t, Options{})
	r.connect(1, true, allFeatures())
	q := r.queues[0]
	q.expect(netif.StatusError, 0, q.send(frameOf(26, 1), 13, 0)...)
	r.drops(DropShort, 1)
}

func TestErrorResponsesHaveTheExtrasAsNull(t *testing.T) {
	r := newRig(t, Options{})
	r.connect(1, true, allFeatures())
	q := r.queues[0]
	q.expect(netif.StatusError, 2, q.send(frameOf(20*100, 1), 100, netif.TxCsumBlank,
		netif.NewGSO(1448, netif.GSOTCPv4), netif.Extra{Type: netif.ExtraHash})...)
}

func TestDeadGrantGetsItsSlotAnError(t *testing.T) {
	for _, c := range []struct {
		name string
		ref  func(r *rig) uint32
	}{
		{"never granted", func(*rig) uint32 { return 3000 }},
		{"beyond the table", func(*rig) uint32 { return 1 << 31 }},
		{"granted to another domain", func(r *rig) uint32 {
			p, err := r.front.Grants().Alloc(7, 1, true)
			r.check(err)
			r.t.Cleanup(func() { p.Free() })
			return uint32(p.Refs()[0])
		}},
		{"freed after it was used", func(r *rig) uint32 {
			p, err := r.front.Grants().Alloc(0, 1, true)
			r.check(err)
			ref := uint32(p.Refs()[0])
			r.queues[0].putSlot(netif.TxRequest{Ref: ref, ID: 200, Size: 300}.Slot())
			r.queues[0].push()
			r.queues[0].expect(netif.StatusOkay, 0, 200)
			r.check(p.Free())
			return ref
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, Options{})
			r.connect(1, true, allFeatures())
			q := r.queues[0]
			ref := c.ref(r)
			q.putSlot(netif.TxRequest{Ref: uint32(q.txPages.Refs()[1]), ID: 1, Size: 300, Flags: more}.Slot())
			q.putSlot(netif.TxRequest{Ref: ref, ID: 2, Size: 100}.Slot())
			q.push()
			got := map[uint16]int16{}
			for _, resp := range q.txResponses(2) {
				got[resp.ID] = resp.Status
			}
			if got[1] != netif.StatusOkay || got[2] != netif.StatusError {
				t.Errorf("statuses %v", got)
			}
			r.drops(DropGrant, 1)
			if r.vif.Disabled() {
				t.Error("disabled for a bad grant")
			}
		})
	}
}

// What Linux drops although it has answered OKAY.
func TestBadChecksumSetupIsDroppedAfterOkay(t *testing.T) {
	fragment := packet(4, protoUDP, 100)
	binary.BigEndian.PutUint16(fragment[20:], 0x2000)
	lastFragment := packet(4, protoUDP, 100)
	binary.BigEndian.PutUint16(lastFragment[20:], 185)
	fragment6 := packet(6, protoUDP, 100)
	fragment6 = append(fragment6[:54:54], append([]byte{protoUDP, 0, 0, 1, 0, 0, 0, 9}, fragment6[54:]...)...)
	fragment6[20] = protoFragment
	binary.BigEndian.PutUint16(fragment6[18:], 116)
	arp := frameOf(60, 1)
	binary.BigEndian.PutUint16(arp[12:], 0x0806)
	deep := packet(6, protoUDP, 100) // the second header begins 288 bytes into IPv6
	deep = append(deep[:54:54], append([]byte{protoDstOpts, 30, 248: protoUDP, 255: 0}, deep[54:]...)...)
	deep[20] = protoHopOpts
	binary.BigEndian.PutUint16(deep[18:], uint16(len(deep)-54))
	icmp := packet(4, 1, 64)
	cut := packet(4, protoTCP, 0)[:14+20+19]
	gso4 := netif.NewGSO(1448, netif.GSOTCPv4)
	gso6 := netif.NewGSO(1448, netif.GSOTCPv6)
	for _, c := range []struct {
		name   string
		frame  []byte
		extras []netif.Extra
		want   DropReason
	}{
		{"csum_blank on a tagged frame", packet(4, protoTCP, 100, 0x8100), nil, DropCsumNotIP},
		{"csum_blank on a service-tagged frame", packet(4, protoTCP, 100, 0x88a8), nil, DropCsumNotIP},
		{"csum_blank on ARP", arp, nil, DropCsumNotIP},
		{"csum_blank on the first IPv4 fragment", fragment, nil, DropCsumFragment},
		{"csum_blank on the last IPv4 fragment", lastFragment, nil, DropCsumFragment},
		{"csum_blank on an IPv6 fragment", fragment6, nil, DropCsumFragment},
		{"csum_blank behind 256 bytes of IPv6 headers", deep, nil, DropCsumTruncated},
		{"csum_blank on ICMP", icmp, nil, DropCsumProtocol},
		{"csum_blank on a cut TCP header", cut, nil, DropCsumTruncated},
		{"GSO on a tagged frame", packet(4, protoTCP, 3000, 0x8100), []netif.Extra{gso4}, DropCsumNotIP},
		{"GSO on UDP", packet(4, protoUDP, 3000), []netif.Extra{gso4}, DropGSOFamily},
		{"IPv6 GSO on IPv4", packet(4, protoTCP, 3000), []netif.Extra{gso6}, DropGSOFamily},
		{"IPv4 GSO on IPv6", packet(6, protoTCP, 3000), []netif.Extra{gso4}, DropGSOFamily},
		{"GSO without payload", packet(4, protoTCP, 0), []netif.Extra{gso4}, DropGSOHeader},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, Options{})
			r.connect(1, true, allFeatures())
			q := r.queues[0]
			q.expect(netif.StatusOkay, len(c.extras), q.send(c.frame, 4096, netif.TxCsumBlank, c.extras...)...)
			r.drops(c.want, 1)
			if n := r.port.Discard(); n != 0 {
				t.Errorf("%d frames delivered", n)
			}
		})
	}
}
