package logging

import "go.uber.org/zap"

// Events of a command. Those of the daemon are in package daemon.
const (
	// EventFailed: A command of the program could not do what it was asked for. With exit
	// code 2 it was asked for in a way that cannot be right: a mistake in the
	// configuration. With 3 this machine or its kernel cannot do it. Fields: XNF_EXIT_CODE.
	EventFailed = "69649f3e7925416eae1fa82e8c3b7330"

	// EventNoJournal: The log was to go to the journal's own socket, which is not there.
	// It goes to standard error, as JSON. Fields: XNF_ERROR.
	EventNoJournal = "3e3fdbd01e9e4f2691bc9359b9c32427"
)

// Event is the field with the kind of event that a log line is of: what the journal has as
// MESSAGE_ID.
func Event(id string) zap.Field { return zap.String("message_id", id) }
