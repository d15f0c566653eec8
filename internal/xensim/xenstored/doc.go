// Package xenstored is a xenstore server for the embedded Xen. It speaks xs_wire
// (docs/misc/xenstore.txt) on any stream, and keeps to what frontends and backends
// can tell from outside of the C xenstored: permissions, transactions that end with
// EAGAIN when a node they touched was changed meanwhile, watches, quotas and the
// very errors.
//
// It trusts no client: what is not the protocol ends that client's connection.
package xenstored
