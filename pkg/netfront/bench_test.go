package netfront

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

// benchFrames is how many frames one operation of these benchmarks carries: a batch
// that fits the ring also as super-frames.
const benchFrames = 8

// benchHead is how much of a frame the benchmarks' TAP and backend copy. The rest is
// the kernel's work, and not what is measured here; its bytes do not matter.
const benchHead = 128

// benchFrame is [virtio header | frame] as Linux sends it with all offloads on: TCP
// over IPv4 without a checksum, and a super-frame if it is longer than a segment.
func benchFrame(size int) ([]byte, tap.VirtioHeader) {
	v := tap.VirtioHeader{Flags: tap.VirtioNeedsCsum, CsumStart: 34, CsumOffset: 16}
	if size > 1514 {
		v.GSOType, v.GSOSize, v.HdrLen = tap.GSOTCPv4, 1448, 54
	}
	b := make([]byte, tap.VirtioHeaderSize, tap.VirtioHeaderSize+size)
	v.Put(b)
	return append(b, tcpFrame(size)...), v
}

// headOnly is a TAP with left frames that are all the same.
type headOnly struct {
	frame []byte
	left  int
}

func (s *headOnly) Read(bufs [][]byte, n []int) (int, error) {
	for i := range bufs {
		if s.left == 0 {
			return i, nil
		}
		s.left--
		copy(bufs[i], s.frame[:min(len(s.frame), benchHead)])
		n[i] = len(s.frame)
	}
	return len(bufs), nil
}

// taken is a TAP that takes every frame.
type taken struct{}

func (taken) Write(frames [][]unix.Iovec, res []int32) error {
	for i, frame := range frames {
		res[i] = 0
		for _, v := range frame {
			res[i] += int32(v.Len)
		}
	}
	return nil
}

// report times round, which carries benchFrames frames, and fails if it allocates.
func report(b *testing.B, q *counters, round func()) {
	round() // into the mode that the frames call for
	if n := testing.AllocsPerRun(100, round); n != 0 {
		b.Fatalf("%v allocations for %d packets", n, benchFrames)
	}
	b.ReportAllocs()
	slots, packets := q.own[cSlots], q.own[cPackets]
	b.ResetTimer()
	for b.Loop() {
		round()
	}
	ns := float64(b.Elapsed().Nanoseconds())
	b.ReportMetric(ns/float64(q.own[cSlots]-slots), "ns/slot")
	b.ReportMetric(ns/float64(q.own[cPackets]-packets), "ns/packet")
}

// BenchmarkTxService is the way of frames from the TAP's read to the ring and of the
// responses back, without the system calls. The backend's half of the ring is in it.
func BenchmarkTxService(b *testing.B) {
	for _, size := range []int{60, 1500, 60000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			r := newTxRig(b, AllFeatures(), fullMaps)
			frame, _ := benchFrame(size)
			src := &headOnly{frame: frame}
			r.q.in = src
			report(b, &r.q.counters, func() {
				src.left, r.q.tapReady = benchFrames, true
				for more := true; more; {
					var err error
					if more, err = r.q.service(); err != nil {
						b.Fatal(err)
					}
				}
				answerFrames(b, r)
				r.q.publish()
			})
		})
	}
}

// answerFrames answers every request in order, and every extra with NULL.
func answerFrames(b *testing.B, r *txRig) {
	n, err := r.back.Requests()
	if err != nil {
		b.Fatal(err)
	}
	for i := uint32(0); i < n; i++ {
		req := netif.ParseTxRequest(r.back.Request(i))
		s := netif.TxResponse{ID: req.ID}.Slot()
		r.back.Put(&s)
		if req.Flags&netif.TxExtraInfo != 0 {
			i++
			s = netif.TxResponse{Status: netif.StatusNull}.Slot()
			r.back.Put(&s)
		}
	}
	r.back.Consume(n)
	r.back.Push()
}

// BenchmarkRxService is the way of frames from the ring to the TAP's write and of the
// maps back, without the system calls. The backend's half of the ring is in it.
func BenchmarkRxService(b *testing.B) {
	for _, size := range []int{60, 1500, 60000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			r := newRxRig(b, fullMaps)
			r.q.out = taken{}
			frame, v := benchFrame(size)
			pages := r.q.slab.Bytes()
			for i := 0; i < len(pages); i += netif.PageSize { // any page may be a frame's first
				copy(pages[i:], frame[tap.VirtioHeaderSize:][:min(size, benchHead)])
			}
			report(b, &r.q.counters, func() {
				for range benchFrames {
					respondFrame(r, size, v.GSOSize)
				}
				r.back.Push()
				for more := true; more; {
					var err error
					if more, err = r.q.service(); err != nil {
						b.Fatal(err)
					}
				}
				r.q.publish()
			})
		})
	}
}

// respondFrame puts the responses of one frame, whose bytes are in the pages already.
func respondFrame(r *rxRig, size int, gsoSize uint16) {
	flags := uint16(netif.RxCsumBlank | netif.RxDataValidated)
	if gsoSize != 0 {
		flags |= netif.RxExtraInfo
	}
	for left := size; left > 0; flags = 0 {
		rsp := netif.RxResponse{ID: netif.ParseRxRequest(r.back.Request(0)).ID, Flags: flags, Status: int16(min(left, netif.PageSize))}
		if left -= int(rsp.Status); left > 0 {
			rsp.Flags |= netif.RxMoreData
		}
		s := rsp.Slot()
		r.back.Consume(1)
		r.back.Put(&s)
		if flags&netif.RxExtraInfo != 0 {
			r.extra(netif.NewGSO(gsoSize, netif.GSOTCPv4))
		}
	}
}
