// Package netfront is the frontend of a Xen virtual network interface: it takes a
// vif, negotiates with the backend over xenstore, grants pages, binds event
// channels, and carries Ethernet frames between the shared rings and a TAP.
//
// A [Device] is one vif on one TAP. Its goroutine is the only one that speaks to
// xenstore for it and that makes and ends queue pairs. Each pair has a txQueue
// (TAP to ring) and an rxQueue (ring to TAP); each of them is a state machine owned
// by exactly one worker goroutine, with its ring, its DMA tag, its pool of maps and
// its counters, so nothing in them is locked. The two talk only through a worker's
// control word and wake-up descriptor, and through the worker's one error.
//
//	            Device (xenbus states, negotiation, reconnect)
//	              │ control word + eventfd          ▲ first error
//	              ▼                                 │
//	TAP queue → worker: txQueue → tx ring → backend │
//	TAP queue ← worker: rxQueue ← rx ring ← backend ┘
//
// The backend is not trusted. A slot is copied once out of the ring and checked
// before it means anything; nothing that a backend writes can make this package
// panic, loop or touch memory that is not the map the slot stands for. A violation
// ends the connection, never the process.
//
// # Stability
//
// From version 1.0.0 of the module on, [Device], [Config] and [Inspect] with what they take and
// return follow Go's rules of compatibility, and so do the message identifiers of the log. Names of
// counters and causes can be added. Other exported names are for the daemon, and can change with a
// minor version: those of a hand-over ([Holder], [Discard], [CheckState]), of a capture, and of taking
// vifs from other frontends ([Rewind], [Release]).
package netfront
