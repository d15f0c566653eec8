package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/xnetfrontd/xnetfrontd/pkg/control"
)

// reporter is the daemon as the control socket shows it.
type reporter struct {
	super   *supervisor
	started time.Time
}

func newReporter(s *supervisor) reporter { return reporter{s, time.Now()} }

// Status implements controlserver.Handler.
func (r reporter) Status() control.Status {
	s := control.Status{PID: os.Getpid(), Program: version, Started: r.started, Vifs: []control.Vif{}}
	services, waiting := r.super.snapshot()
	for _, v := range services {
		id := v.identity()
		since, problem := v.trouble()
		c := control.Vif{Match: id.table.Match.String(), DevID: id.devid, MAC: id.mac.String(), TAP: id.tap, Since: since}
		if problem != nil {
			c.Problem = oneLine(problem)
		}
		if gone, until, ok := v.away(); ok {
			c.Since, c.Waiting = gone, "its TAP stays until the vif is back"
			if !until.IsZero() {
				c.Waiting = "its TAP stays until " + until.Format(time.DateTime)
			}
		}
		if f := v.frontend(); f != nil {
			st := f.Status()
			c.Device = &st
		}
		s.Vifs = append(s.Vifs, c)
	}
	for _, w := range waiting {
		c := control.Vif{Match: w.match.String(), DevID: -1, Since: w.since, Waiting: has(w.match, w.has)}
		if devid, ok := w.match.DevID(); ok {
			c.DevID = devid
		}
		s.Vifs = append(s.Vifs, c)
	}
	return s
}

// maxSummary is how many vifs one line tells of.
const maxSummary = 8

// summary is one line about every vif.
func summary(s *supervisor) string {
	services, waiting := s.snapshot()
	var texts []string
	for _, v := range services {
		id := v.identity()
		text := fmt.Sprintf("vif %d: TAP %s", id.devid, id.tap)
		if _, problem := v.trouble(); problem != nil {
			text = fmt.Sprintf("vif %d: not served: %s", id.devid, oneLine(problem))
		}
		texts = append(texts, text)
	}
	for _, w := range waiting {
		texts = append(texts, fmt.Sprintf("vif %s: waiting for it", w.match))
	}
	if more := len(texts) - maxSummary; more > 0 {
		texts = append(texts[:maxSummary], fmt.Sprintf("and %d more", more))
	}
	return strings.Join(texts, ", ")
}
