package controlserver

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/xnetfrontd/xnetfrontd/internal/printable"
	"github.com/xnetfrontd/xnetfrontd/pkg/control"
)

// client is a connection. It belongs to one goroutine, but for the fields under clients.mu.
type client struct {
	conn   *net.UnixConn
	peer   peer
	limits limits
	in     *bufio.Reader

	// Of clients.mu:
	busy      bool      // the daemon works on its request
	streaming bool      // and the request is a capture
	since     time.Time // its last request or answer
}

// request reads a line. It returns false if the client takes too long for that, or if the line
// is too long; then the connection ends.
func (c *client) request() ([]byte, error) {
	if c.in == nil {
		c.in = bufio.NewReaderSize(c.conn, control.MaxRequest)
	}
	if err := c.conn.SetReadDeadline(time.Now().Add(c.limits.request)); err != nil {
		return nil, err
	}
	line, err := c.in.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		c.respond(control.Response{Error: fmt.Sprintf("request is longer than %d bytes", control.MaxRequest)})
	}
	return line, err
}

// respond writes a response, and tells whether the client took it in time.
func (c *client) respond(r control.Response) bool {
	r.Version = control.Version
	line, err := json.Marshal(r)
	if err != nil {
		return false // which cannot happen with these types
	}
	// The deadline begins now: the time in which the response was made does not count.
	if c.conn.SetWriteDeadline(time.Now().Add(c.limits.request)) != nil {
		return false
	}
	_, err = c.conn.Write(append(line, '\n'))
	return err == nil
}

// refuse ends a connection that was not admitted. It does not wait for the client: a
// socket that is new has room for a line.
func (c *client) refuse(err error) {
	c.respond(control.Response{Error: printable.Error(err)})
	c.conn.Close()
}
