package netfront

import (
	"errors"
	"strconv"

	"go.uber.org/zap"
)

// maxEvidence is how many slots of a ring are shown after a violation, of each kind.
const maxEvidence = 8

// queueError is what ended a queue.
type queueError struct {
	number int
	err    error
}

func (e *queueError) Error() string { return "queue " + strconv.Itoa(e.number) + ": " + e.err.Error() }
func (e *queueError) Unwrap() error { return e.err }

// showEvidence logs the rings of the queue in which the backend violated the protocol, as they
// are, if that is the cause. The workers must be stopped.
func (d *Device) showEvidence(s *session, cause error) {
	var q *queueError
	if !errors.Is(cause, ErrViolation) || !errors.As(cause, &q) || q.number >= len(s.pairs) {
		return
	}
	p := s.pairs[q.number]
	tx, rx := p.tx.dump(), p.rx.dump()
	tx.InFlight = tx.InFlight[:min(len(tx.InFlight), maxEvidence)]
	rx.InFlight = rx.InFlight[:min(len(rx.InFlight), maxEvidence)]
	d.log.Error("the rings after the violation", zap.Int("queue", q.number), zap.Any("tx", tx), zap.Any("rx", rx), event(EventEvidence))
}
