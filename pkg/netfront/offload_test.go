package netfront

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/xnetfrontd/xnetfrontd/internal/netback"
	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

// packet is a TCP or UDP frame whose checksum is the pseudo-header's sum, with the
// virtio header that says so.
type packet struct {
	frame  []byte
	header tap.VirtioHeader
	ipv6   bool
	tcp    bool
	l4     int
}

// newPacket builds a frame of n bytes.
func newPacket(n int, ipv6, tcp, tagged bool) packet {
	p := packet{ipv6: ipv6, tcp: tcp, l4: 34}
	f := patterned(n, uint64(n))
	copy(f, markPrefix)
	l3 := 14
	if tagged {
		binary.BigEndian.PutUint32(f[12:], 0x81000005)
		l3 = 18
	}
	proto, offset := byte(17), 6
	if tcp {
		proto, offset = 6, 16
	}
	if ipv6 {
		p.l4 = l3 + 40
		binary.BigEndian.PutUint16(f[l3-2:], 0x86dd)
		copy(f[l3:], []byte{0x60, 0, 0, 0})
		binary.BigEndian.PutUint16(f[l3+4:], uint16(n-p.l4))
		f[l3+6], f[l3+7] = proto, 64
	} else {
		p.l4 = l3 + 20
		binary.BigEndian.PutUint16(f[l3-2:], 0x0800)
		copy(f[l3:], []byte{0x45, 0})
		binary.BigEndian.PutUint16(f[l3+2:], uint16(n-l3))
		copy(f[l3+4:], []byte{0, 1, 0x40, 0, 64, proto, 0, 0})
		binary.BigEndian.PutUint16(f[l3+10:], ^tap.Checksum(f[l3:p.l4], 0))
	}
	headers := 8
	if tcp {
		headers = 20
		f[p.l4+12], f[p.l4+13] = 0x50, 0x10
	} else {
		binary.BigEndian.PutUint16(f[p.l4+4:], uint16(n-p.l4))
	}
	p.frame = f
	binary.BigEndian.PutUint16(f[p.l4+offset:], p.pseudo(f))
	p.header = tap.VirtioHeader{Flags: tap.VirtioNeedsCsum, HdrLen: uint16(p.l4 + headers), CsumStart: uint16(p.l4), CsumOffset: uint16(offset)}
	return p
}

func (p packet) pseudo(f []byte) uint16 {
	proto := uint8(17)
	if p.tcp {
		proto = 6
	}
	if p.ipv6 {
		return tap.PseudoHeaderSum(f[p.l4-32:p.l4-16], f[p.l4-16:p.l4], proto, len(f)-p.l4)
	}
	return tap.PseudoHeaderSum(f[p.l4-8:p.l4-4], f[p.l4-4:p.l4], proto, len(f)-p.l4)
}

// sumIsRight checks the complete checksum of a frame of p's kind.
func (p packet) sumIsRight(f []byte) bool {
	return tap.Checksum(f[p.l4:], uint32(p.pseudo(f))) == 0xffff
}

// finished is the frame with its checksum complete.
func (p packet) finished(t *testing.T) []byte {
	t.Helper()
	f := bytes.Clone(p.frame)
	if err := tap.FinishChecksum(f, p.l4, int(p.header.CsumOffset)); err != nil {
		t.Fatal(err)
	}
	return f
}

func (p packet) gso(size uint16) tap.VirtioHeader {
	v := p.header
	v.GSOSize, v.GSOType = size, tap.GSOTCPv4
	if p.ipv6 {
		v.GSOType = tap.GSOTCPv6
	}
	return v
}

// checkArrived checks one frame that netback got for p, as the network behind it
// will: either it can finish the checksum, or it is right already.
func checkArrived(t *testing.T, p packet, r netback.Received, tagged bool) {
	t.Helper()
	blank := r.Flags&netif.TxCsumBlank != 0
	switch {
	case blank && tagged:
		t.Fatal("csum_blank on a tagged frame: netback drops it after OKAY")
	case blank && !bytes.Equal(r.Frame, p.frame):
		t.Fatal("frame changed")
	case !blank && !p.sumIsRight(r.Frame):
		t.Fatalf("%d bytes: wrong checksum", len(r.Frame))
	}
}

func TestChecksumsAreRightUnderEveryOffload(t *testing.T) {
	for _, f := range []struct {
		name string
		on   Features
	}{
		{"all", AllFeatures()},
		{"no ipv6 csum", features(func(f *Features) { f.CsumIPv6, f.GSOv6 = false, false })},
		{"none", features(func(f *Features) { f.Csum, f.CsumIPv6, f.GSOv4, f.GSOv6 = false, false, false, false })},
	} {
		t.Run(f.name, func(t *testing.T) {
			w := newWorld(t, worldConfig{front: Config{Features: f.on, MTU: maxMTU}})
			w.connected(1)
			for _, ipv6 := range []bool{false, true} {
				for _, tcp := range []bool{false, true} {
					for _, tag := range []bool{false, true} {
						for _, n := range []int{90, 1514, 9000, netif.MaxTxSize - 4} {
							p := newPacket(n, ipv6, tcp, tag)
							w.send(p.header, p.frame)
							checkArrived(t, p, w.fromGuest(markPrefix), tag)

							w.check(w.port.Send(0, p.header, p.frame))
							v, got := w.receive(markPrefix)
							if tag && len(got) == n-4 {
								// The kernel has taken the tag out before the packet socket.
								got = append(append(bytes.Clone(got[:12]), p.frame[12:16]...), got[12:]...)
								v.CsumStart += 4
							}
							if v.Flags&tap.VirtioNeedsCsum != 0 {
								if int(v.CsumStart) != p.l4 || v.CsumOffset != p.header.CsumOffset || !bytes.Equal(got, p.frame) {
									t.Fatalf("ipv6=%v tcp=%v tag=%v %d bytes: header %+v", ipv6, tcp, tag, n, v)
								}
							} else if !p.sumIsRight(got) {
								t.Fatalf("ipv6=%v tcp=%v tag=%v %d bytes to the guest: wrong checksum", ipv6, tcp, tag, n)
							}
						}
					}
				}
			}
		})
	}
}

// Super-frames, tagged ones and such for which the backend has no feature too, reach
// the network with every byte of payload once and in order, and right checksums.
func TestSuperFramesArriveWholeOrAsRightSegments(t *testing.T) {
	all := AllFeatures()
	for _, f := range []struct {
		name string
		on   Features
	}{
		{"all", all},
		{"no gso", features(func(f *Features) { f.GSOv4, f.GSOv6 = false, false })},
		{"no csum", features(func(f *Features) { f.Csum, f.CsumIPv6, f.GSOv4, f.GSOv6 = false, false, false, false })},
		{"nothing", Features{SplitChannels: true}},
	} {
		t.Run(f.name, func(t *testing.T) {
			w := newWorld(t, worldConfig{front: Config{Features: f.on}})
			w.connected(1)
			for _, ipv6 := range []bool{false, true} {
				for _, tag := range []bool{false, true} {
					for _, n := range []int{3000, 20000, 65000} {
						p := newPacket(n, ipv6, true, tag)
						headers := p.l4 + 20
						w.send(p.gso(1400), p.frame)
						var payload []byte
						for len(payload) < n-headers {
							r := w.fromGuest(markPrefix)
							if r.Header.GSOType != tap.GSONone {
								if tag || !bytes.Equal(r.Frame, p.frame) {
									t.Fatal("super-frame changed, or tagged")
								}
							} else if r.Flags&netif.TxCsumBlank == 0 && !p.sumIsRight(r.Frame) {
								t.Fatalf("segment of %d bytes has a wrong checksum", len(r.Frame))
							} else if len(r.Frame) > headers+1400 {
								t.Fatalf("segment of %d bytes", len(r.Frame))
							}
							payload = append(payload, r.Frame[headers:]...)
						}
						if !bytes.Equal(payload, p.frame[headers:]) {
							t.Fatalf("ipv6=%v tag=%v %d bytes: payload changed", ipv6, tag, n)
						}
					}
				}
			}
			if s := w.vif.Stats(); s.Drops != (netback.Stats{}).Drops {
				t.Errorf("netback dropped: %v", s.Drops)
			}
		})
	}
}

func TestFrameOfTheLargestSizeWithATagIsNotLost(t *testing.T) {
	w := newWorld(t, worldConfig{front: Config{MTU: maxMTU}})
	w.connected(1)
	for _, n := range []int{netif.MaxTxSize - 4, netif.MaxTxSize} {
		p := newPacket(n, false, true, n == netif.MaxTxSize)
		f := p.finished(t)
		w.send(tap.VirtioHeader{}, f)
		if r := w.fromGuest(markPrefix); !bytes.Equal(r.Frame, f) {
			t.Fatalf("%d bytes came as %d", n, len(r.Frame))
		}
	}
	if d := w.dev.Status().Queues[0].Tx.Counters["drop_too_big"]; d != 0 {
		t.Errorf("%d frames dropped", d)
	}
}

// Fragments, multicast and extension headers pass as they are.
func TestOddFramesPassUnchanged(t *testing.T) {
	w := newWorld(t, worldConfig{})
	w.connected(1)
	udp := newPacket(600, false, false, false)
	fragment := udp.finished(t)
	fragment[20] |= 0x20 // more fragments
	hop := newPacket(700, true, false, false).finished(t)
	hop[20], hop[54], hop[55] = 0, 17, 0 // a hop-by-hop header where UDP was
	multicast := udp.finished(t)
	odd := map[string][]byte{"fragment": fragment, "hop-by-hop header": hop, "multicast": multicast, "arp": gratuitousARP(guestMAC, []byte{10, 0, 0, 1})}
	copy(odd["arp"], markPrefix)
	for name, f := range odd {
		w.send(tap.VirtioHeader{}, f)
		if r := w.fromGuest(markPrefix); !bytes.Equal(r.Frame, f) {
			t.Errorf("%s changed on its way out", name)
		}
		w.check(w.port.Send(0, tap.VirtioHeader{}, f))
		if _, got := w.receive(markPrefix); !bytes.Equal(got, f) {
			t.Errorf("%s changed on its way in", name)
		}
	}
	group := mark(100, 5)
	copy(group, []byte{0x33, 0x33, 0xaa, 0xbb, 0xcc, 0xdd})
	w.send(tap.VirtioHeader{}, group)
	w.fromGuest(group[:12])
	w.check(w.port.Send(0, tap.VirtioHeader{}, group))
	w.receive(group[:12])
}

// Every size under both checksum modes and each type of segmentation, through the
// tx queue alone.
func TestTxEverySizeUnderEveryChecksumMode(t *testing.T) {
	step := 61
	if testing.Short() {
		step = 997
	}
	r := newTxRig(t, AllFeatures(), fullMaps)
	for _, ipv6 := range []bool{false, true} {
		for n := 90; n <= netif.MaxTxSize; n += step {
			p := newPacket(n, ipv6, true, false)
			headers := []tap.VirtioHeader{{}, p.header}
			if n > 200 {
				headers = append(headers, p.gso(100))
			}
			for i, v := range headers {
				r.feed(v, p.frame)
				r.service()
				r.take()
				r.respond(len(r.open), nil)
				if len(r.got) != 1 || !bytes.Equal(r.got[0].frame, p.frame) {
					t.Fatalf("%d bytes, mode %d: %d frames", n, i, len(r.got))
				}
				if blank := r.got[0].flags&netif.TxCsumBlank != 0; blank != (i > 0) {
					t.Fatalf("%d bytes, mode %d: flags %#x", n, i, r.got[0].flags)
				}
				if gso := r.got[0].gso; (gso != nil) != (i == 2) {
					t.Fatalf("%d bytes, mode %d: gso %v", n, i, gso)
				}
				r.got = r.got[:0]
			}
		}
	}
}

// The same on the way in.
func TestRxEverySizeUnderEveryChecksumMode(t *testing.T) {
	step := 61
	if testing.Short() {
		step = 997
	}
	r := newRxRig(t, fullMaps)
	for _, ipv6 := range []bool{false, true} {
		typ := netif.GSOTCPv4
		if ipv6 {
			typ = netif.GSOTCPv6
		}
		gso := netif.NewGSO(100, typ)
		for n := 90; n <= netif.MaxTxSize; n += step {
			p := newPacket(n, ipv6, true, false)
			done := p.finished(t)
			for name, c := range map[string]struct {
				flags uint16
				extra *netif.Extra
				frame []byte
				want  []byte
			}{
				"plain":     {0, nil, done, done},
				"blank":     {netif.RxCsumBlank | netif.RxDataValidated, nil, p.frame, p.frame},
				"gso":       {netif.RxCsumBlank | netif.RxDataValidated, &gso, p.frame, p.frame},
				"validated": {netif.RxDataValidated, nil, done, nil},
			} {
				r.send(c.flags, c.extra, 0, c.frame)
				r.service()
				if len(r.out.frames) != 1 {
					t.Fatalf("%s, %d bytes: %d frames", name, n, len(r.out.frames))
				}
				got := r.out.frames[0][tap.VirtioHeaderSize:]
				v, _ := tap.ParseVirtioHeader(r.out.frames[0])
				if c.want == nil { // its checksum may have become the pseudo-header's sum
					if c.want = done; v.Flags&tap.VirtioNeedsCsum != 0 {
						c.want = p.frame
					}
				}
				if !bytes.Equal(got, c.want) {
					t.Fatalf("%s, %d bytes: frame changed", name, n)
				}
				r.out.frames = r.out.frames[:0]
			}
		}
	}
}
