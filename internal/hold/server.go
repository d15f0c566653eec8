package hold

import (
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
)

// greetingTimeout is how long a client may take to say who it is, and writeTimeout how
// long it may let the holder wait with an answer.
const (
	greetingTimeout = CallTimeout
	writeTimeout    = CallTimeout
)

// acceptRetry is how long to wait when there is no descriptor for a new connection.
const acceptRetry = 100 * time.Millisecond

// maxStrangers is how many connections of users who may not use the holder are told so
// at a time. They have places of their own, so that they take none of a client's.
const maxStrangers = 8

// reservedFiles are the descriptors that the holder needs besides those that it keeps:
// its connections, those of a message that is still to be judged, and the runtime's.
const reservedFiles = 2*MaxClients + maxStrangers + maxRights + 32

// guest is what a connection is to the holder.
type guest uint8

const (
	served   guest = iota // a client
	surplus               // a client too many, to be told so
	stranger              // of a user who may not use the holder, to be told so
)

// ServerOptions configure a holder.
type ServerOptions struct {
	// AllowUIDs may connect besides root and the holder's own user.
	AllowUIDs []int
	// FileLimit is the RLIMIT_NOFILE of this process.
	FileLimit int
	// Linger ends a holder that has had neither bundle nor client for so long. 0: never.
	Linger time.Duration
	// Log gets a line for each bundle that comes, goes or is parked.
	Log *zap.Logger
}

// Server is a holder.
type Server struct {
	opts  ServerOptions
	store *store
	logs  chan func(*zap.Logger)
	ended chan struct{}
	once  sync.Once

	mu      sync.Mutex
	conns   map[*net.UnixConn]guest
	guests  [stranger + 1]int // how many conns are which
	ending  bool              // as soon as there is nothing to hold
	linger  *time.Timer       // nil, or runs while there is no client
	running sync.WaitGroup
}

// NewServer makes a holder that has nothing.
func NewServer(o ServerOptions) (*Server, error) {
	if o.FileLimit <= reservedFiles {
		return nil, fmt.Errorf("limit of %d open files: the holder needs %d for itself (raise LimitNOFILE= or `ulimit -Hn`)", o.FileLimit, reservedFiles)
	}
	return &Server{
		opts:  o,
		store: newStore(),
		logs:  make(chan func(*zap.Logger), 256),
		ended: make(chan struct{}),
		conns: make(map[*net.UnixConn]guest),
	}, nil
}

// Serve answers clients until [Server.End] or Options.Linger ends it. Then it holds
// nothing. It closes l.
func (s *Server) Serve(l *net.UnixListener) error {
	var logging sync.WaitGroup
	logging.Go(s.log)
	defer logging.Wait()
	defer close(s.logs)
	s.settle()
	go func() {
		<-s.ended
		_ = l.Close()
	}()
	for {
		conn, err := l.AcceptUnix()
		if err == nil {
			s.start(conn)
			continue
		}
		select {
		case <-s.ended:
			s.closeConns()
			s.running.Wait()
			return nil
		case <-time.After(acceptRetry): // out of descriptors, or the client is gone
		}
	}
}

// End tells the holder to end. It ends at once when it holds nothing, and otherwise,
// with busy saying what it holds, as soon as it does: what ends with it is the vifs'
// connections, or for a parked bundle the guest's kernel.
func (s *Server) End() (busy string) {
	s.mu.Lock()
	s.ending = true
	s.mu.Unlock()
	s.settle()
	select {
	case <-s.ended:
		return ""
	default:
	}
	live, parked := s.store.count()
	return fmt.Sprintf("%d bundles in use, %d parked", live, parked)
}

// settle ends the holder if it is time to.
func (s *Server) settle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.linger != nil {
		s.linger.Stop()
		s.linger = nil
	}
	if s.ending {
		s.endIfEmpty()
	} else if s.opts.Linger > 0 && s.clients() == 0 {
		s.linger = time.AfterFunc(s.opts.Linger, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.clients() == 0 {
				s.endIfEmpty()
			}
		})
	}
}

// clients is how many connections there are that matter: strangers keep no holder. It
// needs s.mu.
func (s *Server) clients() int { return s.guests[served] + s.guests[surplus] }

// endIfEmpty needs s.mu.
func (s *Server) endIfEmpty() {
	if s.store.close() {
		s.once.Do(func() { close(s.ended) })
	}
}

func (s *Server) closeConns() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		_ = c.Close()
	}
}

// start serves a connection in a goroutine of its own. Whose it is comes first: the
// kernel knows, before anything is read. There is room for as many clients again as are
// served, and for some strangers, to tell them why they are not.
func (s *Server) start(conn *net.UnixConn) {
	pid, reason := s.judge(conn)
	s.mu.Lock()
	defer s.mu.Unlock()
	as := served
	switch {
	case reason != "":
		as = stranger
	case s.guests[served] >= MaxClients:
		as = surplus
		reason = fmt.Sprintf("%d clients are connected, and no more than that", MaxClients)
	}
	if s.guests[stranger] >= maxStrangers && as == stranger || s.guests[surplus] >= MaxClients && as == surplus {
		_ = conn.Close()
		return
	}
	s.conns[conn] = as
	s.guests[as]++
	s.running.Go(func() {
		defer s.finish(conn)
		if as == stranger {
			turnAway(conn, reason)
		} else {
			s.session(conn, pid, reason)
		}
	})
}

// finish forgets a connection. A fault of this program ends one connection, not the
// holder: with parked bundles that would be the guest's end.
func (s *Server) finish(conn *net.UnixConn) {
	if fault := recover(); fault != nil {
		s.say(func(l *zap.Logger) {
			l.Error("fault while serving a client", zap.Any("fault", fault), zap.Stack("stack"), event(EventHolderFault))
		})
	}
	_ = conn.Close()
	s.mu.Lock()
	s.guests[s.conns[conn]]--
	delete(s.conns, conn)
	s.mu.Unlock()
	s.settle()
}

// judge says which process a connection is of, and why its user may not use the holder,
// or nothing.
func (s *Server) judge(conn *net.UnixConn) (pid int32, reason string) {
	cred, err := peer(conn)
	switch {
	case err != nil:
		return 0, err.Error()
	case cred.Uid != 0 && int(cred.Uid) != os.Geteuid() && !slices.Contains(s.opts.AllowUIDs, int(cred.Uid)):
		return 0, fmt.Sprintf("user %d may not use it (see --allow-user)", cred.Uid)
	}
	return cred.Pid, ""
}

// log writes what happened, beside those who make it happen: the reader of the log may
// be slow, or stuck.
func (s *Server) log() {
	for line := range s.logs {
		line(s.opts.Log)
	}
}

// say drops a line when too many wait.
func (s *Server) say(line func(*zap.Logger)) {
	select {
	case s.logs <- line:
	default:
	}
}
