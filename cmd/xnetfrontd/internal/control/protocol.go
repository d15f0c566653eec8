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
	"fmt"
	"strconv"
	"strings"
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

// Vif is an interface that is served, or would be if it were there.
type Vif struct {
	Match   string           `json:"match"` // what the configuration calls it: its number, its address, "*" for every vif
	DevID   int              `json:"devid"` // -1 when it has none yet
	MAC     string           `json:"mac,omitempty"`
	TAP     string           `json:"tap,omitempty"`
	Since   time.Time        `json:"since"`             // of what Waiting or Problem say, or else of its being served
	Waiting string           `json:"waiting,omitempty"` // it is not there now, and what that means
	Problem string           `json:"problem,omitempty"` // it is there, and why it is not served
	Device  *netfront.Status `json:"device,omitempty"`  // what its TAP and its connection do, when there is a TAP
}

// name is the vif's number, or what it is known by until it has one.
func (v *Vif) name() string {
	if v.DevID < 0 {
		return v.Match
	}
	return strconv.Itoa(v.DevID)
}

// Only leaves one vif, which is named by its number, address or TAP. It fails, with
// what there is, when there is no such vif.
func (s *Status) Only(name string) error {
	var names []string
	for _, v := range s.Vifs {
		if name == v.name() || strings.EqualFold(name, v.Match) || strings.EqualFold(name, v.MAC) || name == v.TAP {
			s.Vifs = []Vif{v}
			return nil
		}
		names = append(names, v.name())
	}
	if len(names) == 0 {
		return fmt.Errorf("no vif %q: the daemon serves none", name)
	}
	return fmt.Errorf("no vif %q: the daemon has %s", name, strings.Join(names, ", "))
}
