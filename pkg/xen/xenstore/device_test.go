package xenstore

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/xnetfrontd/xnetfrontd/internal/needs"
)

// openGuest opens the device of the Xen guest that the test runs in, and a directory
// there that the guest may write and the test removes.
func openGuest(t *testing.T) (*Client, string) {
	c, err := Open()
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		needs.LeaveOut(t, "a Xen guest, and root")
	}
	if err != nil {
		t.Fatal(err)
	}
	const dir = "data/xenstore-test"
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context()) // which has ended by now
		if err := c.Remove(ctx, dir); err != nil && !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c, dir
}

func TestGuestReadsWhatItWrote(t *testing.T) {
	c, dir := openGuest(t)
	ctx := t.Context()
	const value = "any\x00bytes\xff"
	if err := c.Write(ctx, dir+"/a", value); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Read(ctx, dir+"/a"); got != value || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if err := c.Mkdir(ctx, dir+"/b"); err != nil {
		t.Error(err)
	}
	names, err := c.Directory(ctx, dir)
	slices.Sort(names)
	if !slices.Equal(names, []string{"a", "b"}) || err != nil {
		t.Errorf("directory %q, %v", names, err)
	}
	perms, err := c.Permissions(ctx, dir+"/a")
	if len(perms) == 0 || err != nil {
		t.Fatalf("permissions %v, %v", perms, err)
	}
	perms = []Permission{perms[0], {Domain: 0, Read: true}}
	if err := c.SetPermissions(ctx, dir+"/a", perms); err != nil {
		t.Error(err)
	}
	if got, err := c.Permissions(ctx, dir+"/a"); !slices.Equal(got, perms) || err != nil {
		t.Errorf("permissions %v, %v; want %v", got, err, perms)
	}
	if err := c.Remove(ctx, dir+"/a"); err != nil {
		t.Error(err)
	}
	if _, err := c.Read(ctx, dir+"/a"); !errors.Is(err, ErrNotFound) {
		t.Errorf("removed node: %v", err)
	}
	if err := c.Write(ctx, "/local/domain/0/name", "x"); !errors.Is(err, ErrPermission) {
		t.Errorf("node of domain 0: %v", err)
	}
}

func TestGuestGetsAnAnswerToTheLargestMessageOfTheDevice(t *testing.T) {
	c, dir := openGuest(t)
	path := dir + "/a"
	value := strings.Repeat("v", MaxPayload-HeaderSize-len(path)-1)
	// It is over the quota of most servers; that the server has it is what counts.
	err := c.Write(t.Context(), path, value)
	if err != nil && !errors.Is(err, ErrNoSpace) && !errors.Is(err, ErrQuota) && !errors.Is(err, ErrTooBig) {
		t.Error(err)
	}
	t.Logf("%d bytes: %v", len(value), err)
	if err := c.Write(t.Context(), path, value[:1024]); err != nil {
		t.Error(err)
	}
}

func TestGuestCallersDoNotMixUpEachOthersMessages(t *testing.T) {
	c, dir := openGuest(t)
	var wg sync.WaitGroup
	for i := range 8 {
		// Paths and values of different lengths, so that every mixture shows.
		path := dir + "/" + strings.Repeat(string('a'+rune(i)), 1+3*i)
		wg.Go(func() {
			for n := range 10 {
				value := strings.Repeat(strconv.Itoa(n), 1+i)
				if err := c.Write(t.Context(), path, value); err != nil {
					t.Error(err)
				}
				if got, err := c.Read(t.Context(), path); got != value || err != nil {
					t.Errorf("got %q, %v; want %q", got, err, value)
				}
			}
		})
	}
	wg.Wait()
	if names, err := c.Directory(t.Context(), dir); len(names) != 8 || err != nil {
		t.Errorf("directory %q, %v", names, err)
	}
}

func TestGuestUpdatesLoseNothing(t *testing.T) {
	c, dir := openGuest(t)
	other, _ := openGuest(t)
	const workers, rounds = 3, 10
	var wg sync.WaitGroup
	for i := range workers {
		client := []*Client{c, other}[i%2]
		wg.Go(func() {
			for range rounds {
				err := client.Update(t.Context(), func(tx Operations) error {
					value, err := tx.Read(t.Context(), dir+"/counter")
					if err != nil && !errors.Is(err, ErrNotFound) {
						return err
					}
					n, _ := strconv.Atoi(value)
					return tx.Write(t.Context(), dir+"/counter", strconv.Itoa(n+1))
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got, err := c.Read(t.Context(), dir+"/counter"); got != strconv.Itoa(workers*rounds) || err != nil {
		t.Errorf("counter %q, %v", got, err)
	}
}

func TestGuestSeesChangesUntilItClosesTheWatch(t *testing.T) {
	c, dir := openGuest(t)
	w, err := c.Watch(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, dir + "/a", dir + "/b/c"} {
		if path != dir {
			if err := c.Write(t.Context(), path, "1"); err != nil {
				t.Fatal(err)
			}
		}
		if got := inTime(t, "event of "+path, w.Events()); got != path {
			t.Errorf("event %q, want %q", got, path)
		}
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if err := c.Write(t.Context(), dir+"/a", "2"); err != nil {
		t.Error(err)
	}
	if got := c.Stats(); got != (Stats{}) {
		t.Errorf("stats %+v", got)
	}
}

func TestGuestWithTooManyWatchesIsToldSoAndGoesOn(t *testing.T) {
	c, dir := openGuest(t)
	var watches []*Watch
	var refused error
	for refused == nil && len(watches) < 2000 {
		var w *Watch
		if w, refused = c.Watch(t.Context(), dir+"/"+strconv.Itoa(len(watches))); refused == nil {
			watches = append(watches, w)
		}
	}
	t.Logf("%d watches: %v", len(watches), refused)
	if errors.Is(refused, ErrClosed) {
		t.Error("the refusal ended the connection")
	}
	for _, w := range watches {
		_ = w.Close()
	}
	w, err := c.Watch(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := inTime(t, "event", w.Events()); got != dir {
		t.Errorf("event %q", got)
	}
}

func TestGuestClosesWhileItReads(t *testing.T) {
	c, dir := openGuest(t)
	w, err := c.Watch(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := inTime(t, "close", startErr(c.Close)); err != nil {
		t.Error(err)
	}
	for range w.Events() {
	}
	if !errors.Is(w.Err(), ErrClosed) {
		t.Errorf("watch: %v", w.Err())
	}
}
