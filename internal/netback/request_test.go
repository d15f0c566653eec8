package netback

import (
	"errors"
	"testing"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

// slots is a ring's contents, for the parser.
type slots []netif.TxSlot

func (s slots) Request(i uint32) netif.TxSlot { return s[i] }

func request(id, offset, size, flags uint16) netif.TxSlot {
	return netif.TxRequest{Ref: uint32(id) + 100, Offset: offset, Flags: flags, ID: id, Size: size}.Slot()
}

func gsoExtra(size uint16, typ netif.GSOType, flags uint8) netif.TxSlot {
	e := netif.NewGSO(size, typ)
	e.Flags = flags
	return e.TxSlot()
}

// chain is a frame of n further slots of 100 bytes each, and first bytes in the
// first one.
func chain(n int, first uint16) slots {
	s := slots{request(0, 0, first+uint16(n)*100, netif.TxMoreData)}
	for i := range n {
		flags := uint16(netif.TxMoreData)
		if i == n-1 {
			flags = 0
		}
		s = append(s, request(uint16(i)+1, 0, 100, flags))
	}
	return s
}

const (
	more  = netif.TxMoreData
	extra = netif.TxExtraInfo
)

// The rules of xen-netback that disable a vif, each by its name.
func TestFatal(t *testing.T) {
	for _, c := range []struct {
		name  string
		slots slots
		want  error
	}{
		{"more_data in the last published slot", slots{request(0, 0, 200, more)}, ErrUnpublishedSlots},
		{"more_data of a later slot runs past the end", slots{request(0, 0, 300, more), request(1, 0, 100, more)}, ErrUnpublishedSlots},
		{"21 further slots", chain(21, 100), ErrTooManySlots},
		{"first slot ends one byte beyond its page", slots{request(0, 4000, 97, 0)}, ErrCrossesPage},
		{"first slot's share of the total ends beyond its page", slots{request(0, 100, 4097, more), request(1, 0, 100, 0)}, ErrCrossesPage},
		{"later slot ends beyond its page", slots{request(0, 0, 300, more), request(1, 4000, 200, 0)}, ErrCrossesPage},
		{"later slot of a frame that is to be dropped ends beyond its page", append(chain(18, 100)[:18],
			request(18, 0, 100, more), request(19, 4000, 100, 0)), ErrCrossesPage},
		{"offset alone is beyond the page", slots{request(0, 60000, 60, 0)}, ErrCrossesPage},
		{"extra_info in the last published slot", slots{request(0, 0, 100, extra)}, ErrMissingExtra},
		{"MORE in the last published extra", slots{request(0, 0, 100, extra), gsoExtra(1448, netif.GSOTCPv4, netif.ExtraMore)}, ErrMissingExtra},
		{"extra of type 0", slots{request(0, 0, 100, extra), {}}, ErrExtraType},
		{"extra of type 6", slots{request(0, 0, 100, extra), {6}}, ErrExtraType},
		{"GSO size 0", slots{request(0, 0, 100, extra), gsoExtra(0, netif.GSOTCPv4, 0)}, ErrGSOSize},
		{"GSO type 0", slots{request(0, 0, 100, extra), gsoExtra(1448, 0, 0)}, ErrGSOType},
		{"GSO type 3", slots{request(0, 0, 100, extra), gsoExtra(1448, 3, 0)}, ErrGSOType},
		{"second GSO extra is the one that counts", slots{request(0, 0, 100, extra),
			gsoExtra(1448, netif.GSOTCPv4, netif.ExtraMore), gsoExtra(0, netif.GSOTCPv4, 0)}, ErrGSOSize},
	} {
		t.Run(c.name, func(t *testing.T) {
			var f frame
			drop, err := f.parse(c.slots, uint32(len(c.slots)))
			if !errors.Is(err, c.want) || drop != 0 {
				t.Fatalf("drop %v, error %v, want %v", drop, err, c.want)
			}
		})
	}
}

// The rules that drop a frame with an error for each of its slots.
func TestDropWithError(t *testing.T) {
	for _, c := range []struct {
		name  string
		slots slots
		want  DropReason
	}{
		{"19 further slots", chain(19, 100), DropSlots},
		{"20 further slots", chain(20, 100), DropSlots},
		{"slots larger than the total", slots{request(0, 0, 150, more), request(1, 0, 100, more), request(2, 0, 100, 0)}, DropOversize},
		{"64 KiB overflow the total", append(slots{request(0, 0, 64, more)}, chain(16, 0)[1:]...), DropOversize},
		{"13 bytes in the first slot", slots{request(0, 0, 113, more), request(1, 0, 100, 0)}, DropShort},
		{"frame of 13 bytes", slots{request(0, 0, 13, 0)}, DropShort},
		{"frame of 0 bytes", slots{request(0, 0, 0, 0)}, DropShort},
		{"short frame with a bad GSO extra", slots{request(0, 0, 13, extra), gsoExtra(0, 0, 0)}, DropShort},
		{"short first slot beyond its page", slots{request(0, 4090, 13, 0)}, DropShort},
	} {
		t.Run(c.name, func(t *testing.T) {
			var f frame
			drop, err := f.parse(c.slots, uint32(len(c.slots)))
			if err != nil || drop != c.want {
				t.Fatalf("drop %v, error %v, want %v", drop, err, c.want)
			}
			if int(f.slots) != len(c.slots) {
				t.Errorf("%d slots taken of %d", f.slots, len(c.slots))
			}
			if 1+f.extras+f.taken != len(c.slots) {
				t.Errorf("%d extras and %d ids for %d slots", f.extras, f.taken, len(c.slots))
			}
		})
	}
}

// What is allowed, up to the last byte and slot.
func TestAccepted(t *testing.T) {
	for _, c := range []struct {
		name  string
		slots slots
		first uint16 // bytes left for the first slot
		rest  int
	}{
		{"smallest frame", slots{request(0, 4082, 14, 0)}, 14, 0},
		{"whole page", slots{request(0, 0, 4096, 0)}, 4096, 0},
		{"18 further slots", chain(18, 100), 100, 18},
		{"zero-size later slot", slots{request(0, 0, 100, more), request(1, 0, 0, 0)}, 100, 1},
		{"zero-size later slot at the page's end", slots{request(0, 0, 100, more), request(1, 4096, 0, 0)}, 100, 1},
		{"GSO", slots{request(0, 0, 100, extra), gsoExtra(1448, netif.GSOTCPv6, 0)}, 100, 0},
		{"GSO between data slots", slots{request(0, 0, 200, extra|more), gsoExtra(1448, netif.GSOTCPv4, 0), request(1, 0, 100, 0)}, 100, 1},
		{"more_data bit in an extra means nothing", slots{request(0, 0, 100, extra), {1, 0, 168, 5, 1, 0, 4}}, 100, 0},
		{"hash extra", slots{request(0, 0, 100, extra), {4, 0}}, 100, 0},
		{"XDP extra", slots{request(0, 0, 100, extra), {5, 0}}, 100, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			var f frame
			drop, err := f.parse(c.slots, uint32(len(c.slots)))
			if err != nil || drop != 0 {
				t.Fatalf("drop %v, error %v", drop, err)
			}
			if f.first.Size != c.first || f.n != c.rest || int(f.slots) != len(c.slots) {
				t.Errorf("first %d, rest %d, slots %d", f.first.Size, f.n, f.slots)
			}
		})
	}
}

// A multicast message rides on a request whose data nobody looks at.
func TestMcastOnDummyRequest(t *testing.T) {
	s := slots{request(7, 5000, 0, extra), {2, 0, 1, 0, 94, 0, 0, 1}, request(8, 0, 100, 0)}
	var f frame
	drop, err := f.parse(s, 3)
	if drop != 0 || err != nil || f.mcast.Type != netif.ExtraMcastAdd || f.slots != 2 {
		t.Fatalf("drop %v, error %v, %+v", drop, err, f)
	}
	if got := f.mcast.Mcast(); got != [6]byte{1, 0, 94, 0, 0, 1} {
		t.Errorf("address %x", got)
	}
}

// What the frontend writes into the ring while it is read must not matter.
func TestEachSlotIsReadOnce(t *testing.T) {
	r := &readOnce{slots: chain(18, 100)}
	var f frame
	if drop, err := f.parse(r, 19); drop != 0 || err != nil {
		t.Fatal(drop, err)
	}
	for i, n := range r.reads[:len(r.slots)] {
		if n != 1 {
			t.Errorf("slot %d read %d times", i, n)
		}
	}
}

type readOnce struct {
	slots
	reads [256]int
}

func (r *readOnce) Request(i uint32) netif.TxSlot {
	r.reads[i]++
	return r.slots.Request(i)
}

func TestUnofferedFeatureIsNoticed(t *testing.T) {
	for _, c := range []struct {
		name  string
		off   func(*Features)
		slots slots
	}{
		{"feature-sg", func(f *Features) { f.SG = false }, chain(1, 100)},
		{"feature-gso-tcpv4", func(f *Features) { f.GSOv4 = false }, slots{request(0, 0, 100, extra), gsoExtra(1448, netif.GSOTCPv4, 0)}},
		{"feature-gso-tcpv6", func(f *Features) { f.GSOv6 = false }, slots{request(0, 0, 100, extra), gsoExtra(1448, netif.GSOTCPv6, 0)}},
		{"feature-multicast-control", func(f *Features) { f.McastControl = false }, slots{request(0, 0, 100, extra), {2}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var f frame
			if drop, err := f.parse(c.slots, uint32(len(c.slots))); drop != 0 || err != nil {
				t.Fatal(drop, err)
			}
			on := LinuxFeatures()
			if err := on.check(&f); err != nil {
				t.Errorf("offered: %v", err)
			}
			c.off(&on)
			if err := on.check(&f); !errors.Is(err, ErrNotOffered) {
				t.Errorf("not offered: %v", err)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []slots{chain(3, 100), {request(0, 0, 100, extra), gsoExtra(1448, 1, 0)}} {
		var b []byte
		for _, slot := range s {
			b = append(b, slot[:]...)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var s slots
		for ; len(b) >= 12 && len(s) < 256; b = b[12:] {
			s = append(s, netif.TxSlot(b[:12]))
		}
		if len(s) == 0 {
			return
		}
		var fr frame
		drop, err := fr.parse(s, uint32(len(s)))
		if err != nil {
			return
		}
		if fr.slots > uint32(len(s)) || int(fr.slots) != 1+fr.extras+fr.taken {
			t.Fatalf("%d slots of %d, %d extras, %d ids", fr.slots, len(s), fr.extras, fr.taken)
		}
		if drop != 0 || fr.mcast.Type != netif.ExtraNone {
			return
		}
		total := int(fr.first.Size)
		for _, r := range fr.rest[:fr.n] {
			total += int(r.Size)
			if crosses(r) {
				t.Fatal("slot crosses its page")
			}
		}
		if total != fr.size || crosses(fr.first) || fr.first.Size < netif.MinFirst {
			t.Fatalf("%d bytes in slots of a frame of %d", total, fr.size)
		}
	})
}
