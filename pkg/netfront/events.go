package netfront

import (
	"strings"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Events of a log line's field message_id: what the journal has as MESSAGE_ID, and what
// docs/log.md and the journal's catalog (deploy/catalog) explain. They are random 128-bit
// numbers (systemd-id128 new), and never change.
const (
	// EventConnected: The backend and the daemon are connected, and frames pass. Fields:
	// BACKEND, XNF_QUEUES, XNF_FEATURES, XNF_MISSING.
	EventConnected = "f36efdb79871426593557db478347d51"

	// EventTakenOver: After a restart, an upgrade or a crash this process goes on with the
	// connection of the one before. Fields: BACKEND, XNF_QUEUES, XNF_FEATURES.
	EventTakenOver = "18e878bd227d4f2fb444a591503d66ad"

	// EventLeft: A restart or an upgrade: rings, event channels and TAP wait for the next
	// process.
	EventLeft = "12f23e6ed7ed4a2dbe695dce253550d5"

	// EventNotTakenOver: What the process before had left cannot be gone on with, and is
	// made anew. What was in flight is lost; with a new TAP, addresses and sockets too.
	// Fields: XNF_ERROR.
	EventNotTakenOver = "5958e60a9d10401db5f6df0ab8f90c4b"

	// EventNotHeld: The holder does not have what the next process needs to go on. Fields:
	// XNF_ERROR, XNF_KEY.
	EventNotHeld = "7b64d36592a5459897bc895f9c15c287"

	// EventWaiting: The toolstack has detached the vif. The TAP stays, without carrier.
	EventWaiting = "d5051745998841b6bfaf3da56cc74487"

	// EventRenumbered: The vif was attached again under another number. VIF of later lines
	// is still the old one; TAP is the same. Fields: XNF_NUMBER.
	EventRenumbered = "608e2ff420ef4443a3385b5c752a7ba2"

	// EventOtherMAC: The TAP has another address than the toolstack gave the vif: somebody
	// has changed it. A backend's domain that checks senders' addresses drops its frames.
	// It is said once for each address.
	// Fields: XNF_LINK_MAC, XNF_MAC.
	EventOtherMAC = "d8c9d2a258824b22ab96837e1cac81f3"

	// EventChanged: The toolstack has given the vif another address or MTU than before, as when
	// it is attached anew. The TAP has them from now on, except for what XNF_TAP_KEEPS says.
	// Fields: XNF_MAC, XNF_MTU, XNF_MAC_BEFORE, XNF_MTU_BEFORE, XNF_TAP_KEEPS.
	EventChanged = "e949ab385ac64b3990beeef55b0423c0"

	// EventIdentity: What the toolstack says of the vif is no address. The vif is served with
	// what was known of it before. Fields: XNF_ERROR.
	EventIdentity = "7db7e0fa0e9d42799dd56f24285b201e"

	// EventMTU: What the toolstack says of the vif's MTU is none, or one with which Linux would
	// take IPv6 off the TAP; or the backend takes no frames as large as that. The vif is served
	// with the MTU in XNF_MTU. Fields: XNF_ERROR, XNF_MTU.
	EventMTU = "567e983d7c4c473a81ef133149b494ac"

	// EventRenamed: Somebody has given the TAP another name. Nothing else changes, and TAP of
	// later lines is the new name. Fields: XNF_NAME_BEFORE.
	EventRenamed = "41dedd664cc441738978df60e0f63128"

	// EventMoved: Somebody has moved the TAP to another network namespace, or back. It is
	// served where it is. Fields: XNF_NETNS.
	EventMoved = "65596e5645004251a0ab38d826459274"

	// EventKept: In the network namespace to which the TAP was moved, this process may not
	// change its settings, nor open queues. It is served with those that it has. Fields:
	// XNF_QUEUES, XNF_ERROR.
	EventKept = "929245f309934b5a8fccda26492335ad"

	// EventNotReported: The toolstack could not be told the guest's addresses, for the reason
	// in XNF_ERROR. It is tried again every 5 s, and said once. Fields: XNF_ERROR.
	EventNotReported = "74107961ed994a5d935a85a0d21c01d4"

	// EventNoUring: The kernel or a sandbox does not let this process use io_uring, which
	// carries many frames with one system call, or does so again. Everything works without,
	// and a small frame costs more. What changes while the TAP is served counts from the
	// next connection. Fields: XNF_ERROR.
	EventNoUring = "d3cd1b6d167645d6a934478bb0e40d2e"

	// EventAwaits: For 5 s the backend has not done what has to come next, and is waited for
	// without an end: XNF_AWAITS says what it lacks. Fields: XNF_AWAITS.
	EventAwaits = "828b5a45b8f440d6b2df547f2f67b4db"

	// EventDisabled: The toolstack has disabled the vif, which stays attached: the TAP has
	// no carrier, and its frames would be dropped.
	EventDisabled = "7e861cb08cdb4b7a829c633b3d6e4965"

	// EventEnabled: The toolstack has enabled the vif again: carrier, and the guest's
	// addresses are announced.
	EventEnabled = "0cf6ed576b60449d9ac30d30f0d668f9"

	// EventUnbound: The backend's driver has let the vif go and will take it again. The
	// TAP has no carrier meanwhile.
	EventUnbound = "539b954adf97472c873f40a1fcd10d53"

	// EventBack: The backend goes on with the same rings.
	EventBack = "75364428a94845dc915dbea4c8dece97"

	// EventStalled: A queue has work to do, and for so long nobody has done any of it.
	// Both sides are woken. If that does not help, the connection is made anew. Fields:
	// QUEUE, XNF_RING, XNF_FOR, XNF_SHARED, XNF_TX, XNF_RX.
	EventStalled = "1df67f6e69cb46e9a3e6722ac5320305"

	// EventUnanswered: The backend has had a frame for so long, and a kick did not help.
	// Either a receiver behind it keeps the frame, or nobody serves the ring; the state of
	// a netback whose driver was unbound still says Connected. Fields: QUEUE, XNF_FOR.
	EventUnanswered = "c0596bd302ab4a70f61c6e52ad7c8727"

	// EventShaped: The backend takes less than the guest can send: by the limit that the
	// toolstack gave it (mode rate), or as measured. The guest's frames wait in the queueing
	// discipline of its TAP now, where their senders feel it. Fields: XNF_MODE,
	// XNF_BYTES_PER_SECOND.
	EventShaped = "c7bc6612adf3429fadf67bce4a1661c0"

	// EventNotShaped: The backend takes less than the guest can send, and the guest's frames
	// wait in the TAP and on the ring, for the reason in XNF_ERROR: somebody has set the
	// TAP's queueing discipline, or the kernel lacks one. Fields: XNF_ERROR.
	EventNotShaped = "a42a3d7b878e4eb598e6cd7cfb1f5569"

	// EventReduced: The guest may not grant as many pages as were needed: fewer queues, or
	// rings that are not full. It works, more slowly. Fields: XNF_LIMIT, XNF_NEEDED,
	// XNF_QUEUES, XNF_BUFFERS.
	EventReduced = "751d5fc2156f4af7b0622d4a15cdce1e"

	// EventParked: After a restore or a migration the holder keeps the event channels of
	// before, which Linux cannot release.
	EventParked = "0b9716b94a4d4e27ac0bb076d9842d14"

	// EventNotParked: After a restore or a migration, and there is no holder to keep the
	// event channels of before: this process keeps them, and must not end before the guest
	// does.
	EventNotParked = "d8607b3091d14291adef2fe0385a0bc7"

	// EventDisconnected: The connection ended, or did not come about, for the reason in
	// XNF_ERROR. The next attempt follows. Fields: BACKEND, CAUSE=error, XNF_ERROR, XNF_RETRY_IN.
	EventDisconnected = "89a61ed1e4e54abb878f652a1d2f4854"

	// EventBackendClosed: The backend has closed the vif: its domain restarts or has
	// crashed, or its driver was removed. Or it was started anew and does not go on with the
	// rings. Fields: BACKEND, CAUSE=backend-closed or CAUSE=backend-restarted, XNF_ERROR,
	// XNF_RETRY_IN.
	EventBackendClosed = "63eb87d8ed8d4049a2b0e6218bb8dfc3"

	// EventDetached: The toolstack has taken the vif away, or given it another backend.
	// The TAP stays, without carrier. Fields: BACKEND, CAUSE=detached, XNF_ERROR, XNF_RETRY_IN.
	EventDetached = "9fa2121a43bc4788870bbbe9728a4e71"

	// EventViolation: The backend has broken the protocol: XNF_ERROR says what it did.
	// Nothing it did got through. The connection is made anew, at growing intervals.
	// Fields: BACKEND, CAUSE=violation, XNF_ERROR, XNF_RETRY_IN.
	EventViolation = "8fd6b7044bcd4f9183437adad5d68420"

	// EventEvidence: What the rings of the queue hold in which the backend broke the protocol,
	// as the workers left them. Fields: QUEUE, XNF_TX, XNF_RX.
	EventEvidence = "34bbf5d77e3f42b8b2e830204eccfb5a"

	// EventOff: The backend broke the protocol too often, or backends keep too many pages
	// mapped that were given back: nothing is tried with it any more. The TAP stays, without
	// carrier. Fields: BACKEND, XNF_BECAUSE.
	EventOff = "b815755f5d0c87614a1a41d74b2e1b2d"

	// EventRetry: An administrator has the vif served again, as if the backend had done
	// nothing.
	EventRetry = "f897c5fe529feafd52d52a903bcdec99"

	// EventPagesLeft: Pages that were granted to a backend's domain cannot be used for
	// anything else, since it keeps them mapped. When it lets go, or ends, the kernel has them
	// back. Fields: XNF_BECAUSE, XNF_GIVEN_BACK, XNF_LEFT, XNF_ERROR.
	EventPagesLeft = "4d34e4779677c8c6b5633de57dc62bd0"

	// EventRate: The backend's node rate is no limit that can be meant, and is taken for none.
	// Fields: XNF_ERROR.
	EventRate = "11ade391ae88c1a32c457201aef5540d"

	// EventStuck: The backend says it is connected, and does not serve a ring. The
	// connection is made anew. Fields: BACKEND, CAUSE=stalled or CAUSE=no-progress, XNF_ERROR,
	// XNF_RETRY_IN.
	EventStuck = "725512e05c234b9d97b07326eefcfcbf"

	// EventRestored: The guest was restored from a save, or has migrated: the connection
	// of before is gone with its backend. Fields: BACKEND, CAUSE=restored, XNF_ERROR, XNF_RETRY_IN.
	EventRestored = "a8cfd3d0cdeb4bd6befa9dd47e1acfe6"

	// EventGrants: The guest may not grant pages enough for even one queue. Fields:
	// BACKEND, CAUSE=grants, XNF_ERROR, XNF_RETRY_IN.
	EventGrants = "44b245e4eb874eaf91f8affc8229f0e8"

	// EventPanic: A fault of this program was caught. It costs this vif its connection,
	// and no other vif anything. Fields: CAUSE=panic, XNF_ERROR, XNF_STACK, XNF_RETRY_IN.
	EventPanic = "d21c6dfea2d34564883e2f341adcf2fb"

	// EventNotLeft: At the end of a connection the keys of the vif could not be removed, or
	// the backend did not close it.
	// Fields: XNF_ERROR.
	EventNotLeft = "8903dc2002124aec932e2541da9b1db9"
)

// event is the field that says what kind of event a log line is of.
func event(id string) zap.Field { return zap.String("message_id", id) }

// problem is an error as a field: one line, also for what errors.Join has made of
// several.
func problem(err error) zap.Field {
	return zap.String("error", strings.ReplaceAll(err.Error(), "\n", "; "))
}

// ending is how the end of a connection is logged: what an administrator must see to is
// an error, what heals by itself a warning.
func ending(cause string) (event string, level zapcore.Level) {
	switch cause {
	case "panic":
		return EventPanic, zapcore.ErrorLevel
	case "violation":
		return EventViolation, zapcore.ErrorLevel
	case "grants":
		return EventGrants, zapcore.ErrorLevel
	case "restored":
		return EventRestored, zapcore.InfoLevel
	case "detached":
		return EventDetached, zapcore.WarnLevel
	case "backend-closed", "backend-restarted":
		return EventBackendClosed, zapcore.WarnLevel
	case "stalled", "no-progress":
		return EventStuck, zapcore.WarnLevel
	}
	return EventDisconnected, zapcore.WarnLevel
}
