// Package xenstore talks to xenstored: the tree of strings in which a frontend and
// its backend find each other, watch each other's state and agree on features.
//
// A [Client] works on anything that carries the wire protocol: the kernel's device
// in a guest ([Open]), xenstored's socket in domain 0 ([Dial]), or any connection
// ([New]). It may be used by any number of goroutines.
//
// The protocol itself (xen/include/public/io/xs_wire.h, docs/misc/xenstore.txt) is
// exported as pure functions over bytes, so that a server can be built on the same
// encoding: [Header], [ReadMessage], [AppendMessage], [CutString], [ParseStrings],
// [ParsePermissions], [ParseError], [ParseWatchEvent], [AppendDirectoryPart] and
// their counterparts.
//
// From version 1.0.0 of the module on, the package follows Go's rules of compatibility. The errors that
// it returns for a number of xenstored are stable, too.
package xenstore
