package tap

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/vishvananda/netns"
)

// namespace is the network namespace in which a link was made. /dev/net/tun looks a
// name up in the namespace of the thread that opens it, and goroutines wander between
// threads, so everything that opens a queue goes through run.
type namespace struct {
	handle netns.NsHandle
}

// currentNamespace is the calling thread's. The caller has locked its goroutine to it.
func currentNamespace() (namespace, error) {
	h, err := netns.Get()
	if err != nil {
		return noNamespace(), fmt.Errorf("open network namespace: %w", err)
	}
	return namespace{handle: h}, nil
}

// noNamespace is what close takes for closed. (The zero handle is descriptor 0.)
func noNamespace() namespace { return namespace{handle: netns.None()} }

func (n *namespace) close() error {
	if !n.handle.IsOpen() {
		return nil
	}
	if err := n.handle.Close(); err != nil {
		return fmt.Errorf("close network namespace: %w", err)
	}
	return nil
}

// run calls f on a thread that is in the namespace, which a thread of an ordinary
// process always is: then nothing is switched and no privilege is needed (setns wants
// CAP_SYS_ADMIN). f runs in a goroutine of its own, so that a thread which cannot be
// brought back dies with it and never runs anything else.
func (n namespace) run(f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		back, err := n.enter(f)
		if back {
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	return <-result
}

// errEnter says that a thread could not be brought into a network namespace.
var errEnter = errors.New("enter the link's network namespace")

// enter calls f in the namespace, on the calling thread, and says whether the thread
// is where it was.
func (n namespace) enter(f func() error) (back bool, err error) {
	here, err := netns.Get()
	if err != nil {
		return true, fmt.Errorf("open network namespace: %w", err)
	}
	defer here.Close()
	if here.Equal(n.handle) {
		return true, f()
	}
	if err := netns.Set(n.handle); err != nil {
		return true, fmt.Errorf("%w: %w", errEnter, err)
	}
	err = f()
	return netns.Set(here) == nil, err
}
