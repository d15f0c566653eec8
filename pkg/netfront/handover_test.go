package netfront

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/netback"
	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/busdma"
	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

// shelf is a Holder in this process.
type shelf struct {
	t      *testing.T
	mu     sync.Mutex
	kept   map[string]heldBundle
	parked []heldBundle
	refuse error
	onPut  func(key, label string) // told before anything is put
}

type heldBundle struct {
	label string
	files []HeldFile
}

func newShelf(t *testing.T) *shelf {
	s := &shelf{t: t, kept: map[string]heldBundle{}}
	t.Cleanup(func() { // after the world's
		for k, b := range s.kept {
			t.Errorf("%s is left with the holder", k)
			closeFiles(b.files)
		}
	})
	return s
}

func duplicates(files []HeldFile) ([]HeldFile, error) {
	files = slices.Clone(files)
	for i := range files {
		fd, err := unix.FcntlInt(uintptr(files[i].FD), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			closeFiles(files[:i])
			return nil, err
		}
		files[i].FD = fd
	}
	return files, nil
}

func (s *shelf) Put(key, label string, files []HeldFile) error {
	if s.onPut != nil {
		s.onPut(key, label)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse != nil {
		return s.refuse
	}
	files, err := duplicates(files)
	if err != nil {
		return err
	}
	closeFiles(s.kept[key].files)
	s.kept[key] = heldBundle{label, files}
	return nil
}

func (s *shelf) Get(key string) (string, []HeldFile, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.kept[key]
	if !ok {
		return "", nil, fs.ErrNotExist
	}
	files, err := duplicates(b.files)
	return b.label, files, err
}

func (s *shelf) Drop(key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	closeFiles(s.kept[key].files)
	delete(s.kept, key)
	return nil
}

func (s *shelf) Park(key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b, ok := s.kept[key]; ok {
		s.parked = append(s.parked, b)
		delete(s.kept, key)
	}
	return nil
}

func (s *shelf) keys() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(slices.Sorted(maps.Keys(s.kept)), " ")
}

const allKept = "vif/0/connection vif/0/events vif/0/tap"

// leave ends this process's part, as far as one can within it.
func (w *world) leave() {
	w.t.Helper()
	w.stop(ErrLeave)
	if err := <-w.ran; err != nil {
		w.t.Fatalf("Run: %v", err)
	}
	w.check(w.dev.Close())
	w.check(w.front.Close())
}

// exchange sends n numbered frames each way and checks that each arrives once, in order.
func (w *world) exchange(n, from int) {
	w.t.Helper()
	for i := range n {
		w.send(tap.VirtioHeader{}, mark(100+i, from+i))
		w.check(w.port.Send(0, tap.VirtioHeader{}, mark(1000+i, from+i)))
	}
	w.expect(n, func(i int) []byte { return mark(100+i, from+i) }, func(i int) []byte { return mark(1000+i, from+i) })
}

// expect takes n frames of each side and checks that they are those; in order, when one
// queue carries all.
func (w *world) expect(n int, out, in func(i int) []byte) {
	w.t.Helper()
	left := map[string]int{}
	for i := range n {
		left[string(out(i))]++
		left[string(in(i))]++
	}
	for i := range n {
		r, f := w.fromGuest(markPrefix).Frame, []byte(nil)
		_, f = w.receive(markPrefix)
		if w.port.Queues() == 1 && (!bytes.Equal(r, out(i)) || !bytes.Equal(f, in(i))) {
			w.t.Fatalf("frame %d is another", i)
		}
		left[string(r)]--
		left[string(f)]--
	}
	for f, n := range left {
		if n != 0 {
			w.t.Fatalf("a frame of %d bytes came %d times too rarely", len(f), n)
		}
	}
}

func newKeptWorld(t *testing.T, c worldConfig) (*world, *shelf) {
	t.Helper()
	h := newShelf(t)
	c.front.Holder = h
	w := newWorld(t, c)
	w.connected(1)
	return w, h
}

func TestNextProcessGoesOnWithTheConnection(t *testing.T) {
	for name, queues := range map[string]int{"one queue": 1, "three queues": 3} {
		t.Run(name, func(t *testing.T) {
			offer := netback.LinuxFeatures()
			offer.MaxQueues = 4
			w, h := newKeptWorld(t, worldConfig{front: Config{Queues: queues}, back: netback.Options{Features: &offer}})
			w.exchange(300, 0)
			before := w.dev.Status()
			seen := len(w.vif.States())
			for range 3 {
				w.leave()
				if k := h.keys(); k != allKept {
					t.Fatalf("left with the holder: %s", k)
				}
				// What is sent meanwhile waits: in the TAP, and at the backend.
				for i := range 20 {
					w.send(tap.VirtioHeader{}, mark(60, 5000+i))
					w.check(w.port.Send(0, tap.VirtioHeader{}, mark(60, 6000+i)))
				}
				w.begin()
				w.eventually("the connection to be taken over", func() bool { return w.dev.Status().State == "Connected" })
				w.expect(20, func(i int) []byte { return mark(60, 5000+i) }, func(i int) []byte { return mark(60, 6000+i) })
				w.exchange(300, 1000)
			}
			after := w.dev.Status()
			if !after.TakenOver || before.TakenOver {
				t.Error("the status does not say that it was taken over")
			}
			if after.IfIndex != before.IfIndex || after.Features != before.Features || len(after.Queues) != queues {
				t.Errorf("was %+v, is %+v", before, after)
			}
			if n := len(w.vif.States()); n != seen {
				t.Errorf("the backend saw a change: %v", w.vif.States())
			}
			for _, q := range after.Queues {
				if m := q.Tx.Maps; m.Free+m.Loaded+m.InFlight+m.Quarantined != m.Created || m.Quarantined != 0 {
					t.Errorf("tx maps %+v", m)
				}
			}
		})
	}
}

// reconnects leaves, spoils what was left, and checks that a new connection comes of it,
// on the same TAP, with one line that says why.
func reconnects(t *testing.T, why string, spoil func(w *world, h *shelf)) {
	t.Helper()
	core, logs := observer.New(zap.WarnLevel)
	w, h := newKeptWorld(t, worldConfig{front: Config{Logger: zap.New(core)}})
	index := w.dev.Status().IfIndex
	w.leave()
	spoil(w, h)
	w.begin()
	w.connected(1)
	w.exchange(20, 0)
	if s := w.dev.Status(); s.IfIndex != index {
		t.Errorf("another TAP: %d, was %d", s.IfIndex, index)
	}
	if h.keys() != allKept {
		t.Errorf("the holder has %s", h.keys())
	}
	link, err := netlink.LinkByName(w.dev.Name())
	w.check(err)
	c := w.config.front
	if a := link.Attrs(); c.MTU != 0 && a.MTU != c.MTU || c.TxQueueLen != 0 && a.TxQLen != c.TxQueueLen {
		t.Errorf("MTU %d and %d frames, want %d and %d", a.MTU, a.TxQLen, c.MTU, c.TxQueueLen)
	}
	if w.dev.Status().Features != c.Features {
		t.Errorf("features %+v, want %+v", w.dev.Status().Features, c.Features)
	}
	lines := logs.FilterMessage("a new connection: what the last process left cannot be gone on with").All()
	if len(lines) != 1 {
		t.Fatalf("%d lines: %v", len(lines), logs.All())
	}
	if err := lines[0].ContextMap()["error"].(string); !strings.Contains(err, why) {
		t.Errorf("error %q, want %q", err, why)
	}
}

// onState changes bytes of the state file.
func onState(change func(f *stateFile)) func(*world, *shelf) {
	return func(w *world, h *shelf) {
		fd := slices.IndexFunc(h.kept["vif/0/connection"].files, func(f HeldFile) bool { return f.Name == "state" })
		f := &stateFile{fd: h.kept["vif/0/connection"].files[fd].FD}
		w.check(f.mapIt(stateFileSize(1)))
		change(f)
		w.check(unix.Munmap(f.mem))
	}
}

func TestStateOfAnotherProgramIsAdopted(t *testing.T) {
	for name, c := range map[string]struct {
		why    string
		change func(f *stateFile)
	}{
		"another version":     {"state of version 2", func(f *stateFile) { f.head.Version++ }},
		"another layout":      {"layout", func(f *stateFile) { f.head.Layout++ }},
		"corrupt record":      {"checksum", func(f *stateFile) { f.queue(0).Record.Tx.Refs[7]++ }},
		"corrupt header":      {"checksum", func(f *stateFile) { f.head.Backend = 9 }},
		"corrupt indices":     {"private state out of range", func(f *stateFile) { f.queue(0).Tx.ring.RspCons += 3000 }},
		"corrupt hand":        {"in hand", func(f *stateFile) { f.queue(0).Tx.hand |= 0xff << 24 }},
		"too long in hand":    {"frame 0 in hand has", func(f *stateFile) { f.queue(0).Tx.hand |= 1 << 16; f.queue(0).Tx.lens[0] = frameRoom + 1 }},
		"corrupt map states":  {"pool", func(f *stateFile) { f.queue(0).Tx.pool = garbage() }},
		"corrupt posted":      {"out of place", func(f *stateFile) { f.queue(0).Rx.posted[3] = 4 }},
		"died while making":   {"being made", func(f *stateFile) { f.setPhase(phaseMaking) }},
		"died taking it over": {"5 processes tried it", func(f *stateFile) { f.head.Attempts = maxAttempts }},
		"died while ending":   {"being made or ended", func(f *stateFile) { f.setPhase(phaseEnded) }},
		"another connection":  {"checksum", func(f *stateFile) { f.head.Nonce.Text[0]++ }},
		"another domain":      {"its backend was", func(f *stateFile) { f.head.Backend++; f.seal() }},
		"another backend":     {"its backend was", func(f *stateFile) { f.head.Path.Text[0]++; f.seal() }},
		"another vif":         {"its backend was", func(f *stateFile) { f.head.Dir.Text[0]++; f.seal() }},
		"other ring in store": {"the store's rings are others", func(f *stateFile) { f.queue(0).Record.TxPort++; f.seal() }},
	} {
		t.Run(name, func(t *testing.T) { reconnects(t, c.why, onState(c.change)) })
	}
}

func TestAlienDescriptorIsNotAdopted(t *testing.T) {
	alien := func(t *testing.T) int {
		fd, err := unix.MemfdCreate("alien", unix.MFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	for key, why := range map[string]string{"vif/0/connection": "no state file", "vif/0/events": "adopt event channels"} {
		t.Run(key, func(t *testing.T) {
			reconnects(t, why, func(w *world, h *shelf) {
				f := &h.kept[key].files[0]
				unix.Close(f.FD)
				f.FD = alien(t)
			})
		})
	}
	t.Run("part is missing", func(t *testing.T) {
		reconnects(t, "did not hand over all", func(w *world, h *shelf) { w.check(h.Drop("vif/0/connection")) })
	})
	t.Run("events are missing", func(t *testing.T) {
		reconnects(t, "event files", func(w *world, h *shelf) { w.check(h.Drop("vif/0/events")) })
	})
}

func TestVifThatChangedMeanwhileIsNotAdopted(t *testing.T) {
	t.Run("backend closed", func(t *testing.T) {
		reconnects(t, "not connected any more", func(w *world, h *shelf) {
			w.check(w.vif.ShowState(w.deadline(), netif.StateClosing))
		})
	})
	t.Run("somebody reset it", func(t *testing.T) {
		reconnects(t, "not connected any more", func(w *world, h *shelf) {
			w.check(w.server.Toolstack().Write(w.deadline(), "/local/domain/5/device/vif/0/state", "1"))
		})
	})
}

// A process that dies before the rings are published must not look like one from before
// a restore, whose event channels are parked for ever.
func TestEventChannelsAreHeldBeforeTheSessionIsMarked(t *testing.T) {
	h := newShelf(t)
	made := make(chan *world, 1)
	h.onPut = func(key, label string) {
		marker, nonce, ok := strings.Cut(label, " ")
		if key != "vif/0/events" || !ok {
			return
		}
		w := <-made
		made <- w
		if v, err := w.server.Toolstack().Read(w.deadline(), "/local/domain/5/"+marker); v != nonce {
			t.Errorf("the marker is %q (%v), want %q", v, err, nonce)
		}
	}
	w := newWorld(t, worldConfig{front: Config{Holder: h}})
	made <- w
	w.connected(1)
	w.exchange(10, 0)
}

func TestNewConfigurationCostsAReconnect(t *testing.T) {
	reconnects(t, "its configuration was another", func(w *world, h *shelf) {
		w.config.front.MTU, w.config.front.TxQueueLen = 1400, 77
		w.config.front.Features.GSOv6 = false
	})
}

func TestDeviceFailsWithoutAHolderThatWorks(t *testing.T) {
	h := newShelf(t)
	h.refuse = errors.New("no holder answers")
	core, logs := observer.New(zap.WarnLevel)
	w := newWorld(t, worldConfig{front: Config{Holder: h, Logger: zap.New(core)}})
	w.connected(1)
	w.exchange(10, 0)
	if n := logs.FilterMessage("a restart will need a new connection: nobody keeps this one").Len(); n != 1 {
		t.Errorf("%d lines: %v", n, logs.All())
	}
}

func garbage() (p busdma.PoolState) {
	b := unsafe.Slice((*byte)(unsafe.Pointer(&p)), unsafe.Sizeof(p))
	for i := range b {
		b[i] = 0xa5
	}
	return p
}

// restore saves and restores the guest, as another domain.
func (w *world) restore(as xen.DomID) {
	w.t.Helper()
	old := w.vif
	w.check(w.server.Restore(w.deadline(), w.domain(), as, w.config.vif))
	w.dom = as
	// Under its old number, the vif from before can be there for a moment.
	w.eventually("the restored guest's vif", func() bool {
		v, err := w.back.Vif(w.deadline(), netback.VifID{Frontend: as, Device: 0})
		w.check(err)
		w.vif = v
		return v != old
	})
}

// lostPortsAreKept checks that no event channel from before a restore was unbound or
// closed. A notify can happen until the frontend hears of the restore, and does no harm
// that a spurious event does not.
func (w *world) lostPortsAreKept() {
	w.t.Helper()
	for _, use := range w.server.LostPortUses() {
		if !strings.Contains(use, "notify of port") {
			w.t.Errorf("a port was not only kept: %s", use)
		}
	}
}

// unhurt checks that no event channel from before a restore was touched, and that the
// holder has them all.
func (w *world) unhurt(h *shelf, restores int) {
	w.t.Helper()
	w.lostPortsAreKept()
	if len(h.parked) != restores {
		w.t.Errorf("%d bundles parked, want %d", len(h.parked), restores)
	}
	for _, b := range h.parked { // the end of the guest
		w.check(closeFiles(b.files))
	}
	h.parked = nil
}

func TestRestoredGuestIsServedAnew(t *testing.T) {
	t.Run("while it runs", func(t *testing.T) {
		w, h := newKeptWorld(t, worldConfig{})
		index := w.dev.Status().IfIndex
		for round := range 3 {
			w.exchange(50, 0)
			w.restore(guestDom + xen.DomID(round) + 1)
			w.connected(uint64(round) + 2)
			w.exchange(50, 100)
		}
		if s := w.dev.Status(); s.IfIndex != index || s.Ended["restored"] != 3 {
			t.Errorf("the TAP was %d, status %+v", index, s)
		}
		w.unhurt(h, 3)
	})
	t.Run("while no process runs", func(t *testing.T) {
		w, h := newKeptWorld(t, worldConfig{})
		w.leave()
		w.restore(guestDom + 1)
		w.begin()
		w.connected(1)
		w.exchange(50, 100)
		w.unhurt(h, 1)
	})
	t.Run("while no process runs, under its old number", func(t *testing.T) {
		w, h := newKeptWorld(t, worldConfig{})
		w.leave()
		w.restore(guestDom)
		w.begin()
		w.connected(1)
		w.exchange(50, 100)
		w.unhurt(h, 1)
	})
	t.Run("without a holder", func(t *testing.T) {
		w := newWorld(t, worldConfig{})
		w.connected(1)
		w.restore(guestDom + 1)
		w.connected(2)
		w.exchange(50, 100)
		w.lostPortsAreKept()
		for _, f := range w.dev.immortals {
			w.check(f.Close())
		}
	})
}

// A vif that is attached anew looks like a restore from its directory. To park its event
// channels would use up the guest's.
func TestDetachedVifParksItsEventChannels(t *testing.T) {
	w, h := newKeptWorld(t, worldConfig{})
	for round := range 3 {
		w.check(xensim.DetachVif(w.deadline(), w.server.Toolstack(), guestDom, 0, 10*time.Second))
		// Else it may leave what it takes for the old one, which ends the new one's backend.
		w.eventually("the frontend to notice", func() bool { return w.dev.Status().State == "Closed" })
		w.check(xensim.AttachVif(w.deadline(), w.server.Toolstack(), w.config.vif))
		w.eventually("the new vif", func() bool {
			if w.dev.Status().Connects < uint64(round)+2 {
				return false
			}
			v, err := w.back.Vif(w.deadline(), netback.VifID{Frontend: guestDom, Device: 0})
			w.check(err)
			w.vif = v
			return v.WaitConnected(w.deadline()) == nil
		})
		w.connected(uint64(round) + 2)
		w.exchange(20, 0)
	}
	w.unhurt(h, 0)
}
