package xenstore

import (
	"bufio"
	"fmt"
	"io"
)

// readAll routes all that comes in, until the connection ends.
func (c *connection) readAll() {
	r := bufio.NewReaderSize(c.rw, HeaderSize+MaxPayload)
	for {
		h, payload, err := ReadMessage(r)
		if err == nil {
			err = c.route(h, payload)
		}
		if err != nil {
			_ = c.fail(fmt.Errorf("read message: %w", err))
			return
		}
	}
}

// route hands one message to whom it is for. An error is the end of the connection.
func (c *connection) route(h Header, payload []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	// The type decides first: the kernel's device leaves the ids of an event
	// uninitialised (watch_fired in xenbus_dev_frontend.c).
	if h.Type == TypeWatchEvent {
		path, token, err := ParseWatchEvent(payload)
		if err != nil {
			return fmt.Errorf("watch event: %w", err)
		}
		if w := c.watches[token]; w != nil {
			w.push(path)
		} else {
			c.stats.UnknownTokens++ // on its way when the watch was closed
		}
		return nil
	}
	call := c.current
	if call == nil || !call.answeredBy(h) {
		c.stats.UnknownReplies++
		return nil
	}
	if h.Type != call.header.Type && h.Type != TypeError {
		return fmt.Errorf("%w: reply %v to request %v", ErrMalformed, h.Type, call.header.Type)
	}
	r := reply{payload: payload}
	if h.Type == TypeError {
		r = reply{err: ParseError(payload)}
	}
	c.current = nil
	c.wakeWriter()
	if call.abandoned {
		c.stats.LateReplies++
		c.undo(call, r)
	}
	call.finish(r)
	return nil
}

// answeredBy tells whether a reply is the one to this request.
func (x *exchange) answeredBy(h Header) bool {
	if h.Request == x.header.Request {
		return true
	}
	// The device makes the acks of watches itself. Those of old kernels have nothing
	// but type and length (xenbus_write_watch).
	watch := h.Type == TypeWatch || h.Type == TypeUnwatch
	return watch && h.Request == 0 && h.Type == x.header.Type
}

// undo ends the transaction that a late reply has begun: xenstored allows a domain few
// of them. The caller holds the lock.
func (c *connection) undo(call *exchange, r reply) {
	if call.header.Type != TypeTransactionStart || r.err != nil {
		return
	}
	if id, err := ParseTransaction(r.payload); err == nil {
		c.detach(TypeTransactionEnd, id, AppendString(nil, "F"))
	}
}

// writeAll writes what is queued, until the connection ends.
func (c *connection) writeAll() {
	var message []byte
	for {
		call := c.next()
		if call == nil {
			select {
			case <-c.work:
				continue
			case <-c.dead:
				return
			}
		}
		// One message in each write: the device forgets what follows the first.
		message = AppendMessage(message[:0], call.header, call.payload)
		n, err := c.rw.Write(message)
		if err == nil && n < len(message) {
			err = io.ErrShortWrite
		}
		if err == nil {
			continue
		}
		if answer, ok := refusal(err); ok && n == 0 {
			c.refuse(call, answer)
			continue
		}
		_ = c.fail(fmt.Errorf("write %v: %w", call.header.Type, err))
		return
	}
}

// next takes the request that is to be written now; nil if there is none.
func (c *connection) next() *exchange {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current != nil || len(c.queue) == 0 {
		return nil
	}
	call := c.queue[0]
	c.queue[0] = nil // or the array would keep it
	c.queue = c.queue[1:]
	// 0 is left out: it is what old kernels put into the acks of watches.
	if c.lastID++; c.lastID == 0 {
		c.lastID++
	}
	call.header.Request = c.lastID
	c.current = call
	return call
}

// refuse ends a call that the write itself has answered: the kernel's device does so
// with a watch which xenstored refuses. The connection lives on.
func (c *connection) refuse(call *exchange, answer error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current == call {
		c.current = nil
		call.finish(reply{err: answer})
	}
}
