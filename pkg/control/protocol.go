// Package control asks a running xnetfrontd over its control socket: what it does, and
// to do something else. [Client] is all that most programs need.
//
// The socket is a unix stream socket. A client writes a [Request] as one line of JSON and
// reads a [Response] as one line of JSON, as often as it likes on one connection:
//
//	→ {"version":1,"op":"status"}
//	← {"version":1,"status":{...}}
//	→ {"version":1,"op":"reboot"}
//	← {"version":1,"error":"unknown op \"reboot\": ..."}
//
// Who may open the socket is its mode, 0660.
package control

// Version is the protocol's. A server refuses a request with another one, and says
// which it speaks.
const Version = 1

// MaxRequest is the longest request in bytes, its newline among them.
const MaxRequest = 4096

// Request asks for one thing.
type Request struct {
	Version int    `json:"version"`
	Op      string `json:"op"` // OpStatus
}

// OpStatus asks for the daemon's [Status].
const OpStatus = "status"

// Response answers one Request: either Error or what was asked for.
type Response struct {
	Version int     `json:"version"`
	Error   string  `json:"error,omitempty"`
	Status  *Status `json:"status,omitempty"`
}
