package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/wire"
)

// Guest is dom0 or a domU: a place where commands run. Its methods may be used by any
// goroutine.
type Guest struct {
	name string

	mu      sync.Mutex
	session *yamux.Session // nil before the first
	broken  error          // why nothing can be done there any more
	judged  chan struct{}  // closed once broken is there; made with the session
}

// Name is dom0, or the domU's.
func (g *Guest) Name() string { return g.name }

// Err is why nothing can be done in the guest any more, such as a crash, or nil.
func (g *Guest) Err() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.broken
}

// Run executes a command and returns what it wrote to stdout. If it failed the error
// is an *ExitError, which holds stderr. The command ends with ctx.
func (g *Guest) Run(ctx context.Context, argv ...string) (string, error) {
	return g.RunCommand(ctx, Command{Argv: argv})
}

// RunCommand is Run for a command with input or an environment.
func (g *Guest) RunCommand(ctx context.Context, c Command) (string, error) {
	p, err := g.StartCommand(ctx, c)
	if err != nil {
		return "", err
	}
	r, err := p.Wait(ctx)
	if err != nil {
		return r.Stdout, err
	}
	if r.Code != 0 {
		return r.Stdout, &ExitError{Guest: g.name, Argv: c.Argv, Result: r}
	}
	return r.Stdout, nil
}

// Shell runs a script with /bin/sh, under set -eu.
func (g *Guest) Shell(ctx context.Context, script string) (string, error) {
	return g.Run(ctx, "/bin/sh", "-euc", script)
}

// Start starts a command, which ends with ctx.
func (g *Guest) Start(ctx context.Context, argv ...string) (*Process, error) {
	return g.StartCommand(ctx, Command{Argv: argv})
}

// StartCommand starts a command, which ends with ctx unless it is detached.
func (g *Guest) StartCommand(ctx context.Context, c Command) (*Process, error) {
	p, err := g.start(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("%s: start %q: %w", g.name, c.Argv, err)
	}
	return p, nil
}

func (g *Guest) start(ctx context.Context, c Command) (*Process, error) {
	s, err := g.open(ctx, wire.Request{Exec: c.request()})
	if err != nil {
		return nil, err
	}
	started, err := wire.ReceiveJSON[wire.Started](s.Messages, wire.KindStarted)
	if err != nil {
		return nil, errors.Join(s.why(err), s.close())
	}
	p := &Process{Pid: started.Pid, detached: c.Detached != "", guest: g, stream: s, ended: make(chan struct{}), ready: make(chan struct{}), more: make(chan struct{})}
	if c.Detached != "" && !c.notify {
		return p, s.close()
	}
	go p.listen()
	if c.Stdin != nil {
		go p.feed(c.Stdin)
		return p, nil
	}
	// It fails if the command has ended already.
	_ = s.Send(wire.KindStdinEnd, nil)
	return p, nil
}

// request is the command as the agent wants it.
func (c *Command) request() *wire.Exec {
	e := &wire.Exec{Argv: c.Argv, Dir: c.Dir, Detached: c.Detached, Notify: c.notify}
	for _, k := range slices.Sorted(maps.Keys(c.Env)) {
		e.Env = append(e.Env, k+"="+c.Env[k])
	}
	return e
}

// WriteFile writes a file and makes the folders above it. It appears whole, except in
// /proc, /sys and /dev, where it must exist.
func (g *Guest) WriteFile(ctx context.Context, path string, data []byte, mode fs.FileMode) error {
	if err := g.writeFile(ctx, path, data, mode); err != nil {
		return fmt.Errorf("%s: write %s: %w", g.name, path, err)
	}
	return nil
}

// piece is how much of a file goes into one message.
const piece = 32 << 10

func (g *Guest) writeFile(ctx context.Context, path string, data []byte, mode fs.FileMode) (err error) {
	s, err := g.open(ctx, wire.Request{Write: &wire.Write{Path: path, Mode: uint32(mode.Perm())}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	for part := range slices.Chunk(data, piece) {
		if s.Send(wire.KindData, part) != nil {
			break // the agent says why
		}
	}
	_ = s.Send(wire.KindEnd, nil) // and here
	if k, _, err := s.Receive(); err != nil {
		return s.why(err)
	} else if k != wire.KindEnd {
		return fmt.Errorf("a message of kind %d where the end must be", k)
	}
	return nil
}

// ReadFile reads a file of any kind that ends, also in /proc and /sys.
func (g *Guest) ReadFile(ctx context.Context, path string) ([]byte, error) {
	b, err := g.readFile(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("%s: read %s: %w", g.name, path, err)
	}
	return b, nil
}

func (g *Guest) readFile(ctx context.Context, path string) (all []byte, err error) {
	s, err := g.open(ctx, wire.Request{Read: path})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	for {
		k, b, err := s.Receive()
		if err != nil {
			return nil, s.why(err)
		}
		if k == wire.KindEnd {
			return all, nil
		}
		all = append(all, b...)
	}
}

// stream is one request to the agent. It ends with the context it was opened with.
type stream struct {
	*wire.Messages
	conn  net.Conn
	guest *Guest
	ctx   context.Context
	stop  func() bool
}

func (g *Guest) open(ctx context.Context, r wire.Request) (*stream, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	g.mu.Lock()
	session, err := g.session, g.broken
	g.mu.Unlock()
	if err == nil && session == nil {
		err = errors.New("there is no connection")
	}
	if err != nil {
		return nil, err
	}
	conn, err := session.Open()
	if err != nil {
		return nil, g.why(err)
	}
	s := &stream{Messages: wire.NewMessages(conn), conn: conn, guest: g, ctx: ctx}
	s.stop = context.AfterFunc(ctx, func() {
		_ = conn.Close()                      // the agent ends what it does for this stream
		_ = conn.SetDeadline(time.Unix(0, 1)) // and nobody here waits for that
	})
	if err := wire.SendJSON(s.Messages, wire.KindRequest, r); err != nil {
		return nil, errors.Join(s.why(err), s.close())
	}
	return s, nil
}

func (s *stream) close() error {
	s.stop()
	if err := s.conn.Close(); err != nil && s.ctx.Err() == nil {
		return err
	}
	return nil
}

// why makes an error of a stream one that tells the cause: that of ctx, or of the guest.
func (s *stream) why(err error) error {
	if c := context.Cause(s.ctx); c != nil {
		return c
	}
	return s.guest.why(err)
}

// why makes the error of a session that has ended one that tells why it has.
func (g *Guest) why(err error) error {
	g.mu.Lock()
	session, judged := g.session, g.judged
	g.mu.Unlock()
	if session != nil && session.IsClosed() {
		<-judged
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.broken != nil {
		return g.broken
	}
	return err
}

// use makes session the one that requests go through, and ends the one before. When
// it ends by itself, lost says why, unless somebody else does in a while: a kernel
// that crashes ruins the line first and gives its reasons then.
// Nil is no session.
func (g *Guest) use(session *yamux.Session, lost func() error) {
	g.fail(errReconnecting)
	judged := make(chan struct{})
	g.mu.Lock()
	g.session, g.broken, g.judged = session, nil, judged
	g.mu.Unlock()
	if session == nil {
		return
	}
	go func() {
		<-session.CloseChan()
		select {
		case <-judged:
		case <-time.After(lastWords + time.Second):
			g.judge(session, lost())
		}
	}()
}

// fail ends the session: whoever waits for something in the guest gets err, unless
// another reason came first.
func (g *Guest) fail(err error) {
	g.mu.Lock()
	session := g.session
	g.mu.Unlock()
	g.judge(session, err)
	if session != nil {
		_ = session.Close() // its line may be dead
	}
}

// judge notes why a session has ended.
func (g *Guest) judge(session *yamux.Session, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.session != session || g.broken != nil {
		return
	}
	g.broken = err
	if g.judged != nil {
		close(g.judged)
	}
}
