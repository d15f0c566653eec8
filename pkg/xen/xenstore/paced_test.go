package xenstore

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// stormy is a server whose watched path changes whenever it is told to.
type stormy struct {
	*peer
	mu      sync.Mutex // of what follows, and of writes
	token   string     // of the watch that there is; empty: none
	watches int        // so far
	refuses bool       // more of them
}

// serve answers requests until the connection ends, which a client that closes does not
// put off for an answer.
func (s *stormy) serve() {
	for {
		h, payload, err := ReadMessage(s.peer)
		if err == nil {
			err = s.answer(h, payload)
		}
		if err != nil {
			return
		}
	}
}

func (s *stormy) answer(h Header, payload []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var answers []byte
	switch path, token, _ := ParseWatchEvent(payload); {
	case h.Type == TypeUnwatch:
		s.token = ""
		answers = AppendMessage(nil, h, []byte(Acknowledgement))
	case s.refuses:
		h.Type = TypeError
		answers = AppendMessage(nil, h, []byte("ENOSPC\x00"))
	default:
		s.token = token
		s.watches++
		answers = AppendMessage(nil, h, []byte(Acknowledgement))
		answers = AppendMessage(answers, Header{Type: TypeWatchEvent}, AppendWatchEvent(nil, path, token))
	}
	_, err := s.Write(answers)
	return err
}

// change reports a change to whoever watches.
func (s *stormy) change() (seen bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.token == "" {
		return false
	}
	s.event("/a/b", s.token, 0)
	return true
}

// paced runs f with a paced watch of a stormy server, whose events it notes the times of.
func paced(t *testing.T, f func(s *stormy, w *PacedWatch, looks chan time.Time)) {
	script(t, func(t *testing.T, c *Client, p *peer) {
		s := &stormy{peer: p}
		go s.serve()
		w, err := WatchPaced(t.Context(), c, "/a")
		if err != nil {
			t.Fatal(err)
		}
		looks := make(chan time.Time, 10000)
		go func() {
			defer close(looks)
			for range w.Events() {
				looks <- time.Now()
			}
		}()
		synctest.Wait()
		if len(looks) != 1 {
			t.Fatalf("it begins with %d events", len(looks))
		}
		<-looks
		f(s, w, looks)
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestStormOfEventsIsLookedAtSeldomAndNotTaken(t *testing.T) {
	paced(t, func(s *stormy, w *PacedWatch, looks chan time.Time) {
		const storm = 2 * time.Second
		changes, seen := 0, 0
		for began := time.Now(); time.Since(began) < storm; changes++ {
			if s.change() {
				seen++
			}
			time.Sleep(800 * time.Microsecond)
		}
		synctest.Wait()
		most := PaceBurst + int(storm/PaceEvery)
		if n := len(looks); n > most || n < most-2 {
			t.Errorf("%d looks at %d changes in %v, want %d", n, changes, storm, most)
		}
		if seen > 2*most {
			t.Errorf("%d of %d changes were taken, with %d looks", seen, changes, len(looks))
		}
		// What came last is looked at, and then there is nothing to do.
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(looks); n > most+1 {
			t.Errorf("%d looks a minute after the storm, want %d", n, most+1)
		}
		if !s.change() {
			t.Error("after the storm there is no watch")
		}
	})
}

func TestEventAfterACalmTimeIsServedAtOnceAndTheLastChangeAlways(t *testing.T) {
	paced(t, func(s *stormy, w *PacedWatch, looks chan time.Time) {
		late := func(n int) time.Duration {
			t.Helper()
			changed := time.Now()
			s.change()
			time.Sleep(PaceEvery)
			synctest.Wait()
			if len(looks) == 0 {
				t.Fatalf("change %d is not looked at", n)
			}
			last := changed
			for len(looks) > 0 {
				last = <-looks
			}
			return last.Sub(changed)
		}
		for n := range 3 * PaceBurst {
			if d := late(n); d != 0 {
				t.Errorf("change %d is looked at after %v", n, d)
			}
		}
		for range 2 * PaceBurst {
			s.change()
			synctest.Wait()
		}
		if n := len(looks); n < PaceBurst-2 {
			t.Errorf("%d of a burst of %d are looked at as they come", n, PaceBurst)
		}
		if d := late(0); d <= 0 || d > PaceEvery {
			t.Errorf("the last change of a burst is looked at after %v", d)
		}
		time.Sleep((PaceBurst + 1) * PaceEvery)
		for len(looks) > 0 {
			<-looks
		}
		if d := late(1); d != 0 {
			t.Errorf("after a calm time a change is looked at after %v", d)
		}
	})
}

func TestChangesDuringALookAreLookedAtTogether(t *testing.T) {
	script(t, func(t *testing.T, c *Client, p *peer) {
		s := &stormy{peer: p}
		go s.serve()
		w, err := WatchPaced(t.Context(), c, "/a")
		if err != nil {
			t.Fatal(err)
		}
		<-w.Events()
		for _, path := range []string{"/a/b", "/a/c", "/a/d", "/a/b", "/a/c"} {
			s.mu.Lock()
			s.event(path, s.token, 0)
			s.mu.Unlock()
			synctest.Wait()
		}
		<-w.Events()
		synctest.Wait()
		select {
		case path := <-w.Events():
			t.Errorf("there is one more event, %q", path)
		default:
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestPacedWatchThatCannotBeSetUpAgainSaysWhy(t *testing.T) {
	paced(t, func(s *stormy, w *PacedWatch, looks chan time.Time) {
		s.mu.Lock()
		s.refuses = true
		s.mu.Unlock()
		for range 2 * PaceBurst {
			s.change()
			synctest.Wait()
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		for range looks { // it is closed
		}
		if err := w.Err(); !errors.Is(err, ErrNoSpace) {
			t.Errorf("it ended with %v", err)
		}
	})
}

func TestPacedWatchEndsWithItsConnection(t *testing.T) {
	paced(t, func(s *stormy, w *PacedWatch, looks chan time.Time) {
		s.Close()
		for range looks {
		}
		if err := w.Err(); !errors.Is(err, ErrClosed) {
			t.Errorf("it ended with %v", err)
		}
	})
}

func TestPacedWatchIsClosedAtAnyMoment(t *testing.T) {
	for events := range 2 * PaceBurst {
		script(t, func(t *testing.T, c *Client, p *peer) {
			s := &stormy{peer: p}
			go s.serve()
			w, err := WatchPaced(t.Context(), c, "/a")
			if err != nil {
				t.Fatal(err)
			}
			for n := range events { // of which the last is in hand
				if n > 0 {
					<-w.Events()
				}
				s.change()
				synctest.Wait()
			}
			if err := w.Close(); err != nil || w.Err() != nil {
				t.Errorf("after %d events: %v, %v", events, err, w.Err())
			}
			if _, open := <-w.Events(); open {
				t.Errorf("after %d events: there is one after the end", events)
			}
			synctest.Wait()
			if s.token != "" {
				t.Errorf("after %d events: the server still has the watch", events)
			}
		})
	}
}
