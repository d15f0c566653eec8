package xenstore

import (
	"context"
	"io"
)

// Operations is what can be done with nodes, by itself ([Client]) or as a part of a
// transaction ([Client.Update]).
//
// A path that does not begin with a slash is relative to the domain's home,
// /local/domain/<domid>; [CheckPath] says what else a path must be. Each method blocks
// until the server has answered or ctx ends, in which case it is not known whether the
// operation took place. Every error is an [*Error] around one of this package's or
// ctx.Err().
type Operations interface {
	// Read returns the value of a node, any bytes.
	Read(ctx context.Context, path string) (string, error)
	// Write sets the value of a node, any bytes. It makes the node, and those above
	// it, if need be. Path and value together are limited ([ErrTooBig]): to
	// MaxPayload - 1 bytes, on the kernel's device to HeaderSize less.
	Write(ctx context.Context, path, value string) error
	// Directory returns the names of the nodes directly below path, in no order. Names
	// of more than MaxPayload bytes in all are [ErrTooBig] for servers that cannot give
	// them in parts, such as oxenstored.
	Directory(ctx context.Context, path string) ([]string, error)
	// Mkdir makes a node with an empty value unless it exists, and those above it.
	Mkdir(ctx context.Context, path string) error
	// Remove removes a node and all below it. It is no error if the node does not
	// exist, but it is [ErrNotFound] if the one above does not exist either.
	Remove(ctx context.Context, path string) error
	// Permissions returns a node's permissions, its owner's first.
	Permissions(ctx context.Context, path string) ([]Permission, error)
	// SetPermissions replaces a node's permissions. The first entry is the owner.
	SetPermissions(ctx context.Context, path string, perms []Permission) error
}

// Client is a connection to xenstored. Any goroutine may call any of its methods. What
// they ask is done one after the other.
//
// When the connection dies, or is closed, every call fails with [ErrClosed], wrapped
// with the reason, and every [Watch] ends. It does not come back: watches and
// transactions were lost with it, so only the owner can say how to go on.
type Client struct {
	conn *connection
	root *transaction                       // with id 0: outside of any
	open func() (io.ReadWriteCloser, error) // a stream for each watch; nil: they go over conn
}

// Stats counts what came in, on the stream of requests, and was for nobody.
type Stats struct {
	UnknownReplies uint64 // replies to no request of this client
	UnknownTokens  uint64 // events of watches that were closed, or never were
	LateReplies    uint64 // replies to calls whose context had ended
}

// New makes a client of rw and owns it. Each message is written with one call of
// Write, and only when the one before has its reply. Close of rw must end a Read or
// Write that is under way.
func New(rw io.ReadWriteCloser) *Client { return newClient(rw, MaxPayload) }

func newClient(rw io.ReadWriteCloser, maxPayload int) *Client {
	conn := newConnection(rw, maxPayload)
	return &Client{conn: conn, root: &transaction{conn: conn}}
}

// Connect makes a client of what open opens, as [New] does of one stream: a stream for
// requests at once, and one for each watch, which is closed with it. It is for servers
// where the end of a watch can keep a stream busy. Linux is one, on /dev/xen/xenbus: a
// write(2) that ends a watch waits until no driver of the guest's is handling an event of
// its own (unregister_xenbus_watch), which can take as long as a backend likes, and no
// other request goes over that descriptor meanwhile. Close(2) does not wait
// (xenbus_file_free).
func Connect(open func() (io.ReadWriteCloser, error)) (*Client, error) {
	return connect(open, MaxPayload)
}

func connect(open func() (io.ReadWriteCloser, error), maxPayload int) (*Client, error) {
	rw, err := open()
	if err != nil {
		return nil, err
	}
	c := newClient(rw, maxPayload)
	c.open = open
	return c, nil
}

// Close ends the connection, all pending calls and all watches, and waits until
// nothing of them runs any more. The error is that of closing the stream.
func (c *Client) Close() error {
	err := c.conn.fail(nil)
	c.conn.goroutines.Wait()
	for _, b := range c.conn.growing() {
		b.goroutines.Wait()
	}
	return err
}

// Done is closed when the connection has died or was closed.
func (c *Client) Done() <-chan struct{} { return c.conn.dead }

// Stats returns the counts since New.
func (c *Client) Stats() Stats {
	c.conn.mu.Lock()
	defer c.conn.mu.Unlock()
	return c.conn.stats
}

// Read implements [Operations].
func (c *Client) Read(ctx context.Context, path string) (string, error) {
	return c.root.Read(ctx, path)
}

// Write implements [Operations].
func (c *Client) Write(ctx context.Context, path, value string) error {
	return c.root.Write(ctx, path, value)
}

// Directory implements [Operations].
func (c *Client) Directory(ctx context.Context, path string) ([]string, error) {
	return c.root.Directory(ctx, path)
}

// Mkdir implements [Operations].
func (c *Client) Mkdir(ctx context.Context, path string) error { return c.root.Mkdir(ctx, path) }

// Remove implements [Operations].
func (c *Client) Remove(ctx context.Context, path string) error { return c.root.Remove(ctx, path) }

// Permissions implements [Operations].
func (c *Client) Permissions(ctx context.Context, path string) ([]Permission, error) {
	return c.root.Permissions(ctx, path)
}

// SetPermissions implements [Operations].
func (c *Client) SetPermissions(ctx context.Context, path string, perms []Permission) error {
	return c.root.SetPermissions(ctx, path, perms)
}
