// Package control is the daemon's control socket, both ends: a unix stream socket
// on which a client writes requests and reads responses, one line of JSON each.
//
//	→ {"version":1,"op":"status"}
//	← {"version":1,"status":{...}}
//	← {"version":1,"error":"..."}
//
// Who may ask is the socket's mode, 0660. Requests change nothing.
package control

import (
	"time"

	"github.com/xnetfrontd/xnetfrontd/pkg/netfront"
)

// Version is the protocol's. A server refuses a request with another one, and says
// which it speaks.
const Version = 1

// maxLine is the longest request in bytes.
const maxLine = 4096

// Request asks for one thing.
type Request struct {
	Version int    `json:"version"`
	Op      string `json:"op"` // OpStatus
}

// OpStatus asks for the daemon's Status.
const OpStatus = "status"

// Response answers one Request: either Error or what was asked for.
type Response struct {
	Version int     `json:"version"`
	Error   string  `json:"error,omitempty"`
	Status  *Status `json:"status,omitempty"`
}

// Status is a daemon at one moment.
type Status struct {
	PID     int       `json:"pid"`
	Program string    `json:"program"` // its version
	Started time.Time `json:"started"`
	Vifs    []Vif     `json:"vifs"`
}

// Vif is one configured interface. Device is absent when it is not served, and then
// Problem says why.
type Vif struct {
	DevID   int              `json:"devid"`
	TAP     string           `json:"tap"`
	Problem string           `json:"problem,omitempty"`
	Device  *netfront.Status `json:"device,omitempty"`
}
