package netfront

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

// Features are what frontend and backend can agree on. In a [Config] they say what
// may be negotiated, in a [Status] what was.
type Features struct {
	SG            bool `json:"sg"`             // frames of several slots, both ways
	Csum          bool `json:"csum"`           // IPv4 TCP and UDP frames with blank checksums, both ways
	CsumIPv6      bool `json:"csum_ipv6"`      // the same for IPv6
	GSOv4         bool `json:"gso_tcpv4"`      // TCP over IPv4 super-frames, both ways
	GSOv6         bool `json:"gso_tcpv6"`      // TCP over IPv6 super-frames, both ways
	SplitChannels bool `json:"split_channels"` // an event channel for each direction
}

// AllFeatures is everything that this package can do.
func AllFeatures() Features {
	return Features{SG: true, Csum: true, CsumIPv6: true, GSOv4: true, GSOv6: true, SplitChannels: true}
}

// Names lists those that there are, as the configuration's `disable` calls them.
func (f Features) Names() []string {
	var names []string
	for _, x := range []struct {
		there bool
		name  string
	}{
		{f.SG, "sg"}, {f.Csum, "csum"}, {f.CsumIPv6, "csum_ipv6"},
		{f.GSOv4, "gso_tcpv4"}, {f.GSOv6, "gso_tcpv6"}, {f.SplitChannels, "split_channels"},
	} {
		if x.there {
			names = append(names, x.name)
		}
	}
	return names
}

// offer is what the backend says of itself.
type offer struct {
	Features
	maxQueues  int
	multiQueue bool // it has a node for the number of queues
	rxCopy     bool
	removes    bool // see removesOnClose
}

// defaultMaxQueues is how many queue pairs are asked for at most when the
// configuration does not say (xen-netfront's and netback's default too).
const defaultMaxQueues = 8

// errNoRxCopy says that a backend wants page flipping, which this frontend, like
// every one since 2009, does not do.
var errNoRxCopy = errors.New("backend does not offer feature-rx-copy")

// readOffer reads the backend's feature nodes. A node that is missing has the
// protocol's default. The values are the backend's: a nonsensical one counts as
// missing, except for the number of queues, which is clamped by the caller.
func readOffer(ctx context.Context, s xenstore.Operations, backend string) (offer, error) {
	var o offer
	flag := func(dst *bool, key string) error {
		v, err := s.Read(ctx, backend+"/"+key)
		switch {
		case errors.Is(err, xenstore.ErrNotFound):
			return nil
		case err != nil:
			return fmt.Errorf("read the backend's %s: %w", key, err)
		}
		*dst = strings.TrimSpace(v) == "1"
		return nil
	}
	o.Csum = true // no node for it: every backend takes blank IPv4 checksums
	if err := errors.Join(
		flag(&o.SG, netif.KeySG),
		flag(&o.CsumIPv6, netif.KeyIPv6Csum),
		flag(&o.GSOv4, netif.KeyGSOTCPv4),
		flag(&o.GSOv6, netif.KeyGSOTCPv6),
		flag(&o.SplitChannels, netif.KeySplitChannels),
		flag(&o.rxCopy, netif.KeyRxCopy),
	); err != nil {
		return o, err
	}
	o.maxQueues = 1
	v, err := s.Read(ctx, backend+"/"+netif.KeyMaxQueues)
	if err != nil && !errors.Is(err, xenstore.ErrNotFound) {
		return o, fmt.Errorf("read the backend's %s: %w", netif.KeyMaxQueues, err)
	}
	if n, perr := strconv.Atoi(strings.TrimSpace(v)); err == nil && perr == nil && n >= 1 {
		o.maxQueues, o.multiQueue = n, true
	}
	o.removes, err = removesOnClose(ctx, s, backend)
	return o, err
}

// removesOnClose tells whether a backend is one that removes its directory when the frontend
// closes, and reads no rings of another one: then no frontend can connect until the toolstack
// attaches the vif anew. Mirage's is so (disconnect_backend of mirage-net-xen,
// lib/xenstore.ml). It says nothing about that, but is the only one known to write these two
// keys into its own directory, as it uses one function for both ends (write_features): the
// first is a frontend's.
func removesOnClose(ctx context.Context, s xenstore.Operations, backend string) (bool, error) {
	for _, key := range []string{netif.KeySmartPoll, netif.KeyRxNotify} {
		_, err := s.Read(ctx, backend+"/"+key)
		if errors.Is(err, xenstore.ErrNotFound) || errors.Is(err, xenstore.ErrPermission) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("read the backend's %s: %w", key, err)
		}
	}
	return true, nil
}

// agreement is the outcome of a negotiation.
type agreement struct {
	Features
	queues  int
	removes bool              // the backend does not survive a close, see removesOnClose
	missing map[string]string // feature to the reason why it is not there
}

// reasons says what is missing, and why.
func (a agreement) reasons() string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(a.missing)) {
		list = append(list, name+": "+a.missing[name])
	}
	return strings.Join(list, "; ")
}

// negotiate decides what both sides can do. Wanted is what the configuration
// allows, queues the number of pairs it asks for.
func negotiate(wanted Features, queues int, o offer) (agreement, error) {
	if !o.rxCopy {
		return agreement{}, errNoRxCopy
	}
	a := agreement{removes: o.removes, missing: map[string]string{}}
	pick := func(dst *bool, name string, wanted, offered bool, needs ...string) {
		switch {
		case !wanted:
			a.missing[name] = "switched off in the configuration"
		case !offered:
			a.missing[name] = "not offered by the backend"
		case len(needs) > 0:
			a.missing[name] = "needs " + strings.Join(needs, " and ")
		default:
			*dst = true
		}
	}
	need := func(have bool, name string) []string {
		if have {
			return nil
		}
		return []string{name}
	}
	pick(&a.SG, "sg", wanted.SG, o.SG)
	pick(&a.Csum, "csum", wanted.Csum, o.Csum)
	// A TAP has one switch for the checksums of both families, so that without
	// IPv4's there is nobody to leave IPv6's blank.
	pick(&a.CsumIPv6, "csum_ipv6", wanted.CsumIPv6, o.CsumIPv6, need(a.Csum, "csum")...)
	pick(&a.GSOv4, "gso_tcpv4", wanted.GSOv4, o.GSOv4, append(need(a.SG, "sg"), need(a.Csum, "csum")...)...)
	pick(&a.GSOv6, "gso_tcpv6", wanted.GSOv6, o.GSOv6, append(need(a.SG, "sg"), need(a.CsumIPv6, "csum_ipv6")...)...)
	pick(&a.SplitChannels, "split_channels", wanted.SplitChannels, o.SplitChannels)
	a.queues = max(1, min(queues, o.maxQueues))
	if a.queues < queues {
		a.missing["queues"] = fmt.Sprintf("%d asked for, the backend offers %d", queues, o.maxQueues)
	}
	return a, nil
}

// boolNode is a feature's value in xenstore.
func boolNode(b bool) string {
	if b {
		return "1"
	}
	return "0"
}
