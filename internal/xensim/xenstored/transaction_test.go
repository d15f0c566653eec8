package xenstored

import (
	"errors"
	"fmt"
	"math/rand"
	"strconv"
	"sync"
	"testing"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

// begin starts a transaction by hand.
func (r *raw) begin() uint32 {
	r.t.Helper()
	_, payload := r.call(xenstore.TypeTransactionStart, 0, "\x00")
	id, err := xenstore.ParseTransaction([]byte(payload))
	if err != nil {
		r.t.Fatal(err)
	}
	return id
}

const ok = xenstore.Acknowledgement

func TestCommitFailsWhenATouchedNodeWasChanged(t *testing.T) {
	for name, c := range map[string]struct {
		typ     xenstore.MessageType // in the transaction
		payload string
		other   func(c xenstore.Operations) error
		want    string
	}{
		"value that was read":       {xenstore.TypeRead, "/d/a\x00", func(c xenstore.Operations) error { return c.Write(t.Context(), "/d/a", "2") }, "EAGAIN\x00"},
		"value that was written":    {xenstore.TypeWrite, "/d/a\x003", func(c xenstore.Operations) error { return c.Write(t.Context(), "/d/a", "2") }, "EAGAIN\x00"},
		"removed after it was read": {xenstore.TypeRead, "/d/a\x00", func(c xenstore.Operations) error { return c.Remove(t.Context(), "/d/a") }, "EAGAIN\x00"},
		"permissions of what was read": {xenstore.TypeRead, "/d/a\x00", func(c xenstore.Operations) error {
			return c.SetPermissions(t.Context(), "/d/a", []xenstore.Permission{{Domain: 3}})
		}, "EAGAIN\x00"},
		"missing, made by another":   {xenstore.TypeRead, "/d/new\x00", func(c xenstore.Operations) error { return c.Mkdir(t.Context(), "/d/new") }, "EAGAIN\x00"},
		"listed, a node was added":   {xenstore.TypeDirectory, "/d\x00", func(c xenstore.Operations) error { return c.Mkdir(t.Context(), "/d/new") }, "EAGAIN\x00"},
		"added beside another's":     {xenstore.TypeMkdir, "/d/mine\x00", func(c xenstore.Operations) error { return c.Mkdir(t.Context(), "/d/new") }, "EAGAIN\x00"},
		"removed with what was made": {xenstore.TypeRemove, "/d/sub\x00", func(c xenstore.Operations) error { return c.Mkdir(t.Context(), "/d/sub/new") }, "EAGAIN\x00"},
		"listed, a value changed":    {xenstore.TypeDirectory, "/d\x00", func(c xenstore.Operations) error { return c.Write(t.Context(), "/d/a", "2") }, ok},
		"another node was read":      {xenstore.TypeRead, "/d/b\x00", func(c xenstore.Operations) error { return c.Write(t.Context(), "/d/a", "2") }, ok},
		"another node was written":   {xenstore.TypeWrite, "/d/b\x003", func(c xenstore.Operations) error { return c.Write(t.Context(), "/d/a", "2") }, ok},
		"a change that failed":       {xenstore.TypeRead, "/d/a\x00", func(c xenstore.Operations) error { c.Remove(t.Context(), "/"); return nil }, ok},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, Options{})
			other := client(t, s, 0)
			write(t, other, "/d/a", "1")
			write(t, other, "/d/b", "1")
			write(t, other, "/d/sub/x", "1")
			r := newRaw(t, s, 0)
			tx := r.begin()
			r.call(c.typ, tx, c.payload)
			if err := c.other(other); err != nil {
				t.Fatal(err)
			}
			r.want(xenstore.TypeTransactionEnd, tx, "T\x00", c.want)
			checkTree(t, s)
		})
	}
}

// A transaction is no snapshot: it can find a node in a parent that was not there when it
// looked. Such a transaction fails in the end, and until then harms nobody.
func TestRemovalFromAParentThatCameMeanwhileIsRefused(t *testing.T) {
	s := newServer(t, Options{})
	r := newRaw(t, s, 0)
	tx := r.begin()
	r.want(xenstore.TypeRead, tx, "/d\x00", "ENOENT\x00")
	write(t, client(t, s, 0), "/d/a", "1")
	r.want(xenstore.TypeRemove, tx, "/d/a\x00", "EINVAL\x00")
	r.want(xenstore.TypeTransactionEnd, tx, "T\x00", "EAGAIN\x00")
	checkTree(t, s)
}

func TestTransactionIsSeenByOthersOnlyWhenCommitted(t *testing.T) {
	s := newServer(t, Options{})
	other := client(t, s, 0)
	write(t, other, "/a", "1")
	r := newRaw(t, s, 0)
	for _, end := range []struct{ payload, after string }{{"F\x00", "1"}, {"T\x00", "2"}} {
		tx := r.begin()
		r.want(xenstore.TypeWrite, tx, "/a\x002", ok)
		r.want(xenstore.TypeWrite, tx, "/x/y\x002", ok)
		r.want(xenstore.TypeRead, tx, "/a\x00", "2")
		r.want(xenstore.TypeDirectory, tx, "/x\x00", "y\x00")
		wantValue(t, other, "/a", "1")
		_, err := other.Read(t.Context(), "/x/y")
		wantError(t, "read before the end", err, xenstore.ErrNotFound)
		r.want(xenstore.TypeTransactionEnd, tx, end.payload, ok)
		wantValue(t, other, "/a", end.after)
	}
	wantValue(t, other, "/x/y", "2")
	checkTree(t, s)
}

func TestRemovedAndMadeAgainInOneTransaction(t *testing.T) {
	s := newServer(t, Options{})
	c := client(t, s, 0)
	write(t, c, "/d/old/x", "1")
	if err := c.Update(t.Context(), func(tx xenstore.Operations) error {
		return errors.Join(tx.Remove(t.Context(), "/d"), tx.Write(t.Context(), "/d/new", "2"))
	}); err != nil {
		t.Fatal(err)
	}
	_, err := c.Read(t.Context(), "/d/old")
	wantError(t, "read what was removed", err, xenstore.ErrNotFound)
	wantValue(t, c, "/d/new", "2")
	checkTree(t, s)
}

func TestConcurrentTransactionsLoseNoUpdate(t *testing.T) {
	s := newServer(t, Options{})
	write(t, client(t, s, 0), "/n", "0")
	const clients, each = 5, 40
	var wg sync.WaitGroup
	for range clients {
		c := client(t, s, 0)
		wg.Go(func() {
			for range each {
				if err := c.Update(t.Context(), func(tx xenstore.Operations) error {
					v, err := tx.Read(t.Context(), "/n")
					if err != nil {
						return err
					}
					n, err := strconv.Atoi(v)
					if err != nil {
						return err
					}
					return tx.Write(t.Context(), "/n", strconv.Itoa(n+1))
				}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	wantValue(t, client(t, s, 0), "/n", strconv.Itoa(clients*each))
}

func TestTreeStaysATreeUnderRandomTransactions(t *testing.T) {
	s := newServer(t, Options{})
	dom0 := client(t, s, 0)
	mkdir(t, dom0, "/t", xenstore.Permission{Domain: 0, Read: true, Write: true})
	var wg sync.WaitGroup
	for dom := range uint16(4) {
		c := guest(t, s, dom0, dom)
		rnd := rand.New(rand.NewSource(int64(dom)))
		path := func() string {
			p := "/t"
			for range 1 + rnd.Intn(3) {
				p += fmt.Sprintf("/%d", rnd.Intn(3))
			}
			return p
		}
		step := func(tx xenstore.Operations) {
			switch p := path(); rnd.Intn(5) {
			case 0:
				tx.Remove(t.Context(), p)
			case 1:
				tx.SetPermissions(t.Context(), p, []xenstore.Permission{{Domain: dom, Read: true, Write: true}})
			case 2:
				tx.Mkdir(t.Context(), p)
			default:
				tx.Write(t.Context(), p, "v")
			}
		}
		wg.Go(func() {
			for range 60 {
				step(c)
				c.Update(t.Context(), func(tx xenstore.Operations) error {
					for range 4 {
						step(tx)
					}
					if rnd.Intn(4) == 0 {
						return errors.New("abort")
					}
					return nil
				})
			}
		})
	}
	wg.Wait()
	checkTree(t, s)
}

func TestCommitsFailOnDemand(t *testing.T) {
	s := newServer(t, Options{})
	c := client(t, s, 0)
	s.FailCommits(3)
	runs := 0
	if err := c.Update(t.Context(), func(tx xenstore.Operations) error {
		runs++
		return tx.Write(t.Context(), "/a", "1")
	}); err != nil || runs != 4 {
		t.Fatalf("%d runs, %v", runs, err)
	}
	wantValue(t, c, "/a", "1")
}

func TestConnectionThatEndsTakesItsTransactionsAlong(t *testing.T) {
	s := newServer(t, Options{})
	r := newRaw(t, s, 0)
	tx := r.begin()
	r.want(xenstore.TypeWrite, tx, "/a\x001", ok)
	r.conn.Close()
	c := client(t, s, 0)
	_, err := c.Read(t.Context(), "/a")
	wantError(t, "read", err, xenstore.ErrNotFound)
	newRaw(t, s, 0).want(xenstore.TypeRead, tx, "/a\x00", "ENOENT\x00")
}
