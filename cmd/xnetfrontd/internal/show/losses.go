package show

import (
	"fmt"
	"slices"
	"strings"
)

// Loss is the number of frames that got lost for one cause.
type Loss struct {
	Cause string
	Count uint64
}

// Losses are the losses among the counters of a direction, in the order of their names.
func Losses(counters map[string]uint64) []Loss {
	var list []Loss
	for name, n := range counters {
		cause, dropped := strings.CutPrefix(name, "drop_")
		if n > 0 && (dropped || name == "backend_error" || name == "backend_dropped") {
			list = append(list, Loss{cause, n})
		}
	}
	slices.SortFunc(list, func(a, b Loss) int { return strings.Compare(a.Cause, b.Cause) })
	return list
}

// lossText is the list of all causes with their counts.
func lossText(list []Loss) string {
	var texts []string
	for _, l := range list {
		texts = append(texts, fmt.Sprintf("%s %d", l.Cause, l.Count))
	}
	return strings.Join(texts, ", ")
}
