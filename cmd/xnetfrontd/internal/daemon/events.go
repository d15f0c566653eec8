package daemon

import (
	"errors"

	"github.com/xnetfrontd/xnetfrontd/pkg/netfront"
	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

// Events of a log line's field message_id: what the journal has as MESSAGE_ID, and what
// docs/log.md and the journal's catalog (deploy/catalog) explain. They are random 128-bit
// numbers (systemd-id128 new), and never change.
// Those of a connection are in pkg/netfront, those of the holder in internal/hold.
const (
	// eventReady: The daemon has started: the TAP of each vif that is there exists. The
	// backends may still be missing. Fields: XNF_VERSION, XNF_CONTROL.
	eventReady = "5a3ee408f2ae41e9a716441519e82753"

	// eventStopping: Somebody has told the daemon to stop, or to leave everything to the
	// next process. Fields: XNF_SIGNAL.
	eventStopping = "fb7c0f22119e441e89207f73f42ebd0a"

	// eventStopped: The daemon has ended. Unless it has left them to the next process, the
	// vifs are as the toolstack made them. Fields: XNF_LEFT_TO_THE_NEXT.
	eventStopped = "d6409e84f4df411cbacabc2c0b55c84b"

	// eventForced: The daemon ended without closing the vifs. The kernel frees what it
	// had. Fields: XNF_SIGNAL, XNF_LIMIT.
	eventForced = "c07f1530b9ab4eee8764082e74db737e"

	// eventNotClosed: The daemon stops. This vif's backend, Mirage's, removes the vif when it
	// is closed, so it stays with the holder, as with a restart.
	eventNotClosed = "a765f0d72b4380e2d5c8edbf5415e848"

	// eventNotClean: A vif was closed, and something of it could not be given back.
	// Fields: XNF_ERROR.
	eventNotClean = "320badab3eca485584e02f5a04b0c396"

	// eventConfigRead: A reload: what has changed is in force. Fields: XNF_TABLES.
	eventConfigRead = "fd476204fe054ca783544417086c7c78"

	// eventConfigRefused: A reload found a mistake. Nothing was changed. Fields:
	// XNF_ERROR.
	eventConfigRefused = "a85232124c244f1789f407e0a81c3622"

	// eventNeedsRestart: A reload found a change that a running daemon does not make.
	eventNeedsRestart = "7e8ebc5ffb5242c8a683e2ffc29bacf5"

	// eventVifWanted: A table of the configuration names a vif that the guest does not
	// have. Fields: XNF_NOW.
	eventVifWanted = "6bd7175c4ea84b3aa3adc5e9028d05eb"

	// eventVifGone: The toolstack has detached a vif that is served. Fields:
	// XNF_TAP_STAYS.
	eventVifGone = "71b9c4cfee164953b4877f07ea96308f"

	// eventVifBack: It is attached again. Fields: XNF_NUMBER.
	eventVifBack = "d2d654d9115e4f65bafde5fb795f4726"

	// eventVifLeft: A vif is closed: it is gone for longer than its table says, or the
	// configuration has changed.
	eventVifLeft = "c84b8a80cbf545bbbd535ee62d877b31"

	// eventNotServed: A vif cannot be served. It is tried again, at growing intervals; the
	// same reason is said once. Fields: CAUSE=error or CAUSE=xenstore, XNF_ERROR,
	// XNF_RETRY_IN.
	eventNotServed = "9d738a1efdcf43e995b87c244d3a9301"

	// eventTAPLost: Somebody has removed the vif's TAP. It is made anew, without its
	// addresses. Fields: CAUSE=tap-lost, XNF_ERROR, XNF_RETRY_IN.
	eventTAPLost = "8f03a82c39cd4060a97ada877e5d3fb5"

	// eventStale: The holder had the connection of a vif that the configuration does not
	// have any more. It is closed. Fields: XNF_KEY.
	eventStale = "20521d922c5846f5bf4e3d7e3800f57a"

	// eventNotTidied: The holder had the connection of a vif that the configuration does
	// not have any more, and it could not be closed. Fields: XNF_KEY, XNF_ERROR.
	eventNotTidied = "ed783cce55ce47b3bdaaf44a996125a5"

	// eventUnwatched: The connection to xenstore was lost, so that vifs that come or go
	// are not noticed. It is tried again. Fields: XNF_ERROR, XNF_RETRY_IN.
	eventUnwatched = "d8ac869676a243769fa29064f96ee5a4"

	// eventLate: Changes in xenstore are not announced, to any program of this guest: a driver
	// of the kernel's waits for its backend where it should pass them on. The daemon looks by
	// itself every few seconds meanwhile.
	eventLate = "13f5495ba81e4026831eee269f8b2a43"

	// eventInTime: Changes in xenstore are announced again. Fields: XNF_FOR.
	eventInTime = "75dffb2405104fe6a52615a1c357f6c4"

	// eventUnfed: A worker does not answer. systemd will tell the daemon to leave everything
	// to the next one, and kill it if it cannot; the next one goes on from there. Fields:
	// XNF_ERROR, XNF_LIMIT, XNF_STACK.
	eventUnfed = "3e67313909a242068f6502ae185d14f7"

	// eventFault: A fault of this program was caught while it answered a request, which got
	// no answer. No vif lost anything. Fields: XNF_REQUEST, XNF_ERROR, XNF_STACK.
	eventFault = "fbafd9aa58664bad9cb77069a763fcd0"
)

// notServed returns the event of a vif that is not served, and its cause in one word.
func notServed(err error) (event, cause string) {
	var p *panicError
	switch {
	case errors.As(err, &p):
		return netfront.EventPanic, "panic"
	case errors.Is(err, tap.ErrLinkGone):
		return eventTAPLost, "tap-lost"
	case errors.Is(err, xenstore.ErrClosed):
		return eventNotServed, "xenstore"
	}
	return eventNotServed, "error"
}
