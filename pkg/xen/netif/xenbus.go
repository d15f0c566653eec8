package netif

import (
	"fmt"
	"strconv"
)

// State is a device's state in xenstore (xen/include/public/io/xenbus.h). Each side
// writes its own and watches the other's.
type State int

// States.
const (
	StateUnknown       State = 0
	StateInitialising  State = 1
	StateInitWait      State = 2
	StateInitialised   State = 3
	StateConnected     State = 4
	StateClosing       State = 5
	StateClosed        State = 6
	StateReconfiguring State = 7
	StateReconfigured  State = 8
)

var stateNames = [...]string{"Unknown", "Initialising", "InitWait", "Initialised",
	"Connected", "Closing", "Closed", "Reconfiguring", "Reconfigured"}

// String returns the state's name as xenbus.h has it.
func (s State) String() string {
	if s < 0 || int(s) >= len(stateNames) {
		return "state " + strconv.Itoa(int(s))
	}
	return stateNames[s]
}

// ParseState decodes the value of a state node.
func ParseState(v string) (State, error) {
	n, err := strconv.Atoi(v)
	if err != nil || n < 0 || n >= len(stateNames) {
		return StateUnknown, fmt.Errorf("netif: %q is not a xenbus state (0 to %d)", v, len(stateNames)-1)
	}
	return State(n), nil
}

// Names of nodes, in the frontend's directory unless it says otherwise.
const (
	KeyState     = "state"
	KeyBackend   = "backend"    // path of the backend's directory; the toolstack's
	KeyBackendID = "backend-id" // its domid; the toolstack's
	KeyHandle    = "handle"     // the toolstack's
	KeyMAC       = "mac"        // the toolstack's; also in the backend's directory
	KeyMTU       = "mtu"        // the toolstack's; also in the backend's directory
	KeyTrusted   = "trusted"    // the toolstack's; "0": do not trust the backend
	// KeyDisconnect is XAPI's: "1" while the vif is disabled, so that the guest shall see
	// no carrier, else "0".
	KeyDisconnect = "disconnect"

	KeyTxRingRef      = "tx-ring-ref"
	KeyRxRingRef      = "rx-ring-ref"
	KeyEventChannel   = "event-channel"
	KeyEventChannelTx = "event-channel-tx"
	KeyEventChannelRx = "event-channel-rx"
	KeyNumQueues      = "multi-queue-num-queues"
	KeyRequestRxCopy  = "request-rx-copy"
	KeyRxNotify       = "feature-rx-notify"
	KeyNoCsumOffload  = "feature-no-csum-offload"
	KeyIPv6Csum       = "feature-ipv6-csum-offload" // both directories
	KeySG             = "feature-sg"                // both directories
	KeyGSOTCPv4       = "feature-gso-tcpv4"         // both directories
	KeyGSOTCPv6       = "feature-gso-tcpv6"         // both directories

	// In the backend's directory only.
	KeyRxCopy        = "feature-rx-copy"
	KeyRxFlip        = "feature-rx-flip"
	KeySplitChannels = "feature-split-event-channels"
	KeyMaxQueues     = "multi-queue-max-queues"
	KeyMcastControl  = "feature-multicast-control"
	KeyDynMcast      = "feature-dynamic-multicast-control"
	KeyCtrlRing      = "feature-ctrl-ring"
	KeyXDPHeadroom   = "feature-xdp-headroom"
	KeyHotplugStatus = "hotplug-status"
	KeySmartPoll     = "feature-smart-poll" // Mirage's backend only
	KeyRate          = "rate"               // "bytes,microseconds"
	KeyOnline        = "online"
	KeyFrontend      = "frontend"
	KeyFrontendID    = "frontend-id"

	// Further frontend keys, of features that are not negotiated here. They are
	// removed at connect, since a previous owner of the vif may have left them.
	KeyRequestMcast     = "request-multicast-control"
	KeyCtrlRingRef      = "ctrl-ring-ref"
	KeyEventChannelCtrl = "event-channel-ctrl"
	KeyXDPHeadroomReq   = "xdp-headroom"
	KeyGSOTCPv4Prefix   = "feature-gso-tcpv4-prefix"
	KeyGSOTCPv6Prefix   = "feature-gso-tcpv6-prefix"
)

// QueueDir is the name of queue n's directory below the frontend's, used when there
// are two queues or more.
func QueueDir(n int) string { return "queue-" + strconv.Itoa(n) }
