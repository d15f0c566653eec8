package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/capturefile"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/framefilter"
	"github.com/xnetfrontd/xnetfrontd/pkg/control"
	"github.com/xnetfrontd/xnetfrontd/pkg/netfront"
)

// captureGrace is how long the daemon's end waits for the last blocks of captures.
const captureGrace = time.Second

// captures are the running captures: each of them holds the lock for reading.
type captures struct{ running sync.RWMutex }

// wait waits until all captures have ended, or until limit. They end with their vifs; one whose
// client does not read can take longer.
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
	what, err := capturefile.Wanted(q)
	if err != nil {
		return err
	}
	filter, err := framefilter.New(framefilter.Words{Host: q.Host, Port: q.Port, Proto: q.Proto, Ether: q.Ether}, q.BPF)
	if err != nil {
		return err
	}
	st := f.Status()
	mac, _ := net.ParseMAC(st.MAC) // the daemon formatted it
	file := capturefile.Config{
		Program: "xnetfrontd " + r.version, Vif: st.DevID, TAP: st.TAP, MAC: mac,
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
