package xensim

import (
	"testing"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

// channelPair is an event channel of two domains in this process.
func channelPair(b *testing.B) (front, back *EventFile, f, p xen.Port) {
	b.Helper()
	s, err := New(Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	open := func(dom xen.DomID) *EventFile {
		c, err := s.Connect(dom)
		if err != nil {
			b.Fatal(err)
		}
		e, err := c.OpenEvents()
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { e.Close(); c.Close() })
		return e
	}
	front, back = open(1), open(0)
	if f, err = front.Bind(0); err != nil {
		b.Fatal(err)
	}
	if p, err = back.BindInterdomain(1, f); err != nil {
		b.Fatal(err)
	}
	if err := front.Notify(f); err != nil {
		b.Fatal(err)
	}
	return front, back, f, p
}

// BenchmarkEvent is one event from Notify to Unmask: a write and a read of an eventfd.
func BenchmarkEvent(b *testing.B) {
	front, back, f, p := channelPair(b)
	var ports [4]xen.Port
	b.ReportAllocs()
	for b.Loop() {
		back.Notify(p)
		if n, err := front.Read(ports[:]); n != 1 || err != nil {
			b.Fatal(n, err)
		}
		front.Unmask(f)
	}
}

// BenchmarkNotifyMasked is the Notify that finds the other end at work.
func BenchmarkNotifyMasked(b *testing.B) {
	front, back, _, p := channelPair(b)
	back.Notify(p)
	var ports [4]xen.Port
	front.Read(ports[:])
	b.ReportAllocs()
	for b.Loop() {
		back.Notify(p)
	}
}

// BenchmarkReadNothing is a poll of an EventFile that has nothing.
func BenchmarkReadNothing(b *testing.B) {
	front, _, _, _ := channelPair(b)
	var ports [4]xen.Port
	b.ReportAllocs()
	for b.Loop() {
		if n, err := front.Read(ports[:]); n != 0 || err != nil {
			b.Fatal(n, err)
		}
	}
}

// BenchmarkLive is what a backend pays for each grant copy.
func BenchmarkLive(b *testing.B) {
	s, err := New(Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	c, err := s.Connect(0)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	p, err := c.Grants().Alloc(0, 1, true)
	if err != nil {
		b.Fatal(err)
	}
	m, err := c.MapForCopy(0, p.Refs()[0], true)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if !m.Live() {
			b.Fatal("not live")
		}
	}
}
