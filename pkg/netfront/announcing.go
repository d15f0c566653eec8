package netfront

import (
	"bytes"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
)

const (
	// announceRounds is how often each frame is sent: a switch or a neighbour may miss one
	// while its own link comes up. The kernel's bonding and a hypervisor's self-announcement
	// repeat theirs, too.
	announceRounds = 3
	roundGap       = 500 * time.Millisecond
	// settle is how long is waited after a change, which seldom comes alone, and lookGap
	// how long between looks while changes go on: a look asks the kernel for every link.
	settle  = 20 * time.Millisecond
	lookGap = 250 * time.Millisecond
	// elsewhereGap is how often is looked at what no change tells of: other network
	// namespaces, where the process may not listen to them.
	elsewhereGap = 10 * time.Second
)

// announcer tells the network, after each connection and whenever it changes, where the
// stations behind the TAP are. What the kernel's own drivers have it do for links on a NIC
// (NETDEV_NOTIFY_PEERS), nothing does for a TAP. It belongs to Run's goroutine, which must not
// miss a state of the backend's meanwhile: the stations are looked for in another.
type announcer struct {
	device *Device
	found  chan found       // gets what a look has found
	busy   bool             // a look is under way
	again  bool             // and another is to follow
	worker *worker          // through which frames go; nil while there is no connection
	quiet  bool             // what the next look finds was announced by another process
	left   map[string]int   // rounds that are left, of each frame that is current
	round  time.Time        // when the next of them is
	looked time.Time        // when the stations were looked at last
	at     time.Time        // when to look again; zero: not before a change
	due    <-chan time.Time // fires at at
}

// found is what a look has found.
type found struct {
	stations []tap.Station
	err      error
}

func newAnnouncer(d *Device) announcer { return announcer{device: d, found: make(chan found, 1)} }

// begin announces everything, through the worker of a connection that has just begun.
func (a *announcer) begin(w *worker) {
	a.worker, a.left, a.quiet = w, map[string]int{}, false
	a.look(time.Now())
}

// resume goes on where another process was, which has announced what is there.
func (a *announcer) resume(w *worker) {
	a.worker, a.left, a.quiet = w, map[string]int{}, true
	a.look(time.Now())
}

// end forgets the connection.
func (a *announcer) end() {
	if a.busy {
		<-a.found
	}
	*a = newAnnouncer(a.device)
	a.device.update(func(v *view) { v.announcing, v.stations = 0, nil })
}

// changed notes that links or addresses of the system have changed.
func (a *announcer) changed(now time.Time) {
	at := now.Add(settle)
	if next := a.looked.Add(lookGap); next.After(at) {
		at = next
	}
	a.wake(now, at)
}

// wake sees to it that a look comes at a time, or before.
func (a *announcer) wake(now, at time.Time) {
	if a.due == nil || at.Before(a.at) {
		a.at, a.due = at, time.After(at.Sub(now))
	}
}

// look begins to look for the stations. What it finds, took is to be given.
func (a *announcer) look(now time.Time) {
	a.due, a.at, a.looked = nil, time.Time{}, now
	a.device.look()
	if a.worker == nil || a.busy {
		a.again = a.busy
		return
	}
	a.busy = true
	go func(link *tap.Device, result chan<- found) {
		var f found
		defer func() {
			if err := caught(recover()); err != nil {
				f.err = err
			}
			result <- f
		}()
		f.stations, f.err = link.Stations()
	}(a.device.link, a.found)
}

// maxStations is how many stations a status shows.
const maxStations = 64

func stationTexts(stations []tap.Station) []string {
	texts := make([]string, min(len(stations), maxStations))
	for i := range texts {
		texts[i] = stations[i].String()
	}
	return texts
}

// took sends what was found and was not sent often enough. It fails if the TAP is gone, and
// after a fault of this program.
func (a *announcer) took(now time.Time, f found) error {
	a.busy = false
	var fault *panicError
	switch {
	case errors.Is(f.err, tap.ErrLinkGone), errors.As(f.err, &fault):
		return f.err
	case f.err != nil:
		a.device.log.Debug("not announced yet", problem(f.err))
		a.wake(now, now.Add(lookGap))
		return nil
	}
	left := map[string]int{}
	var send [][]byte
	pending := 0
	repeat := !now.Before(a.round)
	if repeat {
		a.round = now.Add(roundGap)
	}
	for _, frame := range announcement(f.stations) {
		n, known := a.left[string(frame)]
		fresh := !known && !a.quiet
		if fresh {
			n = announceRounds
		}
		if n > 0 && (fresh || repeat) {
			send = append(send, frame)
			n--
		}
		left[string(frame)] = n
		pending += n
	}
	a.left, a.quiet = left, false
	a.worker.inject(send)
	a.device.update(func(v *view) { v.announcing, v.stations = pending, stationTexts(f.stations) })
	switch {
	case a.again:
		a.again = false
		a.wake(now, now)
	case pending > 0:
		a.wake(now, a.round)
	case !a.device.link.HearsOfOthers():
		a.wake(now, now.Add(elsewhereGap))
	}
	return nil
}

// look looks at the TAP and says what somebody has changed of it: its address, its name, its
// network namespace. Run's goroutine alone calls it. A TAP that is gone is for others to find.
func (d *Device) look() {
	st, err := d.link.State()
	if err != nil {
		return
	}
	was := d.seen
	d.seen = st
	if st.Name != was.Name && was.Name != "" {
		d.log.Info("the TAP has another name now", zap.String("name_before", was.Name), event(EventRenamed))
		d.holdLink()
	}
	switch {
	case st.Namespace == was.Namespace:
	case st.Namespace == "":
		d.log.Info("the TAP is back in the network namespace of this process", event(EventMoved))
	default:
		d.log.Info("the TAP is in another network namespace now, and is served there", zap.String("netns", st.Namespace), event(EventMoved))
	}
	if !bytes.Equal(st.MAC, was.MAC) && !bytes.Equal(st.MAC, d.id.mac) {
		d.log.Warn("the TAP has another address than the vif", zap.Stringer("link_mac", st.MAC), zap.Stringer("mac", d.id.mac), event(EventOtherMAC))
	}
}

// announce sends the frames that the worker was given, as many as there is room for. The rest
// follows when the backend has answered some. Ready says that it has already.
func (w *worker) announce() (ready bool, err error) {
	if f := w.frames.Swap(nil); f != nil {
		w.left = append(w.left, *f...)
	}
	if len(w.left) == 0 {
		return false, nil
	}
	n, err := w.tx.inject(w.left)
	if w.left = w.left[n:]; err != nil || len(w.left) == 0 {
		w.left = nil
		return false, err
	}
	r := w.tx.ring
	return r.NotifyAfter(max((r.Size()-r.Free())/2, 1)), nil
}

// inject gives the worker frames to send, each an Ethernet frame without a virtio header. Any
// goroutine may call it.
func (w *worker) inject(frames [][]byte) {
	if len(frames) == 0 {
		return
	}
	for {
		before := w.frames.Load()
		all := frames
		if before != nil { // it did not take those yet
			all = append(append([][]byte{}, *before...), frames...)
		}
		if w.frames.CompareAndSwap(before, &all) {
			break
		}
	}
	w.poll.wake()
}
