package hold

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/await"
)

func keep(t *testing.T, path string, command []string, report func(error)) *Keeper {
	t.Helper()
	k := StartKeeper(KeeperOptions{Socket: path, Command: command, Report: report, Log: zap.NewNop()})
	t.Cleanup(func() { k.Close() })
	return k
}

func wantSynced(t *testing.T, k *Keeper) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	must(t, k.Sync(ctx))
}

func TestKilledHolderIsReplacedAndGetsEverythingBack(t *testing.T) {
	path := useProgram(t)
	told := make(chan error, 100)
	k := keep(t, path, StartCommand(path), func(err error) { told <- err })
	wantSynced(t, k)
	must(t, <-told)
	poison, live, text := newCanary(t), newCanary(t), memfd(t, "state")
	must(t, k.Put(t.Context(), poison.bundle("vif/0/connection")))
	id, err := k.Park(t.Context(), "vif/0/connection")
	must(t, err)
	b := live.bundle("vif/0/connection")
	b.Label = "second"
	must(t, k.Put(t.Context(), b))
	must(t, k.Put(t.Context(), Bundle{Key: "vif/0/state", Files: []File{{"state", text}}}))
	must(t, k.Put(t.Context(), Bundle{Key: "gone"}))
	must(t, k.Drop(t.Context(), "gone"))
	for range 3 {
		pid := holderPid(t, path)
		killHolder(t, path)
		wantError(t, <-told, ErrUnavailable, "")
		must(t, <-told)
		if now := holderPid(t, path); now == pid || now == 0 {
			t.Errorf("holder %d was killed, and now it is %d", pid, now)
		}
		c, err := Dial(t.Context(), path)
		must(t, err)
		list, err := c.List(t.Context())
		must(t, err)
		if len(list) != 3 {
			t.Errorf("it has %+v", list)
		}
		got, err := c.GetParked(t.Context(), id)
		must(t, err)
		wantSame(t, got.Files[0].FD, poison.fd)
		must(t, got.Close())
		got, err = c.Get(t.Context(), "vif/0/connection")
		must(t, err)
		wantSame(t, got.Files[0].FD, live.fd)
		if got.Label != "second" {
			t.Errorf("its label is %q", got.Label)
		}
		must(t, got.Close())
		got, err = c.Get(t.Context(), "vif/0/state")
		must(t, err)
		wantSame(t, got.Files[0].FD, text)
		must(t, errors.Join(got.Close(), c.Close()))
	}
	must(t, k.Drop(t.Context(), "vif/0/connection"))
	live.wantClosed()
	poison.letGo()
	poison.wantOpen()
}

func TestCallsWithoutAHolderAreMadeUpFor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	k := keep(t, path, nil, nil)
	poison, live, gone := newCanary(t), newCanary(t), newCanary(t)
	wantError(t, k.Put(t.Context(), poison.bundle("k")), ErrUnavailable, "put k")
	id, err := k.Park(t.Context(), "k")
	wantError(t, err, ErrUnavailable, "park k")
	wantError(t, k.Put(t.Context(), live.bundle("k")), ErrUnavailable, "")
	wantError(t, k.Put(t.Context(), gone.bundle("gone")), ErrUnavailable, "")
	wantError(t, k.Drop(t.Context(), "gone"), ErrUnavailable, "")
	gone.wantClosed()
	// What nobody knows cannot be said before a holder was asked.
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = k.Get(ctx, "other")
	wantError(t, err, ErrUnavailable, "no such file")

	startProcess(t, path)
	wantSynced(t, k)
	c := dial(t, path)
	got, err := c.Get(t.Context(), "k")
	must(t, err)
	wantSame(t, got.Files[0].FD, live.fd)
	must(t, got.Close())
	got, err = c.GetParked(t.Context(), id)
	must(t, err)
	wantSame(t, got.Files[0].FD, poison.fd)
	must(t, got.Close())
	_, err = k.Get(t.Context(), "gone")
	wantError(t, err, ErrNotFound, "get gone")
}

func TestNextDaemonHasWhatTheLastOnePut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	p := startProcess(t, path)
	last := dial(t, path)
	poison, live, replaced := newCanary(t), newCanary(t), newCanary(t)
	must(t, last.Put(t.Context(), poison.bundle("k")))
	id, err := last.Park(t.Context(), "k")
	must(t, err)
	must(t, last.Put(t.Context(), live.bundle("k")))
	must(t, last.Put(t.Context(), replaced.bundle("r")))
	must(t, last.Put(t.Context(), replaced.bundle("d")))
	must(t, last.Close())

	k := keep(t, path, nil, nil)
	next := newCanary(t)
	must(t, errors.Join(ignoreUnavailable(k.Put(t.Context(), next.bundle("r"))), ignoreUnavailable(k.Drop(t.Context(), "d"))))
	wantSynced(t, k)
	replaced.wantClosed()
	got, err := k.Get(t.Context(), "k")
	must(t, err)
	wantSame(t, got.Files[0].FD, live.fd)
	must(t, got.Close())
	list, err := k.List(t.Context())
	must(t, err)
	if len(list) != 3 {
		t.Errorf("it has %+v", list)
	}

	// And it can hand it to the next holder, the last daemon's parked bundle included.
	p.kill()
	startProcess(t, path)
	wantHolds := dial(t, path)
	await.That(t, "the next holder has it", func() bool {
		got, err := wantHolds.GetParked(t.Context(), id)
		if err != nil {
			return false
		}
		wantSame(t, got.Files[0].FD, poison.fd)
		return got.Close() == nil
	})
	wantSynced(t, k)
	// Without needing one itself.
	b, err := k.GetParked(t.Context(), id)
	must(t, err)
	must(t, b.Close())
}

func ignoreUnavailable(err error) error {
	if errors.Is(err, ErrUnavailable) {
		return nil
	}
	return err
}

func TestHolderThatHangsHoldsNobodyUp(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	p := startProcess(t, path)
	k := keep(t, path, StartCommand(path), nil)
	wantSynced(t, k)
	p.signal(unix.SIGSTOP)
	held := newCanary(t)
	before := time.Now()
	var group sync.WaitGroup
	for i := range 4 {
		group.Go(func() {
			wantError(t, k.Put(t.Context(), held.bundle(fmt.Sprint(i))), ErrUnavailable, "")
		})
	}
	group.Wait()
	if took := time.Since(before); took > 10*CallTimeout {
		t.Errorf("it took %s, normally %s", took, CallTimeout)
	}
	p.signal(unix.SIGCONT)
	wantSynced(t, k)
	l, err := dial(t, path).List(t.Context())
	if err != nil || len(l) != 4 {
		t.Errorf("it has %+v, %v", l, err)
	}
}

func TestWhatTheHolderRefusesIsSaid(t *testing.T) {
	path, s := serve(t, ServerOptions{FileLimit: reservedFiles + 2})
	k := keep(t, path, nil, nil)
	wantSynced(t, k)
	fd := memfd(t, "")
	two := []File{{"a", fd}, {"b", fd}}
	must(t, k.Put(t.Context(), Bundle{Key: "k", Label: "old", Files: two[:1]}))
	wantError(t, k.Put(t.Context(), Bundle{Key: "k", Label: "new", Files: two}), ErrRefused, "put k")
	wantError(t, k.Sync(t.Context()), ErrRefused, "limit of 2")
	if b, h := s.store.find("k", ""); b.Label != "old" {
		t.Errorf("the holder has %q", b.Label)
	} else {
		s.store.release(h)
	}
	// Parked is what was to be there, not what the holder moved.
	id, err := k.Park(t.Context(), "k")
	wantError(t, err, ErrRefused, "park k")
	wantError(t, k.Sync(t.Context()), ErrRefused, "limit of 2")
	b, err := k.GetParked(t.Context(), id)
	must(t, err)
	if b.Label != "new" || len(b.Files) != 2 {
		t.Errorf("parked is %+v", b)
	}
	must(t, b.Close())
	if err := k.Put(t.Context(), Bundle{Key: "x", Parked: "P"}); err == nil {
		t.Error("a bundle was put that is said to be parked")
	}
}

func TestClosedKeeperLeavesEverythingToTheHolder(t *testing.T) {
	path, _ := serve(t, ServerOptions{})
	before := files(t, os.Getpid())
	k := keep(t, path, nil, nil)
	wantSynced(t, k)
	fd := memfd(t, "")
	for i := range 100 {
		must(t, k.Put(t.Context(), Bundle{Key: fmt.Sprint(i % 10), Files: []File{{"a", fd}, {"b", fd}}}))
	}
	for i := range 5 {
		_, err := k.Park(t.Context(), fmt.Sprint(i))
		must(t, err)
	}
	must(t, k.Close())
	l, err := dial(t, path).List(t.Context())
	if err != nil || len(l) != 10 {
		t.Errorf("the holder has %+v, %v", l, err)
	}
	// Here the holder's are in the same process: its 20, the memfd, and the two ends of
	// the connection just made.
	await.That(t, "the keeper's own are closed", func() bool { return files(t, os.Getpid()) == before+20+1+2 })
	wantError(t, k.Drop(t.Context(), "5"), ErrUnavailable, "")
}

func TestParkedStaysOpenInAKeeperWhoseHolderHasItNot(t *testing.T) {
	k := keep(t, filepath.Join(t.TempDir(), "none"), nil, nil)
	poison, live := newCanary(t), newCanary(t)
	wantError(t, k.Put(t.Context(), poison.bundle("k")), ErrUnavailable, "")
	_, err := k.Park(t.Context(), "k")
	wantError(t, err, ErrUnavailable, "")
	wantError(t, k.Put(t.Context(), live.bundle("k")), ErrUnavailable, "")
	must(t, k.Close())
	live.wantClosed()
	poison.letGo()
	poison.wantOpen()
}

// A holder that dies at random moments, under calls of every kind: what it has in the
// end is what was asked for, and nothing that was parked was ever let go.
func TestHolderHasWhatWasAskedForWheneverItDies(t *testing.T) {
	path := useProgram(t)
	k := keep(t, path, StartCommand(path), nil)
	wantSynced(t, k)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	keys := []string{"a", "b", "c"}
	live := map[string]string{}      // labels by key
	parked := map[string]string{}    // labels by identifier
	canaries := map[string]*canary{} // by label
	for i := range 300 {
		if i%30 == 29 {
			pause := time.Duration(random.IntN(3)) * time.Millisecond
			go func() {
				time.Sleep(pause) // into one of the next calls
				if pid := holderPid(t, path); pid > 1 {
					unix.Kill(pid, unix.SIGKILL)
				}
			}()
		}
		if i%30 == 15 && random.IntN(2) == 0 {
			wantSynced(t, k)
		}
		key := keys[random.IntN(len(keys))]
		switch random.IntN(4) {
		case 0, 1:
			c := newCanary(t)
			b := c.bundle(key)
			b.Label = strconv.Itoa(i)
			must(t, ignoreUnavailable(k.Put(t.Context(), b)))
			live[key] = b.Label
			canaries[b.Label] = c
			c.letGo()
		case 2:
			must(t, ignoreUnavailable(k.Drop(t.Context(), key)))
			delete(live, key)
		case 3:
			id, err := k.Park(t.Context(), key)
			if _, there := live[key]; !there {
				wantError(t, err, ErrNotFound, "")
				break
			}
			must(t, ignoreUnavailable(err))
			parked[id] = live[key]
			delete(live, key)
		}
	}
	wantSynced(t, k)
	list, err := k.List(t.Context())
	must(t, err)
	var theirs []Entry
	await.That(t, "no holder is about to die", func() bool {
		must(t, k.Sync(t.Context()))
		c, err := Dial(t.Context(), path)
		if err != nil {
			return false
		}
		defer c.Close()
		theirs, err = c.List(t.Context())
		return err == nil && len(theirs) == len(list)
	})
	if !slices.EqualFunc(list, theirs, func(a, b Entry) bool { return a.Key == b.Key && a.Label == b.Label && a.Parked == b.Parked }) {
		t.Errorf("the holder has\n%+v, want\n%+v", theirs, list)
	}
	if len(list) != len(live)+len(parked) {
		t.Errorf("%d bundles, want %d and %d parked", len(list), len(live), len(parked))
	}
	for _, e := range list {
		if e.Parked == "" && live[e.Key] != e.Label || e.Parked != "" && parked[e.Parked] != e.Label {
			t.Errorf("%+v, want label %q or %q", e, live[e.Key], parked[e.Parked])
		}
		delete(parked, e.Parked)
		canaries[e.Label].wantOpen()
		delete(canaries, e.Label)
	}
	for _, c := range canaries { // replaced or dropped
		c.wantClosed()
	}
	if len(parked) > 0 {
		t.Errorf("these are parked no more: %v", parked)
	}
}
