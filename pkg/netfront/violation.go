package netfront

import (
	"errors"
	"fmt"
)

// ErrViolation says that the backend broke the protocol in a way that leaves a
// ring's contents without meaning. The connection ends; the reason is in the error.
var ErrViolation = errors.New("the backend violated the protocol")

func violation(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrViolation, fmt.Errorf(format, args...))
}
