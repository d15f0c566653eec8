package netfront

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"

	"go.uber.org/zap"

	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

const (
	// maxMTU leaves room for the Ethernet header and one VLAN tag in the largest
	// frame that a tx request can describe.
	maxMTU     = tap.MaxMTU
	minMTU     = tap.MinMTU
	defaultMTU = 1500
	// maxQueues is what xen-netfront and netback can do at most in practice; more
	// would only use up grants.
	maxQueues = 64
)

// Config says what a [Device] is to be. The zero value of a field has the meaning
// that is noted.
type Config struct {
	DevID      int      // number of the vif: device/vif/<DevID>
	TAPName    string   // of the link; empty: the kernel numbers it, xnf0, xnf1, ...
	TxQueueLen int      // frames that the TAP holds for the ring; 0: 1000
	MTU        int      // bytes; 0: what the toolstack says, else 1500
	Queues     int      // queue pairs at most; 0: one for each processor, at most 8
	Features   Features // what may be negotiated
	// NoShaping leaves the TAP's queueing discipline alone: else frames are held back in
	// it to what a slow backend takes.
	NoShaping bool
	// MaxViolations says how many violations of the protocol are borne from the domain of the
	// backend before the vif is off until [Device.Retry]; 0: any number. Nil:
	// [DefaultMaxViolations].
	MaxViolations func() int
	Logger        *zap.Logger

	// Holder keeps what the next process needs to go on with the TAP and the rings.
	// Nil: every process begins anew.
	Holder Holder
	// HoldKey names the vif to the holder, the same in every process; empty: its
	// number.
	HoldKey string

	// Privileged calls what needs CAP_NET_ADMIN, as in [tap.Config]. Nil: it is in effect.
	Privileged func(func() error) error

	// ReportAddresses says whether the toolstack is told the TAP's addresses; it is asked again
	// and again. Nil: never.
	ReportAddresses func() Reporting

	// Locate says which number the vif has now, before each connection and whenever
	// the guest's vifs change while it is waited for: one that is attached again can
	// have another. With [ErrNoVif] it is waited for; any other error is tried again,
	// as a connection that failed is. Nil: it is always DevID.
	Locate func(ctx context.Context, s xen.Store) (devid int, err error)

	// Watches tells whether xenstore's events are late, when the Device looks by itself at
	// all that they are about. Nil: it looks at what ends a connection, and no more.
	Watches *Watches
}

// Validate checks the values that can be checked without a vif.
func (c *Config) Validate() error {
	switch {
	case c.DevID < 0:
		return fmt.Errorf("devid %d: want 0 or more", c.DevID)
	case c.MTU != 0 && (c.MTU < minMTU || c.MTU > maxMTU):
		return fmt.Errorf("mtu %d: want %d to %d", c.MTU, minMTU, maxMTU)
	case c.Queues < 0 || c.Queues > maxQueues:
		return fmt.Errorf("queues %d: want 1 to %d, or 0 for one per processor", c.Queues, maxQueues)
	case c.TxQueueLen < 0:
		return fmt.Errorf("txqueuelen %d: want 0 or more", c.TxQueueLen)
	}
	return nil
}

// defaultQueues is one queue pair for each processor, up to defaultMaxQueues.
func defaultQueues() int { return min(defaultMaxQueues, runtime.NumCPU()) }

// withDefaults fills in what does not depend on the vif.
func (c Config) withDefaults() (Config, error) {
	if err := c.Validate(); err != nil {
		return c, err
	}
	if c.Queues == 0 {
		c.Queues = defaultQueues()
	}
	if c.MaxViolations == nil {
		c.MaxViolations = func() int { return DefaultMaxViolations }
	}
	if c.HoldKey == "" {
		c.HoldKey = "vif/" + strconv.Itoa(c.DevID)
	}
	if c.Logger == nil {
		return c, errors.New("no logger")
	}
	return c, nil
}

// mtu is the MTU that the TAP gets.
func (c *Config) mtu(id identity) int {
	switch {
	case c.MTU != 0:
		return c.MTU
	case id.mtu != 0:
		return id.mtu
	}
	return defaultMTU
}
