package hold

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Client is one connection to a holder. Any goroutine may call it; the holder sees one
// call after the other. A call ends within [CallTimeout], or earlier with its context.
// One that got no answer ends the connection, since nobody knows what became of it:
// every error is then [ErrUnavailable], and the caller dials again. A Client that ends
// changes nothing at the holder.
type Client struct {
	conn    *net.UnixConn
	turn    chan struct{} // holds one token: who has it may call
	answers chan answer
	done    chan struct{} // closed when the connection is over
	over    sync.Once
}

type answer struct {
	msg message
	fds []int
}

// Dial connects to the holder at path, and greets it. It fails with [ErrVersion] when
// that one speaks another version, with [ErrRefused] when it does not want to talk to
// this process, and with [ErrUnavailable] when there is none.
func Dial(ctx context.Context, path string) (*Client, error) {
	ctx, cancel := context.WithTimeout(ctx, CallTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, network, path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	c := &Client{
		conn:    conn.(*net.UnixConn),
		turn:    make(chan struct{}, 1),
		answers: make(chan answer),
		done:    make(chan struct{}),
	}
	if err := c.greet(ctx); err != nil {
		return nil, errors.Join(err, c.conn.Close())
	}
	c.turn <- struct{}{}
	go c.read()
	return c, nil
}

func (c *Client) greet(ctx context.Context) error {
	cred, err := peer(c.conn)
	if err != nil {
		return err
	}
	if cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
		return fmt.Errorf("the process at %s is of user %d: expected root or user %d", c.conn.RemoteAddr(), cred.Uid, os.Geteuid())
	}
	stop := context.AfterFunc(ctx, func() { _ = c.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := send(c.conn, greeting{version: Version}.encode(), nil); err != nil {
		return fmt.Errorf("%w: greet it: %w", ErrUnavailable, err)
	}
	buf := make([]byte, greetingSpace+1)
	n, fds, err := receive(c.conn, buf)
	closeAll(fds)
	if err != nil {
		return fmt.Errorf("%w: await its greeting: %w", ErrUnavailable, err)
	}
	g, err := decodeGreeting(buf[:n])
	switch {
	case err != nil:
		return fmt.Errorf("the process at %s is no holder: %w", c.conn.RemoteAddr(), err)
	case g.version != Version:
		return fmt.Errorf("%w: the holder has %d, this program %d", ErrVersion, g.version, Version)
	case g.reason != "":
		return fmt.Errorf("%w: %s", ErrRefused, g.reason)
	}
	if !stop() {
		return fmt.Errorf("%w: %w", ErrUnavailable, context.Cause(ctx))
	}
	return nil
}

// read hands every answer to the call that waits for it, until the connection ends.
func (c *Client) read() {
	defer c.end()
	buf := make([]byte, maxMessage+1)
	for {
		n, fds, err := receive(c.conn, buf)
		if err != nil {
			return
		}
		m, err := decode(buf[:n])
		if err != nil {
			closeAll(fds)
			return
		}
		select {
		case c.answers <- answer{m, fds}:
		case <-c.done:
			closeAll(fds)
			return
		}
	}
}

func (c *Client) end() {
	c.over.Do(func() {
		close(c.done)
		_ = c.conn.Close()
	})
}

// Done is closed when the connection is over: the holder died, or Close was called.
func (c *Client) Done() <-chan struct{} { return c.done }

// Close ends the connection. The holder keeps everything.
func (c *Client) Close() error {
	c.end()
	return nil
}

// Put hands a bundle to the holder, in place of the one of that key, whose descriptors
// the holder then closes. When Put fails with [ErrRefused], the old one is untouched.
// The caller keeps its own descriptors. A bundle with Parked set is parked at once; it
// stays as it is when the holder has that identifier already.
func (c *Client) Put(ctx context.Context, b Bundle) error {
	if err := b.check(); err != nil {
		return fmt.Errorf("put: %w", err)
	}
	_, err := c.one(ctx, bundleMessage(opPut, &b), b.fds(), opDone)
	if err != nil {
		return fmt.Errorf("put %s: %w", b.Key, err)
	}
	return nil
}

// Get fetches the bundle of a key. Its descriptors are the caller's, and share their
// open files with the holder's.
func (c *Client) Get(ctx context.Context, key string) (*Bundle, error) {
	return c.get(ctx, message{op: opGet, key: key})
}

// GetParked fetches a parked bundle by its identifier.
func (c *Client) GetParked(ctx context.Context, id string) (*Bundle, error) {
	return c.get(ctx, message{op: opGet, parked: id})
}

func (c *Client) get(ctx context.Context, m message) (*Bundle, error) {
	what := m.key + m.parked // one of them is empty
	if err := checkText("key", what, MaxKey); err != nil {
		return nil, fmt.Errorf("get: %w", err)
	}
	a, err := c.one(ctx, m, nil, opBundle)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", what, err)
	}
	b, err := a.msg.bundle(a.fds)
	if err != nil {
		closeAll(a.fds)
		return nil, fmt.Errorf("get %s: %w", what, err)
	}
	return b, nil
}

// Drop lets the holder close a bundle. It is no error when there is none.
func (c *Client) Drop(ctx context.Context, key string) error {
	return c.byKey(ctx, message{op: opDrop, key: key}, "drop")
}

// Park parks the bundle of a key, and returns the identifier under which it is kept for
// ever. The key is free then.
func (c *Client) Park(ctx context.Context, key string) (id string, err error) {
	id = NewParkID()
	return id, c.parkAs(ctx, key, id)
}

func (c *Client) parkAs(ctx context.Context, key, id string) error {
	return c.byKey(ctx, message{op: opPark, key: key, parked: id}, "park")
}

// NewParkID makes an identifier that no parked bundle has.
func NewParkID() string { return rand.Text() }

func (c *Client) byKey(ctx context.Context, m message, verb string) error {
	if err := checkText("key", m.key, MaxKey); err != nil {
		return fmt.Errorf("%s: %w", verb, err)
	}
	if _, err := c.one(ctx, m, nil, opDone); err != nil {
		return fmt.Errorf("%s %s: %w", verb, m.key, err)
	}
	return nil
}

// List says what the holder has, parked bundles included, in no order.
func (c *Client) List(ctx context.Context) ([]Entry, error) {
	var list []Entry
	err := c.call(ctx, message{op: opList}, nil, func(a answer) (bool, error) {
		switch a.msg.op {
		case opEntry:
			list = append(list, Entry{a.msg.key, a.msg.text, a.msg.parked, a.msg.names})
			return false, nil
		case opDone:
			return true, nil
		}
		return true, a.msg.failure()
	})
	if err != nil {
		return nil, fmt.Errorf("list: %w", err)
	}
	return list, nil
}

// one makes a call that one message answers.
func (c *Client) one(ctx context.Context, m message, fds []int, want op) (answer, error) {
	var got answer
	err := c.call(ctx, m, fds, func(a answer) (bool, error) {
		if a.msg.op != want {
			return true, a.msg.failure()
		}
		got = a
		return true, nil
	})
	return got, err
}

// failure is the error that an answer stands for.
func (m message) failure() error {
	switch m.op {
	case opNotFound:
		return ErrNotFound
	case opRefused:
		return fmt.Errorf("%w: %s", ErrRefused, m.text)
	}
	return fmt.Errorf("unexpected answer %d of the holder", m.op)
}

// call sends a request and gives each answer to take, until that says that it was the
// last. Descriptors of an answer are closed when take returns an error.
func (c *Client) call(ctx context.Context, m message, fds []int, take func(answer) (last bool, err error)) error {
	ctx, cancel := context.WithTimeout(ctx, CallTimeout)
	defer cancel()
	select {
	case <-c.turn:
	case <-c.done:
		return ErrUnavailable
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrUnavailable, context.Cause(ctx))
	}
	defer func() { c.turn <- struct{}{} }()
	deadline, _ := ctx.Deadline()
	if err := c.conn.SetWriteDeadline(deadline); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if err := send(c.conn, m.encode(), fds); err != nil {
		if errors.Is(err, unix.EBADF) {
			return fmt.Errorf("one of its descriptors is not open: %w", err) // nothing was sent
		}
		c.end()
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	for {
		select {
		case a := <-c.answers:
			last, err := take(a)
			if err != nil || a.msg.op != opBundle {
				closeAll(a.fds)
			}
			if err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrRefused) {
				c.end() // whatever comes next would be taken for the next call's answer
			}
			if last || err != nil {
				return err
			}
		case <-c.done:
			return fmt.Errorf("%w: the connection ended", ErrUnavailable)
		case <-ctx.Done():
			c.end()
			return fmt.Errorf("%w: %w", ErrUnavailable, context.Cause(ctx))
		}
	}
}
