package netfront

import (
	"fmt"
	"runtime/debug"
)

// panicError is a fault of this package that was caught in a goroutine of a connection.
type panicError struct {
	value string
	stack string
}

func (e *panicError) Error() string { return "panic: " + e.value }

// caught makes an error of the value of a panic, if it is one; it is called from where the stack
// still shows the panic.
func caught(value any) error {
	if value == nil {
		return nil
	}
	return &panicError{fmt.Sprint(value), string(debug.Stack())}
}

// guarded is run, with a panic for an error: a fault that a backend finds costs it its
// connection, and the process's other vifs nothing. What the worker has left half-done
// goes with the connection; the next one begins with rings and maps of its own.
func (w *worker) guarded() (err error) {
	defer func() {
		if p := caught(recover()); p != nil {
			err = p
		}
	}()
	return w.run()
}
