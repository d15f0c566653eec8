package netfront

import (
	"fmt"
	"runtime/debug"
)

// panicError is a fault of this package that was caught in a worker.
type panicError struct {
	value string
	stack string
}

func (e *panicError) Error() string { return "panic: " + e.value }

// guarded is run, with a panic for an error: a fault that a backend finds costs it its
// connection, and the process's other vifs nothing. What the worker has left half-done
// goes with the connection; the next one begins with rings and maps of its own.
func (w *worker) guarded() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &panicError{fmt.Sprint(p), string(debug.Stack())}
		}
	}()
	return w.run()
}
