package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/guestvif"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/logging"
	"github.com/xnetfrontd/xnetfrontd/internal/printable"
	"github.com/xnetfrontd/xnetfrontd/pkg/control"
	"github.com/xnetfrontd/xnetfrontd/pkg/netfront"
)

// dumpTimeout is how long a worker may take to describe its rings.
const dumpTimeout = 2 * time.Second

// reporter answers for the daemon on the control socket: it is a [controlserver.Handler].
type reporter struct {
	super   *supervisor
	watches *netfront.Watches
	log     *zap.Logger
	started time.Time
	version string
	reloads chan chan<- error // a request to read the configuration again, and where its result goes
	dumping chan struct{}     // full while a dump is made: there is one at a time

	captures *captures
}

func newReporter(s *supervisor, w *netfront.Watches, log *zap.Logger, version string) reporter {
	return reporter{super: s, watches: w, log: log, version: version, started: time.Now(), reloads: make(chan chan<- error), dumping: make(chan struct{}, 1), captures: &captures{}}
}

// Status returns the state of the daemon and its vifs.
func (r reporter) Status() control.Status {
	s, _ := r.snapshot()
	return s
}

// snapshot returns the status, and the services. They are the first vifs of the status, in
// the same order.
func (r reporter) snapshot() (control.Status, []*service) {
	s := control.Status{PID: os.Getpid(), Program: r.version, Started: r.started, Vifs: []control.Vif{}}
	s.EventsLateSince, _ = r.watches.Late()
	s.EventsLate = r.watches.Times()
	services, waiting := r.super.snapshot()
	for _, v := range services {
		id := v.identity()
		since, problem := v.trouble()
		c := control.Vif{Match: id.table.Match.String(), DevID: id.devid, MAC: id.mac.String(), TAP: id.tap, Since: since}
		if problem != nil {
			c.Problem = printable.Error(problem)
		}
		if gone, until, ok := v.away(); ok {
			c.Since, c.Waiting = gone, "its TAP stays until the vif is back"
			if !until.IsZero() {
				c.Waiting = "its TAP stays until " + until.Format(time.DateTime)
			}
		}
		if f := v.frontend(); f != nil {
			st := f.Status()
			c.Device = wireDevice(&st)
			if st.TAP != "" && st.TAP != c.TAP {
				c.TAP, c.Renamed = st.TAP, c.TAP
			}
			s.GrantsUsed += st.Grants
			s.GrantsLimit = max(s.GrantsLimit, st.GrantLimit)
		}
		s.Vifs = append(s.Vifs, c)
	}
	for _, w := range waiting {
		c := control.Vif{Match: w.match.String(), DevID: -1, Since: w.since, Waiting: guestvif.Have(w.match, w.has)}
		if devid, ok := w.match.DevID(); ok {
			c.DevID = devid
		}
		s.Vifs = append(s.Vifs, c)
	}
	return s, services
}

// find returns the frontend of a vif, by the name that a user gave it.
func (r reporter) find(name string) (frontend, error) {
	s, services := r.snapshot()
	i, err := s.Index(name)
	if err != nil {
		return nil, err
	}
	v := &s.Vifs[i]
	if i < len(services) {
		if f := services[i].frontend(); f != nil {
			return f, nil
		}
	}
	return nil, fmt.Errorf("vif %s has no rings: %s", v.Name(), cmp.Or(v.Problem, v.Waiting, "it is about to be served"))
}

// explain adds the state of the vif to an error of its frontend.
func explain(f frontend, err error) error {
	if !errors.Is(err, netfront.ErrNotConnected) {
		return err
	}
	s := f.Status()
	if s.Reason != "" {
		return fmt.Errorf("vif %d has no rings: it is %s, the backend %s: %s", s.DevID, s.State, s.BackendState, s.Reason)
	}
	return fmt.Errorf("vif %d has no rings: it is %s, the backend %s", s.DevID, s.State, s.BackendState)
}

// Dump returns the state of a vif's rings.
func (r reporter) Dump(ctx context.Context, vif string) (*control.Dump, error) {
	f, err := r.find(vif)
	if err != nil {
		return nil, err
	}
	// With a stuck worker a dump takes all its time. Other dumps wait here, where ctx ends
	// the wait, so that the times do not add up.
	select {
	case r.dumping <- struct{}{}:
	case <-ctx.Done():
		return nil, errors.New("other dumps take too long: try again")
	}
	defer func() { <-r.dumping }()
	ctx, cancel := context.WithTimeout(ctx, dumpTimeout)
	defer cancel()
	dump, err := f.Dump(ctx)
	return wireDump(dump), explain(f, err)
}

// Kick notifies the backend of a vif, and makes the vif's workers check their rings.
func (r reporter) Kick(vif string) error {
	f, err := r.find(vif)
	if err != nil {
		return err
	}
	return explain(f, f.Kick())
}

// Retry forgets what the backend of a vif has done, and makes the next attempt at once.
func (r reporter) Retry(vif string) error {
	f, err := r.find(vif)
	if err != nil {
		return err
	}
	f.Retry()
	return nil
}

// Reload makes the daemon read its configuration again, and returns when that is in force.
func (r reporter) Reload(ctx context.Context) error {
	answer := make(chan error, 1)
	select {
	case r.reloads <- answer:
	case <-ctx.Done():
		return errNotRead
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return errNotApplied
	}
}

// Panicked logs a panic in one of the other methods, and returns it as an error.
func (r reporter) Panicked(request string, value any) error {
	err := caught(value)
	r.log.Error("a request could not be answered", zap.String("request", request), logging.Problem(err), zap.String("stack", err.stack), logging.Event(eventFault))
	return err
}

// maxSummary is how many vifs are in one line.
const maxSummary = 8

// tapName is the present name of a vif's TAP, or the configured one while there is no TAP.
func tapName(v *service) string {
	if f := v.frontend(); f != nil {
		if name := f.Name(); name != "" {
			return name
		}
	}
	return v.identity().tap
}

// summary is one line about every vif.
func summary(s *supervisor) string {
	services, waiting := s.snapshot()
	var texts []string
	for _, v := range services {
		id := v.identity()
		text := fmt.Sprintf("vif %d: TAP %s", id.devid, tapName(v))
		if _, problem := v.trouble(); problem != nil {
			text = fmt.Sprintf("vif %d: not served: %s", id.devid, printable.Error(problem))
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
