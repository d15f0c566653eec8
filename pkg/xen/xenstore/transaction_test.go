package xenstore

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// begin answers the start of a transaction.
func (p *peer) begin(id uint32) {
	p.t.Helper()
	h := p.expect(TypeTransactionStart, "\x00")
	if h.Transaction != 0 {
		p.t.Errorf("start within transaction %d", h.Transaction)
	}
	p.reply(h, string(AppendTransaction(nil, id)))
}

// within takes a request that must be a part of transaction id.
func (p *peer) within(id uint32, typ MessageType, payload string) Header {
	p.t.Helper()
	h := p.expect(typ, payload)
	if h.Transaction != id {
		p.t.Errorf("%v within transaction %d, want %d", typ, h.Transaction, id)
	}
	return h
}

func TestOperationsOfAnUpdateAreInItsTransaction(t *testing.T) {
	script(t, func(t *testing.T, c *Client, p *peer) {
		ctx := t.Context()
		var kept Operations
		ch := startErr(func() error {
			return c.Update(ctx, func(tx Operations) error {
				kept = tx
				if _, err := tx.Directory(ctx, "/a"); err != nil {
					return err
				}
				return tx.Write(ctx, "/a", "1")
			})
		})
		p.begin(42)
		p.reply(p.within(42, TypeDirectory, "/a\x00"), "")
		p.ok(p.within(42, TypeWrite, "/a\x001"))
		p.ok(p.within(42, TypeTransactionEnd, "T\x00"))
		if err := <-ch; err != nil {
			t.Error(err)
		}
		if err := kept.Write(ctx, "/a", "2"); !errors.Is(err, ErrTransactionEnded) {
			t.Errorf("after the end: %v", err)
		}
		if _, err := kept.Directory(ctx, "/a"); !errors.Is(err, ErrTransactionEnded) {
			t.Errorf("after the end: %v", err)
		}
		p.quiet()
	})
}

func TestUpdateTriesAgainAfterConflictsForAsLongAsTheyCome(t *testing.T) {
	script(t, func(t *testing.T, c *Client, p *peer) {
		runs := 0
		began := time.Now()
		ch := startErr(func() error {
			return c.Update(t.Context(), func(tx Operations) error {
				runs++
				return tx.Write(t.Context(), "/a", "1")
			})
		})
		const conflicts = 200
		for id := uint32(1); id <= conflicts; id++ {
			p.begin(id)
			p.ok(p.within(id, TypeWrite, "/a\x001"))
			p.refuse(p.within(id, TypeTransactionEnd, "T\x00"), "EAGAIN")
		}
		p.begin(1000)
		p.ok(p.within(1000, TypeWrite, "/a\x001"))
		p.ok(p.within(1000, TypeTransactionEnd, "T\x00"))
		if err := <-ch; err != nil || runs != conflicts+1 {
			t.Errorf("%d runs, %v", runs, err)
		}
		if took := time.Since(began); took < conflicts*maxBackoff/4 || took > conflicts*maxBackoff {
			t.Errorf("took %v", took)
		}
	})
}

func TestUpdateTriesAgainAfterAConflictSeenEarly(t *testing.T) {
	script(t, func(t *testing.T, c *Client, p *peer) {
		ch := startErr(func() error {
			return c.Update(t.Context(), func(tx Operations) error {
				// How f words its error does not matter.
				if _, err := tx.Read(t.Context(), "/a"); err != nil {
					return errors.New("no backend")
				}
				return nil
			})
		})
		p.refuse(p.expect(TypeTransactionStart, "\x00"), "EAGAIN")
		p.begin(1)
		p.refuse(p.within(1, TypeRead, "/a\x00"), "EAGAIN")
		p.ok(p.within(1, TypeTransactionEnd, "F\x00"))
		p.begin(2)
		p.reply(p.within(2, TypeRead, "/a\x00"), "1")
		p.ok(p.within(2, TypeTransactionEnd, "T\x00"))
		if err := <-ch; err != nil {
			t.Error(err)
		}
	})
}

func TestErrorOfAnUpdateDropsItsTransactionAndIsReturnedAsItIs(t *testing.T) {
	script(t, func(t *testing.T, c *Client, p *peer) {
		ch := startErr(func() error {
			return c.Update(t.Context(), func(Operations) error { return io.ErrNoProgress })
		})
		p.begin(5)
		p.ok(p.within(5, TypeTransactionEnd, "F\x00"))
		if err := <-ch; err != io.ErrNoProgress {
			t.Errorf("got %v", err)
		}
		p.quiet()
	})
}

func TestPanicInAnUpdateDropsItsTransaction(t *testing.T) {
	script(t, func(t *testing.T, c *Client, p *peer) {
		ch := make(chan any)
		go func() {
			defer func() { ch <- recover() }()
			_ = c.Update(t.Context(), func(Operations) error { panic("f") })
		}()
		p.begin(5)
		p.ok(p.within(5, TypeTransactionEnd, "F\x00"))
		if r := <-ch; r != "f" {
			t.Errorf("recovered %v", r)
		}
	})
}

func TestUpdateThatCannotBeginOrCommitSaysWhich(t *testing.T) {
	script(t, func(t *testing.T, c *Client, p *peer) {
		nothing := func(Operations) error { return nil }
		update := func() error { return c.Update(t.Context(), nothing) }

		ch := startErr(update)
		p.refuse(p.expect(TypeTransactionStart, "\x00"), "ENOSPC")
		if err := <-ch; !errors.Is(err, ErrNoSpace) || !strings.HasPrefix(err.Error(), "xenstore: begin transaction: ") {
			t.Errorf("begin: %v", err)
		}
		ch = startErr(update)
		p.reply(p.expect(TypeTransactionStart, "\x00"), "nonsense\x00")
		if err := <-ch; !errors.Is(err, ErrMalformed) {
			t.Errorf("begin: %v", err)
		}
		ch = startErr(update)
		p.begin(1)
		p.refuse(p.within(1, TypeTransactionEnd, "T\x00"), "EQUOTA")
		if err := <-ch; !errors.Is(err, ErrQuota) || !strings.HasPrefix(err.Error(), "xenstore: commit transaction: ") {
			t.Errorf("commit: %v", err)
		}
		p.quiet()
	})
}

func TestUpdateGivesUpWhenItsContextEnds(t *testing.T) {
	script(t, func(t *testing.T, c *Client, p *peer) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		ch := startErr(func() error {
			return c.Update(ctx, func(Operations) error { return nil })
		})
		var err error
		for id := uint32(1); ; id++ {
			started := make(chan struct{})
			go func() {
				select {
				case err = <-ch:
					p.Close() // ends the read below
				case <-started:
				}
			}()
			h, _, readErr := ReadMessage(p)
			close(started)
			if readErr != nil {
				break
			}
			p.reply(h, string(AppendTransaction(nil, id)))
			p.refuse(p.within(id, TypeTransactionEnd, "T\x00"), "EAGAIN")
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

func TestTransactionBegunTooLateIsEnded(t *testing.T) {
	script(t, func(t *testing.T, c *Client, p *peer) {
		ctx, cancel := context.WithCancel(t.Context())
		ch := startErr(func() error {
			return c.Update(ctx, func(Operations) error { t.Error("f ran"); return nil })
		})
		h := p.expect(TypeTransactionStart, "\x00")
		cancel()
		if err := <-ch; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		p.reply(h, string(AppendTransaction(nil, 7)))
		p.ok(p.within(7, TypeTransactionEnd, "F\x00"))
		p.quiet()
	})
}

func TestTransactionIsDroppedThoughItsContextHasEnded(t *testing.T) {
	script(t, func(t *testing.T, c *Client, p *peer) {
		ctx, cancel := context.WithCancel(t.Context())
		ch := startErr(func() error {
			return c.Update(ctx, func(tx Operations) error { return tx.Write(ctx, "/a", "") })
		})
		p.begin(7)
		h := p.within(7, TypeWrite, "/a\x00")
		cancel()
		if err := <-ch; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		p.ok(h)
		p.ok(p.within(7, TypeTransactionEnd, "F\x00"))
		p.quiet()
		synctest.Wait()
	})
}

func TestDeadConnectionEndsAnUpdateThatWaits(t *testing.T) {
	script(t, func(t *testing.T, c *Client, p *peer) {
		ch := startErr(func() error {
			return c.Update(t.Context(), func(Operations) error { return nil })
		})
		p.begin(1)
		p.refuse(p.within(1, TypeTransactionEnd, "T\x00"), "EAGAIN")
		synctest.Wait()
		p.Close()
		if err := <-ch; !errors.Is(err, ErrClosed) {
			t.Errorf("got %v", err)
		}
	})
}
