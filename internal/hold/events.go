package hold

import (
	"strings"

	"go.uber.org/zap"
)

// Events of a log line's field message_id: what the journal has as MESSAGE_ID, and what
// docs/log.md and the journal's catalog (deploy/catalog) explain. They are random 128-bit
// numbers (systemd-id128 new), and never change.
const (
	// EventHolderReady: The daemon has a holder: a restart or a crash does not cost the
	// connections. Fields: XNF_SOCKET.
	EventHolderReady = "4b7e52fe24e4461b96ac531bd3c22a2b"

	// EventNoHolder: There is no holder. Everything works, but a restart or a crash ends
	// the connections. Fields: XNF_SOCKET, XNF_ERROR.
	EventNoHolder = "25a1e6bfa3a54fb58735b867ba63b33a"

	// EventHolderStays: The holder was told to end, and does not: with it the connections
	// would end, or after a restore the guest's kernel. Fields: XNF_SIGNAL, XNF_HELD.
	EventHolderStays = "9a0756f9f035417c832e28899a05501a"

	// EventBundle: The holder was given descriptors, or may let go of them. Fields:
	// XNF_KEY, XNF_DESCRIPTORS, XNF_PID.
	EventBundle = "a878bfe5cd8e4ce38ee205472200b7ac"

	// EventHolderFault: A fault of the holder was caught. It costs one connection to it.
	// Fields: XNF_FAULT, XNF_STACK.
	EventHolderFault = "90d854e4453a46698f3324625a03e9e7"
)

// event is the field that says what kind of event a log line is of.
func event(id string) zap.Field { return zap.String("message_id", id) }

// problem is an error as a field: one line.
func problem(err error) zap.Field {
	return zap.String("error", strings.ReplaceAll(err.Error(), "\n", "; "))
}
