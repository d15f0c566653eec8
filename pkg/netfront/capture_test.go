package netfront

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/xnetfrontd/xnetfrontd/internal/netback"
	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

// keeper is a CaptureSink that keeps the marked frames and the lost ones.
type keeper struct {
	mu          sync.Mutex
	frames      []CapturedFrame
	connections []CaptureConnection
	fail        error
	hold        chan struct{} // Frame waits for it to be closed, if it is not nil
	held        chan struct{} // gets a value when Frame waits
}

func (k *keeper) Connection(c CaptureConnection) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.connections = append(k.connections, c)
	return nil
}

func (k *keeper) Frame(f *CapturedFrame) error {
	if k.hold != nil {
		select {
		case k.held <- struct{}{}:
		default:
		}
		<-k.hold
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fail != nil {
		return k.fail
	}
	if bytes.HasPrefix(f.Data, markPrefix) || f.Lost != "" {
		c := *f
		c.Data, c.Slots = bytes.Clone(f.Data), slices.Clone(f.Slots)
		k.frames = append(k.frames, c)
	}
	return nil
}

func (k *keeper) Idle() error { return nil }

func (k *keeper) count() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.frames)
}

// capturing runs a Capture until end is called.
type capturing struct {
	w      *world
	sink   *keeper
	cancel context.CancelFunc
	done   chan struct{}
	result CaptureResult
	err    error
}

func (w *world) capture(c CaptureConfig) *capturing {
	return w.captureInto(c, &keeper{})
}

func (w *world) captureInto(c CaptureConfig, sink *keeper) *capturing {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p := &capturing{w: w, sink: sink, cancel: cancel, done: make(chan struct{})}
	dev := w.dev
	go func() {
		defer close(p.done)
		p.result, p.err = dev.Capture(ctx, c, sink)
	}()
	w.t.Cleanup(func() { cancel(); <-p.done })
	w.eventually("the capture to begin", func() bool {
		select {
		case <-p.done: // its sink has failed already
			return true
		default:
		}
		dev.mu.Lock()
		defer dev.mu.Unlock()
		return dev.capture != nil
	})
	return p
}

// frames waits until n marked frames were captured, and returns them.
func (p *capturing) frames(n int) []CapturedFrame {
	p.w.t.Helper()
	p.w.eventually(fmt.Sprintf("%d captured frames", n), func() bool { return p.sink.count() >= n })
	p.sink.mu.Lock()
	defer p.sink.mu.Unlock()
	if len(p.sink.frames) > n {
		p.w.t.Fatalf("%d frames, want %d", len(p.sink.frames), n)
	}
	return slices.Clone(p.sink.frames)
}

// end ends the capture and returns what it was.
func (p *capturing) end() CaptureResult {
	p.w.t.Helper()
	p.cancel()
	<-p.done
	p.w.check(p.err)
	return p.result
}

func (f *CapturedFrame) data() (slots []CapturedSlot) {
	return slices.DeleteFunc(slices.Clone(f.Slots), func(s CapturedSlot) bool { return s.IsExtra })
}

func TestCapturedTxFrameHasItsBytesSlotsExtraAndStatus(t *testing.T) {
	w := newWorld(t, worldConfig{})
	w.connected(1)
	p := w.capture(CaptureConfig{})
	began := time.Now()
	super, v := benchFrame(9000)
	super = super[tap.VirtioHeaderSize:]
	copy(super, markPrefix)
	sent := [][]byte{mark(60, 1), super, mark(1514, 2)}
	w.send(tap.VirtioHeader{}, sent[0])
	w.send(v, sent[1])
	w.send(tap.VirtioHeader{}, sent[2])
	for i, f := range p.frames(3) {
		if !bytes.Equal(f.Data, sent[i]) || f.Length != len(sent[i]) || f.Direction != Tx || f.Queue != 0 || f.Connection != 1 {
			t.Errorf("frame %d: %d bytes of %d, %v, queue %d, connection %d", i, len(f.Data), f.Length, f.Direction, f.Queue, f.Connection)
		}
		if f.Lost != "" || f.Time.Before(began) || f.Answered.Before(f.Time) || f.Answered.After(time.Now()) {
			t.Errorf("frame %d: lost %q, at %v, answered %v", i, f.Lost, f.Time, f.Answered)
		}
		total := 0
		for j, s := range f.data() {
			if s.Status != netif.StatusOkay || !s.Answered {
				t.Errorf("frame %d, slot %d: status %d", i, j, s.Status)
			}
			if more := s.Flags&netif.TxMoreData != 0; more != (j < len(f.data())-1) {
				t.Errorf("frame %d, slot %d: flags %#x", i, j, s.Flags)
			}
			if j > 0 {
				total += s.Size
			}
		}
		if s := f.Slots[0]; s.Size != f.Length || total >= f.Length {
			t.Errorf("frame %d: sizes %d and %d", i, s.Size, total)
		}
		for j, s := range f.Slots {
			if s.Index != f.Slots[0].Index+uint32(j) {
				t.Errorf("frame %d, slot %d has index %d, the first %d", i, j, s.Index, f.Slots[0].Index)
			}
		}
	}
	f := p.frames(3)[1]
	size, typ := f.Slots[1].Extra.GSO()
	if len(f.Slots) < 4 || f.Slots[0].Flags&(netif.TxExtraInfo|netif.TxCsumBlank) != netif.TxExtraInfo|netif.TxCsumBlank ||
		!f.Slots[1].IsExtra || f.Slots[1].Extra.Type != netif.ExtraGSO || size != 1448 || typ != netif.GSOTCPv4 {
		t.Errorf("super-frame's slots: %+v", f.Slots)
	}
	r := p.end()
	if r.Ended != "" || len(r.Figures) != 2 || r.Figures[0].Frames < 3 || r.Figures[0].Dropped != 0 {
		t.Errorf("%+v", r)
	}
}

func TestCapturedRxFrameHasItsBytesSlotsAndExtra(t *testing.T) {
	w := newWorld(t, worldConfig{})
	w.connected(1)
	p := w.capture(CaptureConfig{Directions: []Direction{Rx}})
	super, v := benchFrame(9000)
	super = super[tap.VirtioHeaderSize:]
	copy(super, markPrefix)
	sent := [][]byte{mark(60, 1), super, mark(1514, 2)}
	for i, f := range sent {
		h := tap.VirtioHeader{}
		if i == 1 {
			h = v
		}
		w.check(w.port.Send(0, h, f))
	}
	for i, f := range p.frames(3) {
		if !bytes.Equal(f.Data, sent[i]) || f.Length != len(sent[i]) || f.Direction != Rx || f.Lost != "" {
			t.Errorf("frame %d: %d bytes of %d, %v, lost %q", i, len(f.Data), f.Length, f.Direction, f.Lost)
		}
		total := 0
		for _, s := range f.data() {
			total += s.Size
		}
		if total != f.Length {
			t.Errorf("frame %d: slots of %d bytes", i, total)
		}
	}
	f := p.frames(3)[1]
	if size, typ := f.Slots[1].Extra.GSO(); f.Slots[0].Flags&netif.RxCsumBlank == 0 || !f.Slots[1].IsExtra || size != v.GSOSize || typ != netif.GSOTCPv4 {
		t.Errorf("super-frame's slots: %+v", f.Slots)
	}
	if r := p.end(); len(r.Figures) != 1 || r.Figures[0].Direction != Rx || r.Figures[0].Matched != r.Figures[0].Frames {
		t.Errorf("%+v", r)
	}
}

func TestCaptureShowsTheStatusOfEachResponse(t *testing.T) {
	w := newWorld(t, worldConfig{})
	w.connected(1)
	p := w.capture(CaptureConfig{Directions: []Direction{Tx}})
	for i, fault := range []netback.Fault{netback.TxStatusError, netback.TxStatusDropped} {
		// The kernel's own frames must not use it up.
		w.vif.Faults().Inject(fault, netback.Always)
		w.send(tap.VirtioHeader{}, mark(60, i))
		f := p.frames(i + 1)[i]
		if want := []int16{netif.StatusError, netif.StatusDropped}[i]; f.Slots[0].Status != want || !f.Slots[0].Answered || f.Lost != "" {
			t.Errorf("%+v, want status %d", f.Slots, want)
		}
		w.vif.Faults().Clear()
	}
}

func TestFrameWithoutAResponseIsCapturedAfterASecondAndAtTheEnd(t *testing.T) {
	w := newWorld(t, worldConfig{})
	w.connected(1)
	p := w.capture(CaptureConfig{Directions: []Direction{Tx}})
	w.vif.Faults().Inject(netback.TxUnanswered, netback.Always)
	w.send(tap.VirtioHeader{}, mark(60, 1))
	f := p.frames(1)[0] // the capture goes on
	if f.Slots[0].Answered || !f.Answered.IsZero() {
		t.Errorf("%+v", f)
	}
	w.send(tap.VirtioHeader{}, mark(60, 2))
	w.fromGuest(mark(60, 2))
	p.end()
	if f := p.frames(2)[1]; f.Slots[0].Answered || !bytes.Equal(f.Data, mark(60, 2)) {
		t.Errorf("%+v", f)
	}
	w.vif.Faults().Clear()
}

func TestCaptureGoesOnOverAReconnect(t *testing.T) {
	w := newWorld(t, worldConfig{})
	w.connected(1)
	p := w.capture(CaptureConfig{})
	w.send(tap.VirtioHeader{}, mark(60, 1))
	p.frames(1)
	w.vif.Faults().Inject(netback.TxIDOutOfRange, 1) // a violation, which ends the connection
	w.send(tap.VirtioHeader{}, mark(60, 2))
	w.connected(2)
	w.send(tap.VirtioHeader{}, mark(60, 3))
	w.eventually("the frame of the second connection", func() bool {
		p.sink.mu.Lock()
		defer p.sink.mu.Unlock()
		return slices.ContainsFunc(p.sink.frames, func(f CapturedFrame) bool {
			return f.Connection == 2 && bytes.Equal(f.Data, mark(60, 3)) && f.Slots[0].Answered
		})
	})
	r := p.end()
	if len(r.Figures) != 2 || r.Ended != "" {
		t.Errorf("%+v", r)
	}
	if c := p.sink.connections; len(c) != 2 || c[0].Number != 1 || c[0].Before != "" || c[1].Number != 2 || c[1].Before == "" {
		t.Errorf("%+v", c)
	}
}

func TestSlowSinkHoldsUpNobodyAndWhatItMissesIsCounted(t *testing.T) {
	w := newWorld(t, worldConfig{})
	w.connected(1)
	sink := &keeper{hold: make(chan struct{}), held: make(chan struct{}, 1)}
	p := w.captureInto(CaptureConfig{Buffer: captureBufferMin, Directions: []Direction{Tx}}, sink)
	const n = 1000 // of 1500 bytes: several buffers
	for i := range n {
		w.send(tap.VirtioHeader{}, mark(1500, i))
		if i == 0 {
			<-sink.held
		}
		if got := w.fromGuest(markPrefix); !bytes.Equal(got.Frame, mark(1500, i)) {
			t.Fatalf("frame %d is another", i)
		}
	}
	close(sink.hold)
	r := p.end()
	f := r.Figures[0]
	got := uint64(sink.count())
	if f.Dropped == 0 || f.Frames < n || f.Matched != f.Frames-f.Dropped || got == 0 || got > f.Matched || got+f.Dropped < n {
		t.Errorf("%+v, %d in the sink", f, got)
	}
	for i, c := range sink.frames {
		if !c.Slots[0].Answered {
			t.Errorf("frame %d has no response, though there is room for those of every recorded frame", i)
		}
	}
}

func TestCapturesBeginAndEndUnderLoad(t *testing.T) {
	w := newWorld(t, worldConfig{front: Config{Queues: 2}})
	w.connected(1)
	stop := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				w.send(tap.VirtioHeader{}, mark(200, i))
				if w.port.Waiting(i%2) < 100 {
					w.check(w.port.Send(i%2, tap.VirtioHeader{}, mark(200, i)))
				}
			}
		}
	})
	for i := range 30 {
		sink := &keeper{}
		p := w.captureInto(CaptureConfig{SnapLen: 60, Buffer: captureBufferMin}, sink)
		w.eventually("frames", func() bool { return sink.count() > 20*(i%3) })
		for _, f := range p.end().Figures {
			if f.Matched != f.Frames-f.Dropped {
				t.Errorf("%+v", f)
			}
		}
		for _, f := range sink.frames {
			if len(f.Data) != 60 || f.Length != 200 || !bytes.Equal(f.Data[:6], markPrefix) {
				t.Fatalf("%d bytes of %d", len(f.Data), f.Length)
			}
		}
	}
	close(stop)
	all.Wait()
}

func TestSecondCaptureIsRefusedAndTheDeviceEndsTheFirst(t *testing.T) {
	w := newWorld(t, worldConfig{})
	w.connected(1)
	p := w.capture(CaptureConfig{})
	if _, err := w.dev.Capture(t.Context(), CaptureConfig{}, &keeper{}); !errors.Is(err, ErrCapturing) {
		t.Errorf("got %v", err)
	}
	if _, err := w.dev.Capture(t.Context(), CaptureConfig{SnapLen: -1}, &keeper{}); err == nil || errors.Is(err, ErrCapturing) {
		t.Errorf("got %v", err)
	}
	w.dev.closeCapture("the vif is not served any more")
	<-p.done
	if p.err != nil || p.result.Ended != "the vif is not served any more" {
		t.Errorf("%+v, %v", p.result, p.err)
	}
	if _, err := w.dev.Capture(t.Context(), CaptureConfig{}, &keeper{}); err == nil {
		t.Error("a capture of a Device that is closed")
	}
}

func TestSinkThatFailsEndsTheCapture(t *testing.T) {
	w := newWorld(t, worldConfig{})
	w.connected(1)
	gone := errors.New("gone")
	p := w.captureInto(CaptureConfig{}, &keeper{fail: gone})
	w.send(tap.VirtioHeader{}, mark(60, 1))
	<-p.done
	if !errors.Is(p.err, gone) {
		t.Errorf("got %v", p.err)
	}
	q := w.capture(CaptureConfig{Match: func(b []byte, n int) bool { return n == 61 }, SnapLen: 20})
	w.send(tap.VirtioHeader{}, mark(60, 2))
	w.send(tap.VirtioHeader{}, mark(61, 3))
	if f := q.frames(1)[0]; !bytes.Equal(f.Data, mark(61, 3)[:20]) || f.Length != 61 {
		t.Errorf("%+v", f)
	}
}

// panicker is a CaptureSink with a fault.
type panicker struct{ keeper }

func (p *panicker) Connection(CaptureConnection) error { panic("at the disco") }

// Its caller may live on: the queues must not go on feeding it, and others may capture.
func TestSinkThatPanicsEndsTheCapture(t *testing.T) {
	w := newWorld(t, worldConfig{})
	w.connected(1)
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the sink was not asked")
			}
		}()
		_, _ = w.dev.Capture(w.deadline(), CaptureConfig{}, &panicker{})
	}()
	next := w.capture(CaptureConfig{})
	w.send(tap.VirtioHeader{}, mark(100, 1))
	next.frames(1)
}
