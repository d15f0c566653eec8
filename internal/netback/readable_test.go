package netback

import (
	"context"
	"time"

	"golang.org/x/sys/unix"
)

// waitReadable returns a channel that is closed when fd is readable or ctx ends.
func waitReadable(ctx context.Context, fd int) <-chan struct{} {
	done := make(chan struct{})
	timeout := 1
	if at, ok := ctx.Deadline(); ok {
		timeout = max(1, int(time.Until(at)/time.Millisecond))
	}
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	unix.Poll(p, timeout)
	close(done)
	return done
}
