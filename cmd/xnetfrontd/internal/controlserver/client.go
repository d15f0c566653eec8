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

// client is a connection, of one goroutine; what is under clients.mu is of any.
type client struct {
	conn   *net.UnixConn
	peer   peer
	limits limits
	in     *bufio.Reader

	// Of clients.mu:
	busy      bool      // the daemon is doing what it asked for
	streaming bool      // and that is a capture
	since     time.Time // it was last heard or answered
}

// request reads a line. A client that takes too long for it, or whose line is too long,
// is one that is over.
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

// respond tells whether the client took the response in time.
func (c *client) respond(r control.Response) bool {
	r.Version = control.Version
	line, err := json.Marshal(r)
	if err != nil {
		return false // which these types do not give
	}
	// The time is the client's alone, not what it took to make the response.
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
