package netback

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

// Features are what the backend announces. What is not announced has no node, which
// is how an older backend looks, and a frontend that uses it all the same is
// disabled ([ErrNotOffered]); Linux never gets there, since it offers everything.
type Features struct {
	SG            bool
	GSOv4         bool
	GSOv6         bool
	CsumIPv6      bool // IPv4's has no node: every backend has it
	RxCopy        bool
	SplitChannels bool
	McastControl  bool
	MaxQueues     int // 0: no multi-queue-max-queues node, one queue
}

// LinuxFeatures are those of xen-netback on a machine with two processors, except
// for the control ring and XDP headroom, which are not imitated.
func LinuxFeatures() Features {
	return Features{SG: true, GSOv4: true, GSOv6: true, CsumIPv6: true, RxCopy: true,
		SplitChannels: true, McastControl: true, MaxQueues: 2}
}

// mirageNodes is what Mirage's backend announces besides (write_features of mirage-net-xen,
// lib/xenstore.ml).
var mirageNodes = map[string]string{netif.KeyRxNotify: "1", netif.KeySmartPoll: "0"}

// ErrNotOffered says that a frontend used a feature that was not announced to it.
var ErrNotOffered = errors.New("frontend uses a feature that is not offered")

// announce writes the feature nodes into the backend's directory.
func (f Features) announce(ctx context.Context, s xenstore.Operations, dir string) error {
	write := func(on bool, key, value string) error {
		if !on {
			return nil
		}
		return s.Write(ctx, dir+"/"+key, value)
	}
	return errors.Join(
		write(f.SG, netif.KeySG, "1"),
		write(f.GSOv4, netif.KeyGSOTCPv4, "1"),
		write(f.GSOv6, netif.KeyGSOTCPv6, "1"),
		write(f.CsumIPv6, netif.KeyIPv6Csum, "1"),
		write(f.RxCopy, netif.KeyRxCopy, "1"),
		write(true, netif.KeyRxFlip, "0"),
		write(f.McastControl, netif.KeyMcastControl, "1"),
		write(f.McastControl, netif.KeyDynMcast, "1"),
		write(f.SplitChannels, netif.KeySplitChannels, "1"),
		write(f.MaxQueues > 0, netif.KeyMaxQueues, strconv.Itoa(f.MaxQueues)),
	)
}

// check tells whether a frame uses nothing but what was announced.
func (f Features) check(fr *frame) error {
	switch gso := fr.gso.Type != netif.ExtraNone; {
	case fr.n > 0 && !f.SG:
		return fmt.Errorf("%w: %s", ErrNotOffered, netif.KeySG)
	case gso && fr.gsoType() == netif.GSOTCPv4 && !f.GSOv4:
		return fmt.Errorf("%w: %s", ErrNotOffered, netif.KeyGSOTCPv4)
	case gso && fr.gsoType() == netif.GSOTCPv6 && !f.GSOv6:
		return fmt.Errorf("%w: %s", ErrNotOffered, netif.KeyGSOTCPv6)
	case fr.mcast.Type != netif.ExtraNone && !f.McastControl:
		return fmt.Errorf("%w: %s", ErrNotOffered, netif.KeyMcastControl)
	}
	return nil
}

// Takes is what the frontend said it takes from the backend, as the backend
// understands it (read_xenbus_vif_flags, xenvif_fix_features).
type Takes struct {
	SG       bool
	GSOv4    bool
	GSOv6    bool
	CsumIPv4 bool
	CsumIPv6 bool
}

// wishes is all that a frontend wrote before it became Connected, except for the
// queues' own nodes.
type wishes struct {
	Takes
	queues   int
	rxCopy   bool
	rxNotify bool
	mcast    bool
}

// readWishes reads the frontend's directory. A number that is no number counts as
// missing, as in xenbus_read_unsigned.
func readWishes(ctx context.Context, s xenstore.Operations, dir string) (wishes, error) {
	var firstErr error
	number := func(key string, missing int) int {
		v, err := s.Read(ctx, dir+"/"+key)
		if err != nil && !errors.Is(err, xenstore.ErrNotFound) && firstErr == nil {
			firstErr = fmt.Errorf("read the frontend's %s: %w", key, err)
		}
		n, perr := strconv.Atoi(strings.TrimSpace(v))
		if err != nil || perr != nil || n < 0 {
			return missing
		}
		return n
	}
	flag := func(key string) bool { return number(key, 0) != 0 }
	w := wishes{
		queues:   number(netif.KeyNumQueues, 1),
		rxCopy:   flag(netif.KeyRequestRxCopy),
		rxNotify: flag(netif.KeyRxNotify),
		mcast:    flag(netif.KeyRequestMcast),
	}
	w.SG = flag(netif.KeySG)
	w.CsumIPv4 = !flag(netif.KeyNoCsumOffload)
	w.CsumIPv6 = flag(netif.KeyIPv6Csum)
	// The kernel drops TSO where there is no scatter-gather or no checksum offload.
	w.GSOv4 = flag(netif.KeyGSOTCPv4) && w.SG && w.CsumIPv4
	w.GSOv6 = flag(netif.KeyGSOTCPv6) && w.SG && w.CsumIPv6
	return w, firstErr
}
