package xenstored

import (
	"bufio"
	"net"
	"sync"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

// maxQueued is how many bytes a client may leave unread before its connection ends.
const maxQueued = 8 << 20

// connection is one client. The server's lock guards watches and transactions.
type connection struct {
	s    *Server
	conn net.Conn
	dom  uint16

	watches      []watch
	transactions map[uint32]*transaction
	lastID       uint32
	heldEvents   [][]byte // while the domain's are held

	// Messages to the client wait here, so that no client can hold up the server.
	outMu   sync.Mutex
	out     []byte
	outMore *sync.Cond
	done    bool
}

func newConnection(s *Server, conn net.Conn, dom uint16) *connection {
	c := &connection{s: s, conn: conn, dom: dom, transactions: make(map[uint32]*transaction)}
	c.outMore = sync.NewCond(&c.outMu)
	return c
}

// run carries out requests until the connection ends.
func (c *connection) run() {
	var writer sync.WaitGroup
	writer.Go(c.write)
	r := bufio.NewReader(c.conn)
	for {
		h, payload, err := xenstore.ReadMessage(r)
		if err != nil || !c.s.hold() || h.Type == xenstore.TypeUnwatch && !c.s.awaitEvents(c) {
			break
		}
		c.handle(h, payload)
	}
	c.stop()
	c.conn.Close()
	writer.Wait()
}

func (c *connection) stop() {
	c.outMu.Lock()
	defer c.outMu.Unlock()
	c.done = true
	c.outMore.Signal()
}

// write sends what waits, until stop or an error.
func (c *connection) write() {
	var batch []byte
	for {
		c.outMu.Lock()
		for len(c.out) == 0 && !c.done {
			c.outMore.Wait()
		}
		if c.done {
			c.outMu.Unlock()
			return
		}
		batch, c.out = c.out, batch[:0]
		c.outMu.Unlock()
		if _, err := c.conn.Write(batch); err != nil {
			c.stop()
			c.conn.Close() // wakes run
			return
		}
	}
}

// send queues a message. It never blocks.
func (c *connection) send(h xenstore.Header, payload []byte) {
	c.outMu.Lock()
	defer c.outMu.Unlock()
	if c.done {
		return
	}
	if len(c.out) > maxQueued {
		c.done = true
		c.outMore.Signal()
		c.conn.Close()
		return
	}
	c.out = xenstore.AppendMessage(c.out, h, payload)
	c.outMore.Signal()
}

// reply answers the request h.
func (c *connection) reply(h xenstore.Header, payload []byte) {
	if len(payload) > xenstore.MaxPayload {
		c.fail(h, xenstore.ErrTooBig)
		return
	}
	c.send(h, payload)
}

// fail answers the request h with an error.
func (c *connection) fail(h xenstore.Header, err error) {
	h.Type = xenstore.TypeError
	c.send(h, xenstore.AppendError(nil, err))
}
