package xensim

import "time"

// FailCommits makes the next n commits of xenstore transactions, whoever sends them,
// fail with EAGAIN.
func (s *Server) FailCommits(n int) { s.store.FailCommits(n) }

// SlowStore makes xenstored wait before each request.
func (s *Server) SlowStore(delay time.Duration) { s.store.SetDelay(delay) }

// DeadStore makes xenstored stop answering, or answer again, beginning with what it
// was asked meanwhile.
func (s *Server) DeadStore(dead bool) { s.store.SetDead(dead) }

// FailGrants makes every allocation of grants fail with [xen.ErrGrantLimit], as when
// others in the guest have used the limit up.
func (s *Server) FailGrants(fail bool) {
	s.hypervisor.mu.Lock()
	defer s.hypervisor.mu.Unlock()
	s.hypervisor.noRoom = fail
}
