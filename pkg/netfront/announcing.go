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
	lookGap = time.Second
	// elsewhereGap is how often is looked at what no change tells of: other network
	// namespaces, where the process may not listen to them.
	elsewhereGap = 10 * time.Second
)

// announcer tells the network, after each connection and whenever it changes, where the
// stations behind the TAP are. What the kernel's own drivers have it do for links on a NIC
// (NETDEV_NOTIFY_PEERS), nothing does for a TAP. It belongs to Run's goroutine.
type announcer struct {
	device *Device
	worker *worker          // through which frames go; nil while there is no connection
	left   map[string]int   // rounds that are left, of each frame that is current
	looked time.Time        // when the stations were looked at last
	at     time.Time        // when to look again; zero: not before a change
	due    <-chan time.Time // fires at at
}

// begin announces everything, through the worker of a connection that has just begun.
func (a *announcer) begin(w *worker) error {
	a.worker, a.left = w, map[string]int{}
	return a.look(time.Now())
}

// resume goes on where another process was, which has announced what is there.
func (a *announcer) resume(w *worker, attached bool) error {
	if !attached {
		return nil
	}
	frames, err := a.frames()
	if err != nil {
		return a.later(time.Now(), err)
	}
	a.worker, a.left = w, map[string]int{}
	for _, f := range frames {
		a.left[string(f)] = 0
	}
	a.plan(time.Now(), false)
	return nil
}

// end forgets the connection.
func (a *announcer) end() {
	a.worker, a.left, a.due, a.at = nil, nil, nil, time.Time{}
}

// changed notes that links or addresses of the system have changed.
func (a *announcer) changed(now time.Time) {
	at := now.Add(settle)
	if next := a.looked.Add(lookGap); next.After(at) && a.looked.Add(settle).After(now) {
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

// look looks at the TAP and the stations, and sends what was not sent often enough. It fails if
// the TAP is gone.
func (a *announcer) look(now time.Time) error {
	a.due, a.at, a.looked = nil, time.Time{}, now
	a.device.look()
	if a.worker == nil {
		return nil
	}
	frames, err := a.frames()
	if err != nil {
		return a.later(now, err)
	}
	left := make(map[string]int, len(frames))
	var send [][]byte
	more := false
	for _, f := range frames {
		n, known := a.left[string(f)]
		if !known {
			n = announceRounds
		}
		if n > 0 {
			send = append(send, f)
			n--
		}
		left[string(f)] = n
		more = more || n > 0
	}
	a.left = left
	a.worker.inject(send)
	a.plan(now, more)
	return nil
}

// plan says when to look again without a change.
func (a *announcer) plan(now time.Time, more bool) {
	switch {
	case more:
		a.wake(now, now.Add(roundGap))
	case !a.device.link.HearsOfOthers():
		a.wake(now, now.Add(elsewhereGap))
	}
}

// later tries again what failed, unless the TAP is gone.
func (a *announcer) later(now time.Time, err error) error {
	if errors.Is(err, tap.ErrLinkGone) {
		return err
	}
	a.device.log.Debug("not announced yet", problem(err))
	a.wake(now, now.Add(lookGap))
	return nil
}

func (a *announcer) frames() ([][]byte, error) {
	stations, err := a.device.link.Stations()
	if err != nil {
		return nil, err
	}
	return announcement(stations), nil
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
