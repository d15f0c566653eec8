// Package failure has the errors that a command ends with: each kind has an exit code of
// its own, and several errors that have nothing to do with each other get a line each.
package failure

import (
	"errors"
	"fmt"
)

// Exit codes.
const (
	ExitRuntime = 1 // it could not be done
	ExitUsage   = 2 // it was asked for in a way that cannot be right
	ExitMachine = 3 // it cannot be done on this machine, or with this kernel
)

// usageError is an error of what was asked for.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// Usage makes err an error of what was asked for: exit code 2.
func Usage(err error) error { return usageError{err} }

// Usagef is [Usage] of a text.
func Usagef(format string, args ...any) error { return Usage(fmt.Errorf(format, args...)) }

// machineError is an error of the machine or its kernel.
type machineError struct{ error }

func (e machineError) Unwrap() error { return e.error }

// Machine makes err an error that stays until the machine runs another kernel, or is
// another machine: exit code 3. A start that is tried again fails again.
func Machine(err error) error { return machineError{err} }

// Machinef is [Machine] of a text.
func Machinef(format string, args ...any) error { return Machine(fmt.Errorf(format, args...)) }

// OfMachine tells whether err is one of [Machine].
func OfMachine(err error) bool {
	var machine machineError
	return errors.As(err, &machine)
}

// Reported is an error that was reported already. Its value is the exit code.
type Reported int

func (e Reported) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// Code is the exit code for an error.
func Code(err error) int {
	var reported Reported
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &reported):
		return int(reported)
	case errors.As(err, &usage):
		return ExitUsage
	case OfMachine(err):
		return ExitMachine
	}
	return ExitRuntime
}

// Several are errors that are reported on a line each, as those of vifs that have nothing
// to do with each other.
type Several []error

func (e Several) Error() string   { return errors.Join(e...).Error() }
func (e Several) Unwrap() []error { return e }

// OrNil is nil if there are none.
func (e Several) OrNil() error {
	if len(e) == 0 {
		return nil
	}
	return e
}

// Add adds err. Of [Several], and of those that were joined with them, it adds each.
func (e *Several) Add(err error) {
	var several Several
	joined, ok := err.(interface{ Unwrap() []error })
	switch {
	case err == nil:
	case ok && errors.As(err, &several):
		for _, err := range joined.Unwrap() {
			e.Add(err)
		}
	default:
		*e = append(*e, err)
	}
}
