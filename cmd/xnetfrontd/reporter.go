package main

import (
	"os"
	"time"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/control"
)

// reporter makes the daemon's status for the control socket.
type reporter struct {
	vifs    []*vif
	started time.Time
}

func newReporter(vifs []*vif) reporter { return reporter{vifs, time.Now()} }

func (r reporter) status() control.Status {
	s := control.Status{PID: os.Getpid(), Program: version, Started: r.started}
	for _, v := range r.vifs {
		c := control.Vif{DevID: v.conf.DevID, TAP: v.conf.TAP, Problem: v.trouble()}
		if v.device != nil {
			st := v.device.Status()
			c.Device = &st
		}
		s.Vifs = append(s.Vifs, c)
	}
	return s
}
