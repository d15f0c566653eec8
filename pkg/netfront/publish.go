package netfront

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

// ringKeys are the nodes of one queue pair.
func (p *pair) ringKeys() map[string]string {
	refs := p.rings.Refs()
	m := map[string]string{
		netif.KeyTxRingRef: strconv.FormatUint(uint64(refs[0]), 10),
		netif.KeyRxRingRef: strconv.FormatUint(uint64(refs[1]), 10),
	}
	if p.txPort == p.rxPort {
		m[netif.KeyEventChannel] = strconv.FormatUint(uint64(p.txPort), 10)
	} else {
		m[netif.KeyEventChannelTx] = strconv.FormatUint(uint64(p.txPort), 10)
		m[netif.KeyEventChannelRx] = strconv.FormatUint(uint64(p.rxPort), 10)
	}
	return m
}

// ringKeys are the nodes of all pairs, relative to the frontend's directory.
func ringKeys(pairs []*pair) map[string]string {
	if len(pairs) == 1 {
		return pairs[0].ringKeys()
	}
	keys := make(map[string]string)
	for i, p := range pairs {
		for k, v := range p.ringKeys() {
			keys[netif.QueueDir(i)+"/"+k] = v
		}
	}
	return keys
}

// featureKeys are the nodes by which the frontend says what it takes. They are the
// same on every connect with the same agreement, and explicit when off: there are
// backends that read them only once, and some that take a missing one for yes.
func featureKeys(f Features) map[string]string {
	return map[string]string{
		netif.KeyRequestRxCopy: "1",
		netif.KeyRxNotify:      "1",
		netif.KeySG:            boolNode(f.SG),
		netif.KeyGSOTCPv4:      boolNode(f.GSOv4),
		netif.KeyGSOTCPv6:      boolNode(f.GSOv6),
		netif.KeyNoCsumOffload: boolNode(!f.Csum),
		netif.KeyIPv6Csum:      boolNode(f.CsumIPv6),
	}
}

// allKeys are all nodes that a frontend, this or another one, may have written into
// its directory. What is not written anew is removed.
var allKeys = []string{
	netif.KeyTxRingRef, netif.KeyRxRingRef,
	netif.KeyEventChannel, netif.KeyEventChannelTx, netif.KeyEventChannelRx,
	netif.KeyNumQueues, netif.KeyRequestRxCopy, netif.KeyRxNotify,
	netif.KeySG, netif.KeyGSOTCPv4, netif.KeyGSOTCPv6, netif.KeyGSOTCPv4Prefix, netif.KeyGSOTCPv6Prefix,
	netif.KeyNoCsumOffload, netif.KeyIPv6Csum,
	netif.KeyRequestMcast, netif.KeyCtrlRingRef, netif.KeyEventChannelCtrl, netif.KeyXDPHeadroomReq,
}

// publish writes everything that the backend needs, in one transaction, and removes
// what an earlier owner left.
func publish(ctx context.Context, st updater, dir string, a agreement, multiQueue bool, s *session) error {
	keys := featureKeys(a.Features)
	if multiQueue {
		keys[netif.KeyNumQueues] = strconv.Itoa(len(s.pairs))
	}
	maps.Copy(keys, ringKeys(s.pairs))
	err := st.Update(ctx, func(tx xenstore.Operations) error {
		if err := unpublish(ctx, tx, dir); err != nil {
			return err
		}
		for k, v := range keys {
			if err := tx.Write(ctx, dir+"/"+k, v); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("publish rings: %w", err)
	}
	return nil
}

// updater is the part of [xen.Store] that publish needs.
type updater interface {
	Update(ctx context.Context, f func(tx xenstore.Operations) error) error
}

// unpublish removes every node that a frontend writes.
func unpublish(ctx context.Context, tx xenstore.Operations, dir string) error {
	names, err := tx.Directory(ctx, dir)
	if err != nil {
		return err
	}
	have := make(map[string]bool, len(names))
	for _, n := range names {
		have[n] = true
	}
	stale := make([]string, 0, len(names))
	for _, k := range allKeys {
		if have[k] {
			stale = append(stale, k)
		}
	}
	for _, n := range names {
		if strings.HasPrefix(n, "queue-") {
			stale = append(stale, n)
		}
	}
	for _, k := range stale {
		if err := tx.Remove(ctx, dir+"/"+k); err != nil && !errors.Is(err, xenstore.ErrNotFound) {
			return err
		}
	}
	return nil
}
