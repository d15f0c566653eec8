package handover

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/control"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

// steady is what must not change while daemons come and go: both ends' states, the
// guest's grants and its event channels, and that its maps add up.
type steady struct {
	w      *world
	grants []xen.GrantRef
	ports  []xen.Port

	mu      sync.Mutex
	changes []string // of the state nodes
}

// watch notes what there is now.
func (w *world) watch() *steady {
	w.t.Helper()
	s := &steady{w: w, grants: w.grantRefs(), ports: w.ports()}
	for _, path := range []string{
		xensim.FrontendPath(w.dom, 0) + "/state",
		xensim.BackendPath(w.vif.Backend, w.dom, 0) + "/state",
	} {
		watch, err := w.server.Toolstack().Watch(w.deadline(), path)
		must(w.t, err)
		<-watch.Events() // the first one says that it watches
		go func() {
			for range watch.Events() {
				v, err := w.server.Toolstack().Read(w.t.Context(), path)
				s.mu.Lock()
				s.changes = append(s.changes, fmt.Sprintf("%s = %q %v", path, v, err))
				s.mu.Unlock()
			}
		}()
		w.t.Cleanup(func() { watch.Close() })
	}
	return s
}

func (w *world) grantRefs() (refs []xen.GrantRef) {
	for _, g := range w.server.GrantsInUse(w.dom) {
		refs = append(refs, g.Ref)
	}
	return refs
}

func (w *world) ports() (ports []xen.Port) {
	for _, p := range w.server.PortsInUse(w.dom) {
		ports = append(ports, p.Port)
	}
	return ports
}

// check fails the test at once if anything has changed, or the running daemon's maps do
// not add up.
func (s *steady) check() {
	s.w.t.Helper()
	s.mu.Lock()
	changes := slices.Clone(s.changes)
	s.mu.Unlock()
	if len(changes) > 0 {
		s.w.t.Fatalf("renegotiated: %q", changes)
	}
	if refs := s.w.grantRefs(); !slices.Equal(refs, s.grants) {
		s.w.t.Fatalf("%d grants, before there were %d", len(refs), len(s.grants))
	}
	if ports := s.w.ports(); !slices.Equal(ports, s.ports) {
		s.w.t.Fatalf("ports %v, before there were %v", ports, s.ports)
	}
	s.w.sound()
}

// sound checks what the running daemon says of itself, and returns it.
func (w *world) sound() control.Device {
	w.t.Helper()
	_, d := w.status()
	for _, q := range d.Queues {
		for name, m := range map[string]control.MapCounts{"tx": q.Tx.Maps, "rx": q.Rx.Maps} {
			if m.Free+m.Loaded+m.InFlight+m.Quarantined != m.Created || m.Created == 0 {
				w.t.Fatalf("queue %d, %s: the maps do not add up: %+v", q.Number, name, m)
			}
			if m.Quarantined != 0 {
				w.t.Fatalf("queue %d, %s: %d maps in quarantine, and the backend did nothing wrong", q.Number, name, m.Quarantined)
			}
		}
	}
	if len(d.Queues) != w.queues || d.State != "Connected" {
		w.t.Fatalf("%s with %d queues, want Connected with %d", d.State, len(d.Queues), w.queues)
	}
	return d
}

// status asks the running daemon, over the socket that `xnetfrontd status` uses.
func (w *world) status() (program string, vif control.Device) {
	w.t.Helper()
	c, err := net.DialTimeout("unix", w.controlSocket(), patience)
	must(w.t, err)
	defer c.Close()
	must(w.t, c.SetDeadline(time.Now().Add(patience)))
	_, err = c.Write([]byte(`{"version":1,"op":"status"}` + "\n"))
	must(w.t, err)
	line, err := bufio.NewReader(c).ReadBytes('\n')
	must(w.t, err)
	var r struct {
		Error  string
		Status struct {
			Program string
			Vifs    []struct{ Device *control.Device }
		}
	}
	must(w.t, json.Unmarshal(line, &r))
	if r.Error != "" || len(r.Status.Vifs) != 1 || r.Status.Vifs[0].Device == nil {
		w.t.Fatalf("status: %s", line)
	}
	return r.Status.Program, *r.Status.Vifs[0].Device
}

// frames are counts of the frames on each side of the daemon. What the guest's TAP gave
// away and netback did not get is lost; so is what netback gave and the TAP did not get.
type frames struct{ fromTAP, toBackend, fromBackend, toTAP uint64 }

func (w *world) frames() frames {
	w.t.Helper()
	// The receivers first: a frame on its way must not look like one too many.
	var f frames
	back := w.backVif().Stats()
	f.toBackend = back.TxFrames + back.Dropped()
	f.toTAP = w.front.counters(w.t, guestTAP).RxPackets
	f.fromBackend = w.backVif().Stats().RxFrames
	f.fromTAP = w.front.counters(w.t, guestTAP).TxPackets
	return f
}

func (f frames) since(g frames) frames {
	return frames{f.fromTAP - g.fromTAP, f.toBackend - g.toBackend, f.fromBackend - g.fromBackend, f.toTAP - g.toTAP}
}

// lost is how many frames were lost each way; below zero is how many came twice.
func (f frames) lost() (out, in int) {
	return int(f.fromTAP) - int(f.toBackend), int(f.fromBackend) - int(f.toTAP)
}

// settleFrames waits until no frame is on its way, and returns the counts.
func (w *world) settleFrames() frames {
	w.t.Helper()
	last, same := w.frames(), 0
	for end := time.Now().Add(patience); same < 10; time.Sleep(5 * time.Millisecond) {
		f := w.frames()
		if same++; f != last {
			same = 0
		}
		if last = f; time.Now().After(end) {
			w.t.Fatalf("frames go on and on: %+v", f)
		}
	}
	return last
}

// drops are the frames that the links and netback have dropped.
func (w *world) drops() (list []string) {
	w.t.Helper()
	v := w.backVif()
	note := func(name string, n uint64) {
		if n > 0 {
			list = append(list, fmt.Sprintf("%s: %d", name, n))
		}
	}
	front, back := w.front.counters(w.t, guestTAP), w.back.counters(w.t, v.Info().Name)
	note("the guest's TAP, sending", front.TxDropped)
	note("the guest's TAP, receiving", front.RxDropped)
	note("netback's TAP, sending", back.TxDropped)
	note("netback's TAP, receiving", back.RxDropped)
	note("netback", v.Stats().Dropped())
	return list
}
