package netfront

import (
	"errors"
	"fmt"

	"github.com/xnetfrontd/xnetfrontd/pkg/busdma"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

const (
	fullMaps = busdma.MaxMaps // one for each slot of a ring
	// minMaps is the fewest maps with which a direction works: twice what the
	// largest frame needs, so that one can be filled while another is out.
	minMaps   = 2 * txSlots
	ringPages = 2 // a queue pair's two rings
)

// ErrBudget says that the guest may not grant pages enough for one queue pair.
var ErrBudget = errors.New("too few pages can be granted")

// Budget is how the pages that the guest may grant are used. All numbers are pages,
// except Queues.
type Budget struct {
	Limit   int  `json:"limit"`  // of the whole guest, other users included
	Needed  int  `json:"needed"` // for the queues asked for, with full rings
	Queues  int  `json:"queues"` // that fit
	Maps    int  `json:"maps"`   // in each pool: 256 fills a ring
	Used    int  `json:"used"`   // by Queues with Maps
	Reduced bool `json:"reduced"`
}

// pairPages is what a queue pair with maps maps in each pool takes.
func pairPages(maps int) int { return ringPages + 2*maps }

// plan fits queues pairs into limit pages: all with full rings, else fewer queues,
// else one with fewer buffers.
func plan(queues, limit int) (Budget, error) {
	b := Budget{Limit: limit, Needed: queues * pairPages(fullMaps), Maps: fullMaps}
	b.Queues = min(queues, limit/pairPages(fullMaps))
	if b.Queues == 0 {
		b.Queues, b.Maps = 1, (limit-ringPages)/2
	}
	if b.Maps < minMaps {
		return b, fmt.Errorf("%w: the limit is %d, one queue pair needs %d with full rings and %d at least; raise /sys/module/xen_gntalloc/parameters/limit",
			ErrBudget, limit, pairPages(fullMaps), pairPages(minMaps))
	}
	b.Used = b.Queues * pairPages(b.Maps)
	b.Reduced = b.Used < b.Needed
	return b, nil
}

// raise makes the limit large enough for queues pairs, if this process may, and
// returns the limit as it is then. Room for one more pair is left to others.
func raise(g xen.Grants, queues int) (int, error) {
	limit, err := g.Limit()
	if err != nil {
		return 0, fmt.Errorf("read the limit of granted pages: %w", err)
	}
	need := queues * pairPages(fullMaps)
	if limit >= need {
		return limit, nil
	}
	if err := g.RaiseLimit(need + pairPages(fullMaps)); err != nil {
		return limit, nil // not permitted: the plan makes do with what there is
	}
	return g.Limit()
}
