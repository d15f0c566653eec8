package netfront

import (
	"errors"
	"strings"
	"testing"
)

func TestPanicOfAWorkerIsAnErrorWithItsStack(t *testing.T) {
	w := &worker{done: make(chan struct{})} // without a poller, which is a fault
	failed := make(chan error, 1)
	w.start(func(err error) { failed <- err })
	var p *panicError
	if err := <-failed; !errors.As(err, &p) || !strings.Contains(p.stack, "(*worker).run") || strings.Contains(err.Error(), "\n") || cause(err) != "panic" {
		t.Errorf("%v", err)
	}
	<-w.done
}
