package xensim

import (
	"testing"
	"time"
)

func TestRequestsAreAnsweredWhileEventsAreHeldBack(t *testing.T) {
	s := newServer(t, Options{})
	front, _ := attach(t, s, testVif)
	c, err := s.Connect(1)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	old, err := c.Store().Watch(t.Context(), front)
	if err != nil {
		t.Fatal(err)
	}
	<-old.Events()
	s.HoldEvents(1, true)
	if err := c.Store().Write(t.Context(), front+"/state", "4"); err != nil {
		t.Fatal(err)
	}
	w, err := c.Store().Watch(t.Context(), front)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := old.Close(); err != nil { // which Linux makes wait, but not who closes a descriptor
		t.Fatal(err)
	}
	if got, err := c.Store().Read(t.Context(), front+"/state"); got != "4" || err != nil {
		t.Errorf("state %q, %v", got, err)
	}
	select {
	case path := <-w.Events():
		t.Errorf("event %q while events are held back", path)
	default:
	}
	s.HoldEvents(1, false)
	select {
	case path := <-w.Events():
		if path != front {
			t.Errorf("event %q, want %q", path, front)
		}
	case <-time.After(20 * time.Second):
		t.Error("no event after the end of the hold")
	}
}
