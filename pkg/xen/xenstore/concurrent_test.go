package xenstore_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

func TestConcurrentUpdatesLoseNothing(t *testing.T) {
	const clients, workers, rounds = 2, 3, 10
	server, ctx := newServer(), t.Context()
	var wg sync.WaitGroup
	for range clients {
		c := xenstore.New(server.connect())
		defer c.Close()
		for range workers {
			wg.Go(func() {
				for range rounds {
					err := c.Update(ctx, func(tx xenstore.Operations) error {
						value, err := tx.Read(ctx, "/counter")
						if err != nil && !errors.Is(err, xenstore.ErrNotFound) {
							return err
						}
						return tx.Write(ctx, "/counter", strconv.Itoa(atoi(value)+1))
					})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	wg.Wait()
	c := xenstore.New(server.connect())
	defer c.Close()
	if value, err := c.Read(ctx, "/counter"); value != strconv.Itoa(clients*workers*rounds) || err != nil {
		t.Errorf("counter %q, %v", value, err)
	}
}

func TestCallersThatComeAndGoDoNotDisturbEachOther(t *testing.T) {
	server := newServer()
	c := xenstore.New(server.connect())
	defer c.Close()
	var wg sync.WaitGroup
	for i := range 4 {
		path := fmt.Sprint("/node/", i)
		wg.Go(func() {
			for n := range 100 {
				value := strconv.Itoa(n)
				if err := c.Write(t.Context(), path, value); err != nil {
					t.Error(err)
				}
				if got, err := c.Read(t.Context(), path); got != value || err != nil {
					t.Errorf("%s: got %q, %v; want %q", path, got, err, value)
				}
			}
		})
		wg.Go(func() {
			for range 100 { // whose context may end at any moment
				ctx, cancel := context.WithCancel(t.Context())
				go cancel()
				if _, err := c.Read(ctx, "/node/x"); !errors.Is(err, context.Canceled) && !errors.Is(err, xenstore.ErrNotFound) {
					t.Error(err)
				}
				_ = c.Update(ctx, func(tx xenstore.Operations) error { return tx.Write(ctx, "/other", "") })
				if w, err := c.Watch(ctx, "/node"); err == nil {
					<-w.Events()
					_ = w.Close()
				}
			}
		})
	}
	wg.Wait()
	// Whatever they left behind was undone: when the first has its reply all that is
	// late has come and what undoes it is queued; when the second has, it is done.
	for range 2 {
		if err := c.Write(t.Context(), "/last", ""); err != nil {
			t.Error(err)
		}
	}
	server.mu.Lock()
	defer server.mu.Unlock()
	for conn := range server.conns {
		if len(conn.watches)+len(conn.transactions) != 0 {
			t.Errorf("left: %d watches, %d transactions", len(conn.watches), len(conn.transactions))
		}
	}
}

func TestTransactionWhoseCallerIsGoneBeforeItsEndIsEnded(t *testing.T) {
	server := newServer()
	c := xenstore.New(server.connect())
	defer c.Close()
	ctx, cancel := context.WithCancel(t.Context())
	err := c.Update(ctx, func(tx xenstore.Operations) error {
		defer cancel()
		return tx.Write(ctx, "/node", "")
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("update: %v", err)
	}
	if _, err := c.Read(t.Context(), "/node"); !errors.Is(err, xenstore.ErrNotFound) {
		t.Errorf("what was not committed is there: %v", err)
	}
	server.mu.Lock()
	defer server.mu.Unlock()
	for conn := range server.conns {
		if len(conn.transactions) != 0 {
			t.Errorf("left: %d transactions", len(conn.transactions))
		}
	}
}
