package hold

import (
	"errors"
	"fmt"
	"net"
	"time"

	"go.uber.org/zap"
)

// session is one client's connection.
type session struct {
	*Server
	conn *net.UnixConn
	pid  int32
}

// turnAway tells a stranger why it is not served, once it has greeted: an end of the
// connection before that would come before the reason. Nothing it sends is looked at, and
// descriptors that come with it stay with the kernel, since there is no room for them.
func turnAway(conn *net.UnixConn, reason string) {
	if conn.SetReadDeadline(time.Now().Add(greetingTimeout)) != nil {
		return
	}
	if _, err := conn.Read(make([]byte, greetingSpace)); err != nil {
		return
	}
	if conn.SetWriteDeadline(time.Now().Add(writeTimeout)) == nil {
		_ = send(conn, greeting{version: Version, reason: reason}.encode(), nil)
	}
}

// session answers a client until it goes, or sends what no client sends. With a reason it
// only tells that.
func (s *Server) session(conn *net.UnixConn, pid int32, reason string) {
	if conn.SetReadDeadline(time.Now().Add(greetingTimeout)) != nil {
		return
	}
	buf := make([]byte, maxMessage+1)
	n, fds, err := receive(conn, buf[:greetingSpace+1])
	closeAll(fds)
	if err != nil {
		return
	}
	theirs, err := decodeGreeting(buf[:n])
	if err != nil {
		return
	}
	ours := greeting{version: Version}
	if theirs.version != Version {
		reason = fmt.Sprintf("the holder has version %d of the protocol, the client %d", Version, theirs.version)
	}
	ours.reason = reason
	if conn.SetWriteDeadline(time.Now().Add(writeTimeout)) != nil || send(conn, ours.encode(), nil) != nil || reason != "" {
		return
	}
	if conn.SetReadDeadline(time.Time{}) != nil {
		return
	}
	c := &session{s, conn, pid}
	for {
		n, fds, err := receive(conn, buf)
		switch {
		case errors.Is(err, errNoDescriptors):
			err = c.answer(refusal(fmt.Errorf("the holder has %w", err)), nil)
		case err == nil:
			err = c.handle(buf[:n], fds)
		}
		if err != nil {
			return
		}
	}
}

func refusal(err error) message {
	text := err.Error()
	return message{op: opRefused, text: text[:min(len(text), MaxLabel)]}
}

// answer gives the client a limited time to take it.
func (c *session) answer(m message, fds []int) error {
	if err := c.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	return send(c.conn, m.encode(), fds)
}

// handle answers one request. An error ends the connection. It takes the descriptors
// over.
func (c *session) handle(b []byte, fds []int) error {
	m, err := decode(b)
	if err != nil {
		closeAll(fds)
		return err
	}
	if m.op == opPut {
		return c.put(m, fds)
	}
	if len(fds) > 0 {
		closeAll(fds)
		return c.answer(refusal(errors.New("only a put has descriptors")), nil)
	}
	switch m.op {
	case opGet:
		return c.get(m)
	case opDrop:
		return c.drop(m)
	case opPark:
		return c.park(m)
	case opList:
		return c.list()
	}
	return fmt.Errorf("%w: operation %d is no request", errMessage, m.op)
}

func (c *session) put(m message, fds []int) error {
	b, err := m.bundle(fds)
	if err != nil {
		closeAll(fds)
		return c.answer(refusal(err), nil)
	}
	old, taken, err := c.store.put(*b, c.opts.FileLimit-reservedFiles)
	if !taken {
		closeAll(fds)
	}
	c.store.release(old)
	switch {
	case errors.Is(err, errClosed):
		return err
	case err != nil:
		return c.answer(refusal(err), nil)
	case taken:
		c.say(func(l *zap.Logger) {
			l.Info("put", zap.String("key", b.Key), zap.Int("descriptors", len(fds)), zap.Bool("replaced", old != nil),
				zap.Bool("parked", b.Parked != ""), zap.Int32("pid", c.pid), event(EventBundle))
		})
	}
	return c.answer(message{op: opDone}, nil)
}

func (c *session) get(m message) error {
	b, h := c.store.find(m.key, m.parked)
	if h == nil {
		return c.answer(message{op: opNotFound}, nil)
	}
	defer c.store.release(h)
	return c.answer(bundleMessage(opBundle, &b), b.fds())
}

func (c *session) drop(m message) error {
	if h := c.store.drop(m.key); h != nil {
		c.store.release(h)
		c.say(func(l *zap.Logger) {
			l.Info("drop", zap.String("key", m.key), zap.Int32("pid", c.pid), event(EventBundle))
		})
		defer c.settle()
	}
	return c.answer(message{op: opDone}, nil)
}

func (c *session) park(m message) error {
	if err := checkText("identifier", m.parked, MaxKey); err != nil {
		return c.answer(refusal(err), nil)
	}
	switch err := c.store.park(m.key, m.parked); {
	case errors.Is(err, ErrNotFound):
		return c.answer(message{op: opNotFound}, nil)
	case err != nil:
		return c.answer(refusal(err), nil)
	}
	c.say(func(l *zap.Logger) {
		l.Info("park", zap.String("key", m.key), zap.String("id", m.parked), zap.Int32("pid", c.pid), event(EventBundle))
	})
	return c.answer(message{op: opDone}, nil)
}

func (c *session) list() error {
	for _, e := range c.store.list() {
		if err := c.answer(message{opEntry, e.Parked, e.Key, e.Label, e.Names}, nil); err != nil {
			return err
		}
	}
	return c.answer(message{op: opDone}, nil)
}
