package control

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/xnetfrontd/xnetfrontd/pkg/netfront"
)

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

// Name is the vif's number, or what it is known by until it has one.
func (v *Vif) Name() string {
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
		if name == v.Name() || strings.EqualFold(name, v.Match) || strings.EqualFold(name, v.MAC) || name == v.TAP {
			s.Vifs = []Vif{v}
			return nil
		}
		names = append(names, v.Name())
	}
	if len(names) == 0 {
		return fmt.Errorf("no vif %q: the daemon serves none", name)
	}
	return fmt.Errorf("no vif %q: the daemon has %s", name, strings.Join(names, ", "))
}
