// Package tap is the TAP interface on which a vif appears in its guest: the link and
// its settings, its queues, and the frames that go through them.
//
// # The link and its keeper
//
// [Create] makes a multi-queue TAP whose frames carry a virtio header of
// [VirtioHeaderSize] bytes, little-endian on every machine. The descriptor that made
// it stays behind as the keeper queue: attached to the link, but detached as a queue,
// so that no frame is ever put on it. A TAP lives as long as any of its descriptors,
// so the link, its addresses and its routes outlive every worker queue; and a queue
// opened while another one exists inherits the virtio header.
//
// Worker queues are opened and closed by [Device.SetQueues]. A queue that is closed or
// detached loses the frames it holds, so queues that are wanted again stay attached
// across reconnects, with the carrier off.
//
// # Frames
//
// A [Reader] takes frames that Linux sends, a [Writer] hands frames to Linux as
// received. Both work in batches of one system call, through an io_uring of their own,
// and with plain reads and writes when the kernel or the sandbox refuses io_uring.
// Neither allocates.
//
//	read:  [virtio header 12 bytes | frame]    one buffer for each frame
//	write: the same, gathered from any number of pieces
//
// # Namespaces and goroutines
//
// A link belongs to the network namespace of the thread that calls [Create], and a
// Device works on it from any goroutine. All methods of a [Device] may be called by
// any goroutine; a [Reader] and a [Writer] belong to one goroutine each.
//
// # Stability
//
// From version 1.0.0 of the module on, the package follows Go's rules of compatibility. [Adopt],
// [RestrictUring] and the shaping of queues are the daemon's, and can change with a minor version.
package tap
