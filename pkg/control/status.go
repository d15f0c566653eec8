package control

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Status is a daemon at one moment.
type Status struct {
	PID     int       `json:"pid"`
	Program string    `json:"program"` // its version
	Started time.Time `json:"started"`
	Vifs    []Vif     `json:"vifs"`
	// GrantsUsed is the number of pages that all vifs together have granted, and GrantsLimit
	// the number that the guest may grant in all; 0: not known.
	GrantsUsed  int `json:"grants_used"`
	GrantsLimit int `json:"grants_limit"`
	// EventsLateSince is since when xenstore's events do not come, and EventsLate how often
	// that began. The daemon polls meanwhile.
	EventsLateSince time.Time `json:"events_late_since,omitzero"`
	EventsLate      uint64    `json:"events_late"`
}

// Vif is an interface that the daemon serves, or would serve if it were there.
type Vif struct {
	Match   string    `json:"match"` // its name in the configuration: its number, its address, "*" for every vif
	DevID   int       `json:"devid"` // -1 when it has none yet
	MAC     string    `json:"mac,omitempty"`
	TAP     string    `json:"tap,omitempty"`            // its present name, or the configured one while there is no TAP
	Renamed string    `json:"configured_tap,omitempty"` // the configured name, if an administrator has given the TAP another
	Since   time.Time `json:"since"`                    // when Waiting or Problem began, or else the service
	Waiting string    `json:"waiting,omitempty"`        // why the daemon waits: the vif is not there
	Problem string    `json:"problem,omitempty"`        // why it is not served though it is there
	Device  *Device   `json:"device,omitempty"`         // its TAP and its connection; nil: there is no TAP
}

// Name is the vif's number, or what it is known by until it has one.
func (v *Vif) Name() string {
	if v.DevID < 0 {
		return v.Match
	}
	return strconv.Itoa(v.DevID)
}

// Index finds a vif in s.Vifs by its number, its MAC address, or its TAP's name. A vif whose
// TAP has that name goes before one whose configured name it is. Without such a vif it fails,
// and the error names the vifs that there are.
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
	vifs := "vifs " // without that word, a number would read as a count
	if len(names) == 1 {
		vifs = "vif "
	}
	return 0, fmt.Errorf("no vif %.40q: the daemon has %s%s", name, vifs, strings.Join(names, ", "))
}

// Only removes all vifs but the one that [Status.Index] finds.
func (s *Status) Only(name string) error {
	i, err := s.Index(name)
	if err == nil {
		s.Vifs = s.Vifs[i : i+1]
	}
	return err
}
