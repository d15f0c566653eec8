// Package hold keeps file descriptors alive while nobody uses them.
//
// The live state of a vif is file descriptors and the pages behind them: as long as
// somebody has them open, another process can go on where the last one was ended. The
// holder is that somebody. It is a process that does nothing but keep named bundles
// of descriptors, which come and go over a unix socket; it never reads, writes or maps
// one of them, so that it hardly ever needs to change.
//
// A [Server] is the holder, a [Client] one connection to it. A daemon uses a [Keeper],
// which remembers everything that was handed to the holder, starts a holder when there
// is none, and hands everything to the next holder when one dies.
//
// # Parked bundles
//
// After a save and restore or a migration of the guest, Linux cannot release the event
// channels of before (docs/kernel-bugs), so that their descriptors must stay open until
// the guest is off. Such bundles are parked: the holder keeps them for ever, under an identifier of
// their own, so that their key is free for what replaces them. They can be listed and
// fetched, but not replaced or dropped.
//
// # Protocol
//
// SOCK_SEQPACKET, so that a message arrives whole or not at all, descriptors
// (SCM_RIGHTS) included: a client that is killed while it puts a bundle changes
// nothing. Both sides greet with their version first; see [Version]. Then the client
// sends one request at a time and the holder answers it. The layout of a message is in
// message.go.
package hold

import "time"

// Version is the version of the protocol. Both sides must have the same: a holder
// outlives upgrades of the daemon, so a change of this number makes a restart lose
// what a change of a bundle's label would not.
const Version = 1

// DefaultSocket is where the holder listens.
const DefaultSocket = "/run/xnetfrontd-hold/hold.sock"

// Limits of a bundle, and of a holder.
const (
	MaxKey     = 128  // bytes of a key, and of a parked bundle's identifier
	MaxName    = 64   // bytes of a descriptor's name
	MaxLabel   = 4096 // bytes of a label
	MaxFiles   = 200  // descriptors of a bundle; the kernel passes 253 at most (SCM_MAX_FD)
	MaxBundles = 1024 // bundles that a holder has, parked ones included
	MaxClients = 32   // connections that a holder serves at a time
)

// CallTimeout bounds every call of a [Client] or a [Keeper]. The caller may have frames
// to carry.
const CallTimeout = 2 * time.Second
