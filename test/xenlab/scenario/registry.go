package scenario

import (
	"fmt"
	"strings"
)

// All is every scenario, in the order in which they run.
func All() []Scenario {
	return []Scenario{
		selfTest(),
		connect(),
		bulk(),
		vlan(),
		multiqueue(),
		features(),
		attach(),
		lateEvents(),
		nic(),
		rate(),
		latency(),
		restarts(),
		frontends(),
		takeover(),
		benchmark(),
		handover(),
		rebind(),
		driverDomain(),
		hostile(),
		restore(),
		systemd(),
		walkthrough(),
	}
}

// Choose returns the scenarios of all with these names, in all's order; all of them if
// there are no names.
func Choose(all []Scenario, names []string) ([]Scenario, error) {
	if len(names) == 0 {
		return all, nil
	}
	wanted := map[string]bool{}
	for _, n := range names {
		wanted[n] = true
	}
	var chosen []Scenario
	var known []string
	for _, s := range all {
		known = append(known, s.Name)
		if wanted[s.Name] {
			chosen = append(chosen, s)
			delete(wanted, s.Name)
		}
	}
	for _, n := range names {
		if wanted[n] {
			return nil, fmt.Errorf("there is no scenario %q: the names are %s", n, strings.Join(known, ", "))
		}
	}
	return chosen, nil
}
