package xensim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/xnetfrontd/xnetfrontd/internal/xensim/xenstored"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
	"golang.org/x/sys/unix"
)

// Options says what kind of Xen it is. The zero value is one for this process alone,
// with the limits of a real one.
type Options struct {
	// Dir is where Listen puts its sockets.
	Dir string
	// HeapPages makes granted pages and event channels Go memory, so that the race
	// detector sees them. All domains must then be in this process, and a read-only
	// grant can be written.
	HeapPages bool
	// GrantLimit is how many pages each domain may have granted, gntalloc's limit
	// parameter; 0 means 1024.
	GrantLimit int
	// AllowRaise lets guests raise it.
	AllowRaise bool
	// EventBeforeAck makes xenstored send a new watch's first event before the
	// watch's own reply, as Linux does on /dev/xen/xenbus.
	EventBeforeAck bool
}

// Server is the hypervisor and xenstored. Its methods may be called by any
// goroutine.
type Server struct {
	opts       Options
	hypervisor *hypervisor
	store      *xenstored.Server
	toolstack  *xenstore.Client // of domain 0

	wg sync.WaitGroup // goroutines of sockets

	mu     sync.Mutex
	open   map[io.Closer]struct{} // listeners, sockets, local handles
	closed bool
}

// New starts a Xen that has no domains and listens nowhere.
func New(opts Options) (*Server, error) {
	if opts.GrantLimit < 0 {
		return nil, fmt.Errorf("grant limit of %d pages", opts.GrantLimit)
	}
	limit := opts.GrantLimit
	if limit == 0 {
		limit = defaultGrantLimit
	}
	s := &Server{
		opts: opts,
		hypervisor: &hypervisor{
			heap:       opts.HeapPages,
			grantLimit: limit,
			allowRaise: opts.AllowRaise,
			domains:    make(map[xen.DomID]*domain),
			renamed:    make(map[xen.DomID]xen.DomID),
		},
		store: xenstored.New(xenstored.Options{EventBeforeAck: opts.EventBeforeAck}),
		open:  make(map[io.Closer]struct{}),
	}
	ours, theirs := net.Pipe()
	s.spawn(ours, func() { s.store.Serve(ours, 0) })
	s.toolstack = xenstore.New(theirs)
	if err := s.createDomain(0); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Toolstack is a xenstore connection of domain 0, for [AttachVif] and its like. It
// ends with the server.
func (s *Server) Toolstack() xen.Store { return s.toolstack }

// createDomain makes a domain's home if it has none. It gives up after a while, for
// the sake of a xenstored that is slow or dead on purpose.
func (s *Server) createDomain(dom xen.DomID) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return CreateDomain(ctx, s.toolstack, dom)
}

// The sockets that Listen makes in Options.Dir.
func hypercallSocket(dir string) string { return filepath.Join(dir, "hypercalls") }

// StoreSocket is the path of the socket on which the server in dir speaks plain
// xs_wire with domain 0, as a real xenstored's does.
func StoreSocket(dir string) string { return filepath.Join(dir, "xenstored") }

// Listen opens the server's sockets in Options.Dir, which must exist, for domains
// in other processes. Whoever may enter the directory may connect, as any domain.
// Sockets that an earlier server left there are replaced.
func (s *Server) Listen() error {
	if s.opts.HeapPages {
		return errors.New("listen: heap pages cannot be shared with other processes")
	}
	hypercalls, err := listen("unixpacket", hypercallSocket(s.opts.Dir))
	if err != nil {
		return fmt.Errorf("listen for hypercalls: %w", err)
	}
	store, err := listen("unix", StoreSocket(s.opts.Dir))
	if err != nil {
		hypercalls.Close()
		return fmt.Errorf("listen for xenstore: %w", err)
	}
	s.accept(hypercalls, s.serveHandle)
	s.accept(store, func(conn *net.UnixConn) { s.store.Serve(conn, 0) })
	return nil
}

func listen(network, path string) (*net.UnixListener, error) {
	if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSocket != 0 {
		os.Remove(path)
	}
	l, err := net.ListenUnix(network, &net.UnixAddr{Name: path, Net: network})
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o666); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

func (s *Server) accept(l *net.UnixListener, serve func(*net.UnixConn)) {
	s.spawn(l, func() {
		for {
			conn, err := l.AcceptUnix()
			if err != nil {
				return
			}
			s.spawn(conn, func() { serve(conn) })
		}
	})
}

// spawn runs f, which uses c, in a goroutine that Close ends by closing c.
func (s *Server) spawn(c io.Closer, f func()) {
	if !s.keep(c) {
		c.Close()
		return
	}
	s.wg.Go(func() {
		defer s.forget(c)
		f()
	})
}

// keep adds what Close closes. It fails when the server is closed.
func (s *Server) keep(c io.Closer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.open[c] = struct{}{}
	return true
}

func (s *Server) forget(c io.Closer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, c)
}

// Close ends the server, and with it everything that domains have. It returns when
// all goroutines are gone. What a domain has mapped stays mapped.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	var open []io.Closer
	for c := range s.open {
		open = append(open, c)
	}
	s.mu.Unlock()
	s.store.Close()
	s.toolstack.Close()
	for _, c := range open {
		c.Close()
	}
	s.wg.Wait()
	s.hypervisor.close()
	return nil
}

// Connect joins a process of dom in this process. The domain is created if need be.
func (s *Server) Connect(dom xen.DomID) (*Connection, error) {
	return newConnection(dom, func(q request) (caller, reply, error) {
		if q.Op == opOpenStore {
			r, err := s.openStore(q)
			return nil, r, err
		}
		h, err := s.hypervisor.open(q)
		if err != nil {
			return nil, reply{}, err
		}
		c := &localCaller{handle: h}
		c.forget = func() { s.forget(c) }
		if !s.keep(c) {
			h.close()
			return nil, reply{}, xen.ErrClosed
		}
		return c, reply{}, nil
	})
}

// openStore returns one end of a socket on which xenstored serves q.Domain.
func (s *Server) openStore(q request) (reply, error) {
	if q.Domain >= firstReservedDomID {
		return reply{}, unix.EINVAL
	}
	dom := s.hypervisor.current(xen.DomID(q.Domain))
	// Asked for each watch, too, while xenstored may be slow or dead on purpose.
	if !s.store.Has(HomePath(dom) + "/domid") {
		if err := s.createDomain(dom); err != nil {
			return reply{}, err
		}
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return reply{}, err
	}
	conn, err := adoptSocket(ours)
	if err != nil {
		unix.Close(theirs)
		return reply{}, err
	}
	s.spawn(conn, func() { s.store.Serve(conn, uint16(dom)) })
	return reply{Objects: []object{{fd: theirs}}}, nil
}
