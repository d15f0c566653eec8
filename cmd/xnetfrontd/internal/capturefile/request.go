package capturefile

import (
	"fmt"
	"slices"

	"github.com/xnetfrontd/xnetfrontd/pkg/control"
	"github.com/xnetfrontd/xnetfrontd/pkg/netfront"
)

// MaxSeconds is the longest capture that a request may ask for.
const MaxSeconds = 366 * 24 * 3600

// Wanted is the configuration of the capture that a request asks for.
func Wanted(q control.CaptureRequest) (c netfront.CaptureConfig, err error) {
	c = netfront.CaptureConfig{Queues: slices.Clone(q.Queues), SnapLen: q.SnapLen, Buffer: q.Buffer}
	switch q.Direction {
	case "":
	case "tx":
		c.Directions = []netfront.Direction{netfront.Tx}
	case "rx":
		c.Directions = []netfront.Direction{netfront.Rx}
	default:
		return c, fmt.Errorf("direction %q: expected tx or rx", q.Direction)
	}
	if !(q.Seconds >= 0 && q.Seconds <= MaxSeconds) {
		return c, fmt.Errorf("seconds %v: expected up to %d", q.Seconds, MaxSeconds)
	}
	return c, c.Validate()
}
