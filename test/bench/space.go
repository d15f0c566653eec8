package main

import (
	"fmt"

	"github.com/vishvananda/netns"

	"github.com/xnetfrontd/xnetfrontd/internal/netspace"
)

// space is a network namespace. What is started there dies with this process.
type space struct {
	*netspace.Space
	handle netns.NsHandle
}

func newSpace() (*space, error) {
	inner, err := netspace.New()
	if err != nil {
		return nil, fmt.Errorf("%w (root is needed)", err)
	}
	s := &space{Space: inner}
	err = s.Do(func() (err error) {
		s.handle, err = netns.Get()
		return err
	})
	if err != nil {
		inner.Close()
		return nil, err
	}
	return s, nil
}

// close lets go of the namespace, which ends with the last process in it.
func (s *space) close() {
	s.handle.Close()
	s.Close()
}

// packets is how many frames went over a link so far, both ways. A super-frame is
// one.
func (s *space) packets(name string) (uint64, error) {
	link, err := s.Links.LinkByName(name)
	if err != nil {
		return 0, fmt.Errorf("find %s: %w", name, err)
	}
	st := link.Attrs().Statistics
	if st == nil {
		return 0, fmt.Errorf("link %s has no statistics", name)
	}
	return st.RxPackets + st.TxPackets, nil
}
