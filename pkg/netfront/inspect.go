package netfront

import (
	"context"
	"fmt"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

// Report is what [Inspect] found.
type Report struct {
	DevID         int               `json:"devid"`
	MAC           string            `json:"mac"`
	MTU           int               `json:"mtu"`
	MTURefused    string            `json:"mtu_refused,omitempty"` // what the toolstack says of it, if that cannot be used
	State         string            `json:"state"`
	Backend       string            `json:"backend"`
	BackendDomID  uint16            `json:"backend_domid"`
	BackendState  string            `json:"backend_state"`
	Features      Features          `json:"features"` // that a connection would have
	Missing       map[string]string `json:"missing,omitempty"`
	Queues        int               `json:"queues"`
	BackendQueues int               `json:"backend_queues"` // that the backend offers
	Budget        Budget            `json:"budget"`
}

// Inspect finds out what a connection of the vif would be, without touching
// anything: what is offered and would be agreed on, and how the pages that may be
// granted would be used. With a budget that is too small the error is [ErrBudget]
// and the rest of the report stands.
func Inspect(ctx context.Context, guest *xen.Guest, cfg Config) (*Report, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	s := guest.Store
	a, err := findVif(ctx, s, cfg.DevID)
	if err != nil {
		return nil, err
	}
	id, err := readIdentity(ctx, s, a)
	if err != nil {
		return nil, err
	}
	own, err := readState(ctx, s, a.dir)
	if err != nil {
		return nil, err
	}
	peer, err := readState(ctx, s, a.backend)
	if err != nil {
		return nil, err
	}
	r := &Report{DevID: cfg.DevID, MAC: id.mac.String(), State: own.String(),
		Backend: a.backend, BackendDomID: uint16(a.domid), BackendState: peer.String()}
	if r.MTU = cfg.mtu(id); cfg.MTU == 0 {
		r.MTURefused = id.refused
	}
	limit, err := guest.Grants.Limit()
	if err != nil {
		return r, fmt.Errorf("read the limit of granted pages: %w", err)
	}
	// Too few pages for one queue pair is what the guest must mend, whatever the
	// backend says, and whether it is there or not.
	if r.Budget, err = plan(cfg.Queues, limit); err != nil {
		return r, err
	}
	o, err := readOffer(ctx, s, a.backend)
	if err != nil {
		return r, err
	}
	agreed, err := negotiate(cfg.Features, cfg.Queues, o)
	if err != nil {
		return r, fmt.Errorf("%w (the backend is %v)", err, peer)
	}
	r.Features, r.Missing, r.Queues, r.BackendQueues = agreed.Features, agreed.missing, agreed.queues, o.maxQueues
	r.Budget, err = plan(agreed.queues, limit)
	return r, err
}
