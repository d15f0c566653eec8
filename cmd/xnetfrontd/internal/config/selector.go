package config

import (
	"fmt"
	"net"
	"strconv"
)

// Selector says which vifs a [[vif]] table selects: the one with a number, the one with a MAC
// address, or all. Selectors can be compared with ==.
type Selector struct {
	by    selectBy
	devid int
	mac   [6]byte
}

// selectBy is in the order of precedence: a table with a vif's number goes before one with its
// address, and that before one for all.
type selectBy uint8

const (
	byDevID selectBy = iota
	byMAC
	byAny
)

// Everything is the text of a selector for all vifs.
const Everything = "*"

// SelectDevID selects the vif with a number.
func SelectDevID(devid int) Selector { return Selector{by: byDevID, devid: devid} }

// SelectMAC selects the vif with an address of 6 bytes.
func SelectMAC(mac net.HardwareAddr) Selector { return Selector{by: byMAC, mac: [6]byte(mac)} }

// SelectAll selects every vif of the guest.
func SelectAll() Selector { return Selector{by: byAny} }

// ParseSelector reads the text that [Selector.String] writes. ok is false for any other text.
func ParseSelector(text string) (s Selector, ok bool) {
	if text == Everything {
		return SelectAll(), true
	}
	if n, err := strconv.Atoi(text); err == nil {
		return SelectDevID(n), n >= 0 && n <= MaxDevID
	}
	mac, ok := parseMAC(text)
	if !ok {
		return s, false
	}
	return SelectMAC(mac), true
}

// parseMAC reads the address of an Ethernet interface: 6 bytes, unicast, not zero.
func parseMAC(text string) (net.HardwareAddr, bool) {
	mac, err := net.ParseMAC(text)
	return mac, err == nil && len(mac) == 6 && mac[0]&1 == 0 && [6]byte(mac) != [6]byte{}
}

// String is the number, the address or "*".
func (s Selector) String() string {
	switch s.by {
	case byMAC:
		return net.HardwareAddr(s.mac[:]).String()
	case byAny:
		return Everything
	}
	return strconv.Itoa(s.devid)
}

// DevID is the number that is selected, if it is by number.
func (s Selector) DevID() (devid int, ok bool) { return s.devid, s.by == byDevID }

// All tells whether every vif is selected.
func (s Selector) All() bool { return s.by == byAny }

// Matches tells whether a vif is selected. A nil address is not known, and no selector by
// address selects it.
func (s Selector) Matches(devid int, mac net.HardwareAddr) bool {
	switch s.by {
	case byDevID:
		return devid == s.devid
	case byMAC:
		return len(mac) == len(s.mac) && [6]byte(mac) == s.mac
	}
	return true
}

// UnmarshalText implements encoding.TextUnmarshaler, for flags.
func (s *Selector) UnmarshalText(text []byte) error {
	sel, ok := ParseSelector(string(text))
	if !ok {
		return fmt.Errorf("%q: expected a vif's number from 0 to %d, its MAC address such as 00:16:3e:01:02:03, or %q for all", text, MaxDevID, Everything)
	}
	*s = sel
	return nil
}
