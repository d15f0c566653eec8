// Package capturefile makes a pcapng stream of a capture of a netfront.Device. The stream has
// an interface for each queue and direction. The comment of a frame describes its slots on the
// ring.
package capturefile

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"time"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/pcapng"
	"github.com/xnetfrontd/xnetfrontd/pkg/netfront"
)

// ErrCount ends a capture that has the number of frames that was asked for.
var ErrCount = errors.New("all frames are there")

// Config describes the stream.
type Config struct {
	Program string // with its version
	Vif     int
	TAP     string
	MAC     net.HardwareAddr
	Queues  int                    // whose interfaces the stream describes at its beginning
	Filter  string                 // in words
	Count   uint64                 // frames after which the sink fails with ErrCount; 0: none
	What    netfront.CaptureConfig // what is captured
}

// Sink is a netfront.CaptureSink that writes a stream.
type Sink struct {
	config     Config
	start      time.Time
	out        *bufio.Writer
	writer     *pcapng.Writer
	interfaces map[ringID]*ringInterface
	frames     uint64
}

// ringID names a ring over all connections.
type ringID struct {
	queue int
	dir   netfront.Direction
}

// ringInterface is a ring's interface in the stream.
type ringInterface struct {
	number int
	news   string // for the comment of its next frame
}

// bufferSize is the size of one write, in bytes.
const bufferSize = 64 << 10

// New makes a sink that writes to w. It writes the stream's head when the capture has begun.
func New(w io.Writer, config Config) *Sink {
	return &Sink{config: config, start: time.Now(), out: bufio.NewWriterSize(w, bufferSize), interfaces: map[ringID]*ringInterface{}}
}

// begin writes the stream's head, once.
func (s *Sink) begin() (err error) {
	if s.writer != nil {
		return nil
	}
	s.writer, err = pcapng.NewWriter(s.out, pcapng.Section{
		Hardware: runtime.GOARCH, OS: runtime.GOOS, Application: s.config.Program,
		Comment: fmt.Sprintf("the rings of vif %d, TAP %s", s.config.Vif, s.config.TAP),
	})
	if err != nil {
		return err
	}
	return s.describe(s.config.Queues)
}

// describe adds the interfaces of the first n queues that the stream does not have yet.
func (s *Sink) describe(n int) error {
	for q := range n {
		for _, d := range []netfront.Direction{netfront.Tx, netfront.Rx} {
			id := ringID{q, d}
			if s.interfaces[id] != nil || !s.config.What.Wants(q, d) {
				continue
			}
			way := "to the backend"
			if d == netfront.Rx {
				way = "from the backend"
			}
			number, err := s.writer.AddInterface(pcapng.Interface{
				Name:        fmt.Sprintf("%s-%s%d", s.config.TAP, d, q),
				Description: fmt.Sprintf("vif %d, queue %d, %s ring: %s", s.config.Vif, q, d, way),
				MAC:         s.config.MAC,
				Filter:      s.config.Filter,
				SnapLen:     s.config.What.SnapLen,
			})
			if err != nil {
				return err
			}
			s.interfaces[id] = &ringInterface{number: number}
		}
	}
	return nil
}

// Connection implements netfront.CaptureSink.
func (s *Sink) Connection(c netfront.CaptureConnection) error {
	if err := errors.Join(s.begin(), s.describe(c.Queues)); err != nil {
		return err
	}
	if c.Before == "" {
		return nil // it began before the capture
	}
	for _, i := range s.interfaces {
		i.news = fmt.Sprintf("first frame of connection %d, which began at %s with %s; before it: %s",
			c.Number, c.Joined.Format(time.RFC3339Nano), c.Backend, c.Before)
	}
	return nil
}

// Frame implements netfront.CaptureSink.
func (s *Sink) Frame(f *netfront.CapturedFrame) error {
	i := s.interfaces[ringID{f.Queue, f.Direction}]
	if i == nil {
		return fmt.Errorf("a frame of %v queue %d, which no connection had", f.Direction, f.Queue)
	}
	text := comment(f)
	if i.news != "" {
		text += "; " + i.news
		i.news = ""
	}
	err := s.writer.Packet(&pcapng.Packet{
		Interface: i.number, Time: f.Time, Length: max(f.Length, len(f.Data)), Data: f.Data,
		Inbound: f.Direction == netfront.Rx, Queue: f.Queue, Missed: uint64(f.Missed), Comment: text,
	})
	if s.frames++; err == nil && s.frames == s.config.Count {
		err = ErrCount
	}
	return err
}

// Idle implements netfront.CaptureSink. It writes the head, for which the reader waits.
func (s *Sink) Idle() error { return errors.Join(s.begin(), s.out.Flush()) }

// End writes the counts of each ring, and why the capture has ended.
func (s *Sink) End(r netfront.CaptureResult) error {
	if err := s.begin(); err != nil {
		return err
	}
	now := time.Now()
	for _, f := range r.Figures {
		i := s.interfaces[ringID{f.Queue, f.Direction}]
		if i == nil {
			continue
		}
		err := s.writer.Statistics(&pcapng.Statistics{
			Interface: i.number, Time: now, Start: s.start, End: now,
			Received: f.Frames, Dropped: f.Dropped, Accepted: f.Matched, Delivered: f.Matched, Comment: r.Ended,
		})
		if err != nil {
			return err
		}
	}
	if len(r.Figures) == 0 { // it was never connected
		for _, i := range s.interfaces {
			if err := s.writer.Statistics(&pcapng.Statistics{Interface: i.number, Time: now, Start: s.start, End: now, Comment: r.Ended}); err != nil {
				return err
			}
		}
	}
	return s.out.Flush()
}
