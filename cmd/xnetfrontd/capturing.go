package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/capturefile"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/framefilter"
	"github.com/xnetfrontd/xnetfrontd/pkg/control"
	"github.com/xnetfrontd/xnetfrontd/pkg/netfront"
)

// captureFarewell is how long the daemon's end waits for the last blocks of captures.
const captureFarewell = time.Second

// captures are those that go on: each holds the lock for reading.
type captures struct{ running sync.RWMutex }

// wait waits until all have ended, which they do with their vifs; not long for those whose
// client does not read.
func (c *captures) wait(limit time.Duration) {
	ended := make(chan struct{})
	go func() {
		c.running.Lock()
		close(ended)
		c.running.Unlock()
	}()
	select {
	case <-ended:
	case <-time.After(limit):
	}
}

// Capture writes what crosses the rings of a vif, until ctx ends or the vif is closed.
func (r reporter) Capture(ctx context.Context, q control.CaptureRequest, w io.Writer) error {
	f, err := r.find(q.Vif)
	if err != nil {
		return err
	}
	what, err := captureConfig(q)
	if err != nil {
		return err
	}
	filter, err := framefilter.New(framefilter.Words{Host: q.Host, Port: q.Port, Proto: q.Proto, Ether: q.Ether}, q.BPF)
	if err != nil {
		return err
	}
	st := f.Status()
	mac, _ := net.ParseMAC(st.MAC) // ours
	file := capturefile.Config{
		Program: "xnetfrontd " + version, Vif: st.DevID, TAP: st.TAP, MAC: mac,
		Queues: max(1, len(st.Queues)), Count: q.Count, What: what,
	}
	if filter != nil {
		file.Filter = filter.String()
		what.Match, what.MatchLen = filter.Match, filter.Need()
	}
	for _, n := range q.Queues {
		if len(st.Queues) > 0 && n >= len(st.Queues) {
			return fmt.Errorf("vif %d has no queue %d: it has 0 to %d", st.DevID, n, len(st.Queues)-1)
		}
		file.Queues = max(file.Queues, n+1)
	}
	if q.Seconds > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(q.Seconds*float64(time.Second)))
		defer cancel()
	}
	r.captures.running.RLock()
	defer r.captures.running.RUnlock()
	sink := capturefile.New(w, file)
	result, err := f.Capture(ctx, what, sink)
	switch {
	case errors.Is(err, netfront.ErrCapturing):
		return fmt.Errorf("vif %d: %w: end that capture first", st.DevID, err)
	case err != nil && !errors.Is(err, capturefile.ErrCount):
		return err
	}
	return sink.End(result)
}

// maxCaptureSeconds is how long a request may say that a capture is to take.
const maxCaptureSeconds = 366 * 24 * 3600

// captureConfig is what a request wants of the Device.
func captureConfig(q control.CaptureRequest) (c netfront.CaptureConfig, err error) {
	c = netfront.CaptureConfig{Queues: slices.Clone(q.Queues), SnapLen: q.SnapLen, Buffer: q.Buffer}
	switch q.Direction {
	case "":
	case "tx":
		c.Directions = []netfront.Direction{netfront.Tx}
	case "rx":
		c.Directions = []netfront.Direction{netfront.Rx}
	default:
		return c, fmt.Errorf("direction %q: expected tx or rx", q.Direction)
	}
	if !(q.Seconds >= 0 && q.Seconds <= maxCaptureSeconds) {
		return c, fmt.Errorf("seconds %v: expected up to %d", q.Seconds, maxCaptureSeconds)
	}
	return c, c.Validate()
}
