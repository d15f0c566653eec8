package xensim

import (
	"time"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

// FailCommits makes the next n commits of xenstore transactions, whoever sends them,
// fail with EAGAIN.
func (s *Server) FailCommits(n int) { s.store.FailCommits(n) }

// SlowStore makes xenstored wait before each request.
func (s *Server) SlowStore(delay time.Duration) { s.store.SetDelay(delay) }

// DeadStore makes xenstored stop answering, or answer again, beginning with what it
// was asked meanwhile.
func (s *Server) DeadStore(dead bool) { s.store.SetDead(dead) }

// HoldEvents keeps the watch events of dom back, or gives them out, beginning with those
// that came meanwhile. It is what Linux does to a guest while one of its drivers waits in
// the handler of an event of its own: to end a watch waits, too, and all other requests
// are answered.
func (s *Server) HoldEvents(dom xen.DomID, hold bool) { s.store.HoldEvents(uint16(dom), hold) }

// FailGrants makes every allocation of grants fail with [xen.ErrGrantLimit], as when
// others in the guest have used the limit up.
func (s *Server) FailGrants(fail bool) {
	s.hypervisor.mu.Lock()
	defer s.hypervisor.mu.Unlock()
	s.hypervisor.noRoom = fail
}
