package netfront

import (
	"context"
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

// Config configures a [Device]. The zero value is vif 0 with every feature, on a TAP that the
// kernel numbers.
type Config struct {
	DevID      int      // number of the vif: device/vif/<DevID>
	TAPName    string   // of the link; empty: the kernel numbers it, xnf0, xnf1, ...
	TxQueueLen int      // frames that the TAP holds for the ring; 0: 1000
	MTU        int      // bytes; 0: what the toolstack says, else 1500
	Queues     int      // queue pairs at most; 0: one for each processor, at most 8
	Features   Features // that may be negotiated; zero: [AllFeatures]
	// NoFeatures negotiates no feature, whatever Features says.
	NoFeatures bool
	// NoShaping leaves the TAP's queueing discipline alone. Without it, the discipline holds
	// frames back to the rate of a slow backend.
	NoShaping bool
	// MaxViolations returns after how many violations of the protocol by the backend's domain
	// the vif is off until [Device.Retry]; 0: the vif is never off. Nil:
	// [DefaultMaxViolations].
	MaxViolations func() int
	Logger        *zap.Logger // nil: no log

	// Holder keeps what the next process needs to go on with the TAP and the rings. Nil: every
	// process begins with a new TAP and a new connection.
	Holder Holder
	// HoldKey is the vif's key with the holder, the same in every process; empty: its number.
	HoldKey string

	// Privileged calls what needs CAP_NET_ADMIN, as in [tap.Config]. Nil: it is in effect.
	Privileged func(func() error) error

	// ReportAddresses returns whether to report the TAP's addresses to the toolstack. The Device
	// calls it again and again. Nil: never.
	ReportAddresses func() Reporting

	// Locate returns the present number of the vif, which can change when the vif is attached
	// again. The Device calls it before each connection, and while it waits for the vif whenever
	// the guest's vifs change. After [ErrNoVif] the Device waits for the vif. After any other
	// error it tries again, as after a failed connection. Nil: the number is always DevID.
	Locate func(ctx context.Context, s xen.Store) (devid int, err error)

	// Watches tells whether xenstore's events are late. While they are, the Device polls
	// everything that they are about. Nil: it polls only what ends a connection.
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
	if c.NoFeatures {
		c.Features = Features{}
	} else if c.Features == (Features{}) {
		c.Features = AllFeatures()
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
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
