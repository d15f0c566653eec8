// Package control asks a running xnetfrontd over its control socket: what it does, and
// to do something else. [Client] is all that most programs need.
//
// The socket is a unix stream socket. A client writes a [Request] as one line of JSON and
// reads a [Response] as one line of JSON, as often as it likes on one connection:
//
//	→ {"version":1,"op":"status"}
//	← {"version":1,"status":{...}}
//	→ {"version":1,"op":"kick","vif":"7"}
//	← {"version":1,"error":"no vif \"7\": the daemon has vifs 0, 1"}
//
// Who may open the socket is its mode, 0660. Who may use the ops that change something
// or show what is in frames is said at each: those are for root and for the daemon's own
// user, by the credentials of the process that connected (SO_PEERCRED of unix(7)).
package control

import "github.com/xnetfrontd/xnetfrontd/pkg/netfront"

// Version is the protocol's. A server refuses a request with another one, and says
// which it speaks.
const Version = 1

// MaxRequest is the longest request in bytes, its newline among them.
const MaxRequest = 4096

// What can be asked for.
const (
	// OpStatus asks for the daemon's [Status].
	OpStatus = "status"
	// OpDump asks for the rings of Request.Vif.
	OpDump = "dump"
	// OpKick has the daemon notify the backend of Request.Vif and look at everything
	// itself, as if no event could be relied on. For root.
	OpKick = "kick"
	// OpRetry has the daemon forget what the backend of Request.Vif has done, and take the
	// vif up again if it is off. For root.
	OpRetry = "retry"
	// OpReload has the daemon read its configuration again, as SIGHUP does. The response
	// comes when it goes by that, or says why it still goes by the one before. For root.
	OpReload = "reload"
	// OpCapture asks for what crosses the rings of Request.Vif. After a response without
	// an error the connection carries nothing but a pcapng stream, until the client closes
	// it. For root.
	OpCapture = "capture"
)

// Request asks for one thing. A vif is named by its number, its MAC address or its TAP.
type Request struct {
	Version int    `json:"version"`
	Op      string `json:"op"`
	// CaptureRequest is for OpCapture. Of it, Vif is for OpDump, OpKick and OpRetry too.
	CaptureRequest
}

// CaptureRequest says what of a vif's frames is wanted. The zero values of all but Vif
// mean everything. A frame must be all that Host, Port, Proto, Ether and BPF say.
type CaptureRequest struct {
	Vif       string `json:"vif,omitempty"`
	SnapLen   int    `json:"snaplen,omitempty"`   // bytes to keep of each frame
	Queues    []int  `json:"queues,omitempty"`    // numbers
	Direction string `json:"direction,omitempty"` // "tx", from the TAP to the ring, or "rx"

	Host  string `json:"host,omitempty"`  // an address, or a network as in 192.0.2.0/24: source or destination
	Port  int    `json:"port,omitempty"`  // of TCP or UDP: source or destination
	Proto string `json:"proto,omitempty"` // arp, ip, ip6, icmp, icmp6, tcp or udp
	Ether string `json:"ether,omitempty"` // a MAC address: source or destination
	BPF   string `json:"bpf,omitempty"`   // classic BPF as tcpdump -ddd prints it, with commas or line ends

	Count   uint64  `json:"count,omitempty"`   // frames to end after
	Seconds float64 `json:"seconds,omitempty"` // to end after
	Buffer  int     `json:"buffer,omitempty"`  // bytes for frames on their way from one queue and direction
}

// Response answers one Request: either Error, one line, or what was asked for. That it
// was done needs no field.
type Response struct {
	Version int            `json:"version"`
	Error   string         `json:"error,omitempty"`
	Status  *Status        `json:"status,omitempty"`
	Dump    *netfront.Dump `json:"dump,omitempty"`
}
