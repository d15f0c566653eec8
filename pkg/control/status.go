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
	// GrantsUsed are the pages that all vifs together have granted, and GrantsLimit those
	// that the guest may grant, to whomever; 0 while that is not known.
	GrantsUsed  int `json:"grants_used"`
	GrantsLimit int `json:"grants_limit"`
	// EventsLateSince is since when xenstore's events do not come, and EventsLate how often
	// that began; the daemon looks by itself meanwhile.
	EventsLateSince time.Time `json:"events_late_since,omitzero"`
	EventsLate      uint64    `json:"events_late"`
}

// Vif is an interface that is served, or would be if it were there.
type Vif struct {
	Match   string           `json:"match"` // what the configuration calls it: its number, its address, "*" for every vif
	DevID   int              `json:"devid"` // -1 when it has none yet
	MAC     string           `json:"mac,omitempty"`
	TAP     string           `json:"tap,omitempty"`            // its name now, or the configured one while there is none
	Renamed string           `json:"configured_tap,omitempty"` // the configured name, if somebody has given the TAP another
	Since   time.Time        `json:"since"`                    // of what Waiting or Problem say, or else of its being served
	Waiting string           `json:"waiting,omitempty"`        // it is not there now, and what that means
	Problem string           `json:"problem,omitempty"`        // it is there, and why it is not served
	Device  *netfront.Status `json:"device,omitempty"`         // what its TAP and its connection do, when there is a TAP
}

// Name is the vif's number, or what it is known by until it has one.
func (v *Vif) Name() string {
	if v.DevID < 0 {
		return v.Match
	}
	return strconv.Itoa(v.DevID)
}

// Index finds a vif in s.Vifs by its number, its MAC address, or its TAP's name: the present
// one goes before the one that is configured. It fails, with what there is, when there is no such
// vif.
func (s *Status) Index(name string) (int, error) {
	for _, is := range []func(v *Vif) bool{
		func(v *Vif) bool {
			return name == v.Name() || strings.EqualFold(name, v.Match) || strings.EqualFold(name, v.MAC)
		},
		func(v *Vif) bool { return name == v.TAP },
		func(v *Vif) bool { return v.Renamed != "" && name == v.Renamed },
	} {
		for i := range s.Vifs {
			if is(&s.Vifs[i]) {
				return i, nil
			}
		}
	}
	var names []string
	for i := range s.Vifs {
		names = append(names, s.Vifs[i].Name())
	}
	if len(names) == 0 {
		return 0, fmt.Errorf("no vif %.40q: the daemon serves none", name)
	}
	vifs := "vifs " // a number alone would read as a count
	if len(names) == 1 {
		vifs = "vif "
	}
	return 0, fmt.Errorf("no vif %.40q: the daemon has %s%s", name, vifs, strings.Join(names, ", "))
}

// Only leaves the vif that [Status.Index] finds.
func (s *Status) Only(name string) error {
	i, err := s.Index(name)
	if err == nil {
		s.Vifs = s.Vifs[i : i+1]
	}
	return err
}
