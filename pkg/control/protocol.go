// Package control is the client of a running xnetfrontd's control socket. A program reads the
// daemon's state with it, or tells the daemon to do something. [Client] is all that most
// programs need. The package does not import the driver, so that a monitoring tool stays
// small.
//
// The socket is a unix stream socket. A client writes a [Request] as one line of JSON and
// reads a [Response] as one line of JSON, as often as it likes on one connection:
//
//	→ {"version":1,"op":"status"}
//	← {"version":1,"status":{...}}
//	→ {"version":1,"op":"kick","vif":"7"}
//	← {"version":1,"error":"no vif \"7\": the daemon has vifs 0, 1"}
//
// The mode of the socket, 0660, decides which processes may open it. Only root and the
// daemon's own user may use the ops that change something or show the content of frames; the
// comment of each such op says so. The daemon takes the user from the credentials of the
// process that connected (SO_PEERCRED of unix(7)).
//
// The protocol is stable within one [Version]: fields are added, and none is removed or
// changes its meaning. So are the types here.
package control

// Version is the version of the protocol. A server refuses a request with another version, and
// names its own.
const Version = 1

// MaxRequest is the length of the longest request in bytes, with its newline.
const MaxRequest = 4096

// The ops of a request.
const (
	// OpStatus asks for the daemon's [Status].
	OpStatus = "status"
	// OpDump asks for the rings of Request.Vif.
	OpDump = "dump"
	// OpKick makes the daemon notify the backend of Request.Vif and check all queues of the vif.
	// For root.
	OpKick = "kick"
	// OpRetry makes the daemon forget what the backend of Request.Vif has done, and take the
	// vif up again if it is off. For root.
	OpRetry = "retry"
	// OpReload makes the daemon read its configuration again, as SIGHUP does. The response
	// comes when the configuration is in force, or says why the one before still is. For root.
	OpReload = "reload"
	// OpCapture asks for the frames that cross the rings of Request.Vif. After a response
	// without an error the connection carries nothing but a pcapng stream, until the client
	// closes it. For root.
	OpCapture = "capture"
)

// Request asks for one thing. The name of a vif is its number, its MAC address or its TAP.
type Request struct {
	Version int    `json:"version"`
	Op      string `json:"op"`
	// CaptureRequest is for OpCapture. Of it, Vif is for OpDump, OpKick and OpRetry too.
	CaptureRequest
}

// CaptureRequest says which of a vif's frames to capture. The zero values of all fields but Vif
// mean everything. A frame is captured if it matches all of Host, Port, Proto, Ether and BPF.
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

// Response answers one Request: with Error, one line, or with the answer. A request that was
// only to be carried out needs no field.
type Response struct {
	Version int     `json:"version"`
	Error   string  `json:"error,omitempty"`
	Status  *Status `json:"status,omitempty"`
	Dump    *Dump   `json:"dump,omitempty"`
}
