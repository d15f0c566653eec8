// Package xensim is a Xen in a program: enough of the hypervisor and its toolstack
// for a frontend and a backend to find each other and share pages and events, on a
// machine that has no Xen. Tests, the demo and the benchmark stand on it.
//
// A [Server] has a xenstored (package xenstored), and the "hypercalls": grants,
// which are memfds, and event channels, which are bits in a memfd and an eventfd.
// A [Connection] is one domain's process: as a guest through [Connection.Guest],
// as a backend through [Connection.MapGrant] and [EventFile.BindInterdomain]. It is
// in the server's own process ([Server.Connect]) or in another one ([Dial]).
//
// What it imitates, since tests rely on it:
//
//   - gntalloc's limit of the whole guest, and pages that stay out of use after
//     Free while the peer has them mapped;
//   - event channels that are masked from Read to Unmask, that a binding raises
//     once on the binder's side, and that become unbound when the other end goes;
//   - that a restored guest has lost its channels and grants without being told
//     ([Server.Restore]);
//   - that everything belongs to an open file: when the last process that has it
//     open is gone, its grants, ports, watches and transactions end.
//
// What it does otherwise: a port that is raised wakes who waits for its file in any case.
// Linux does so only if no other port of the file waits to be read, and by chance a port
// is raised in the middle of that; a test of the worker has a file that does it each time.
//
// Each handle (gntalloc, gntdev, an EventFile, xenstore) is one socket to the
// server, which is how the server learns of the end of a process. A handle's socket
// can be passed to another process, which goes on with it: see
// [EventFile.Handle] and [AdoptEventFile].
//
// Domains are trusted to be who they say they are, and to leave each other's words
// in the shared event memory alone. The content of granted pages is as untrusted
// here as anywhere.
package xensim
