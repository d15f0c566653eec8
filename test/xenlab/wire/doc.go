// Package wire carries sessions of many streams over one line of bytes that was not
// made for it: a virtio-serial port, or a guest's console, on which kernels print and
// where half a frame of a former session may be waiting.
//
// The line carries frames. Each has its session's number and its own, and two
// checksums, so that a reader finds the next frame behind whatever lies between, and
// notices if one is missing. A client begins a session with a number that it draws,
// and says hello until the server welcomes that number; a server that sees a hello
// with a new number drops what it had. So a session can be begun at any time, on any
// state of the line: after a restore of the guest too, whose agent knows of nothing.
//
// Over a session's frames runs yamux. Its streams carry messages: a request, and what
// belongs to it.
package wire
