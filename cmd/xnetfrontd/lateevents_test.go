package main

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/control"
	"github.com/xnetfrontd/xnetfrontd/pkg/netfront"
)

// look waits until the daemon's status is as wanted. It waits for ten times the three polls
// that the daemon needs.
func (m *testMachine) look(what string, want func(*control.Status) bool) {
	m.t.Helper()
	for end := time.Now().Add(30 * netfront.LookPause()); ; time.Sleep(10 * time.Millisecond) {
		s, err := (&control.Client{Path: m.socket(), Timeout: patience}).Status(m.t.Context())
		if err != nil {
			m.t.Fatal(err)
		}
		if want(s) {
			return
		}
		if time.Now().After(end) {
			m.t.Fatalf("waited in vain for %s: %+v", what, s)
		}
	}
}

func TestVifThatComesWhileEventsAreLateIsServedAndStatusSaysThatTheyAre(t *testing.T) {
	m := newMachine(t, xensim.Options{}, 0)
	m.startBackend()
	d := m.start("--config", m.config("[[vif]]\ndevid = '*'\n"))
	d.await("READY=1")
	m.server.HoldEvents(guest, true)
	m.attach(1, 1)
	m.look("the second vif to be connected", func(s *control.Status) bool {
		return len(s.Vifs) == 2 && s.Vifs[1].Device != nil && s.Vifs[1].Device.State == "Connected"
	})
	m.look("events to be late", func(s *control.Status) bool { return !s.EventsLateSince.IsZero() && s.EventsLate == 1 })
	if o := m.ask("status"); !strings.Contains(o.out, "\nLATE: xenstore's events have not come for ") {
		t.Errorf("status says\n%s", o.out)
	}
	m.server.HoldEvents(guest, false)
	m.look("events to come in time", func(s *control.Status) bool { return s.EventsLateSince.IsZero() })
	d.stop(unix.SIGTERM)
	for _, want := range []string{"xenstore's events do not come: ", "xenstore's events come again"} {
		if n := strings.Count(d.errOut.String(), want); n != 1 {
			t.Errorf("%q was logged %d times", want, n)
		}
	}
}
