package xensim

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// op is what a request asks for. The fields of request that matter are in brackets,
// then what the reply has: values, then objects.
type op uint32

const (
	// The first request on a socket says what it is a handle of.
	opOpenGrants op = 1 + iota // [Domain = the caller's]
	opOpenMaps                 // [Domain = the caller's]
	opOpenEvents               // [Domain = the caller's]
	opOpenStore                // [Domain = the caller's] → - ; socket that speaks xs_wire

	// On a handle of grants (gntalloc).
	opAlloc       // [Domain = peer, Count, Flags] → index, refs... ; the slab
	opFree        // [Index]
	opSlab        // [Index, Count] → index, refs... ; the slab
	opUnmapNotify // [Index, Offset, Number = port, Flags]
	opLimit       // → limit
	opLeft        // → pages that were freed and that the peer has mapped
	opRaiseLimit  // [Count]

	// On a handle of mappings (gntdev).
	opMap   // [Domain = granter, Number = ref, Flags] → id, entry ; the page
	opUnmap // [Index = id]
	opTable // [Domain = granter] ; its table

	// On a handle of event channels (evtchn).
	opBind            // [Domain = remote] → port, slot
	opBindInterdomain // [Domain = remote, Number = its port] → port, slot
	opUnbind          // [Number = port]
	opPeer            // [Number = port] → link, slot, generation ; its memory, its eventfd
	opEvents          // → port, slot, port, slot, ... ; this file's memory, its eventfd
)

// Bits of request.Flags.
const (
	flagWritable  = 1 << 0 // opAlloc, opMap
	flagCopy      = 1 << 1 // opMap: for grant copies, do not hold the page
	flagClearByte = 1 << 2 // opUnmapNotify
	flagSendEvent = 1 << 3 // opUnmapNotify
)

// request is one call to the server. On a socket it is one message of requestSize
// bytes, the fields in order, little-endian.
type request struct {
	Op     op
	Domain uint32
	Number uint32
	Flags  uint32
	Count  uint32
	Offset uint32
	Index  uint64
	// Tag comes back with the reply. It is another one in each call of each process: a
	// socket can hold the reply to one that was killed before it could read it.
	Tag uint64
}

const requestSize = 40

func (q *request) append(b []byte) []byte {
	le := binary.LittleEndian
	b = le.AppendUint32(b, uint32(q.Op))
	b = le.AppendUint32(b, q.Domain)
	b = le.AppendUint32(b, q.Number)
	b = le.AppendUint32(b, q.Flags)
	b = le.AppendUint32(b, q.Count)
	b = le.AppendUint32(b, q.Offset)
	b = le.AppendUint64(b, q.Index)
	return le.AppendUint64(b, q.Tag)
}

// parseRequest decodes a message. Another length than requestSize is not one.
func parseRequest(b []byte) (request, bool) {
	if len(b) != requestSize {
		return request{}, false
	}
	le := binary.LittleEndian
	return request{
		Op:     op(le.Uint32(b)),
		Domain: le.Uint32(b[4:]),
		Number: le.Uint32(b[8:]),
		Flags:  le.Uint32(b[12:]),
		Count:  le.Uint32(b[16:]),
		Offset: le.Uint32(b[20:]),
		Index:  le.Uint64(b[24:]),
		Tag:    le.Uint64(b[32:]),
	}, true
}

// reply answers a request. On a socket it is one message: the request's tag (64 bits),
// error number and number of objects (32 bits each), then offset, size and writable of each object, then
// the values, 64 bits each. The objects' descriptors come with it (SCM_RIGHTS).
type reply struct {
	Values  []uint64
	Objects []object
}

// replySize is how long the reply to q can be, in bytes.
func (q *request) replySize() int {
	values := 4
	switch q.Op {
	case opAlloc, opSlab:
		values = 1 + int(min(q.Count, maxAlloc))
	case opEvents:
		values = 2 * fileSlots
	}
	return replyHeader + maxObjects*24 + 8*values
}

const (
	maxObjects  = 2
	replyHeader = 16
)

func (r *reply) close() {
	for i := range r.Objects {
		r.Objects[i].close()
	}
	r.Objects = nil
}

func appendReply(b []byte, tag uint64, r *reply, errno unix.Errno) []byte {
	le := binary.LittleEndian
	b = le.AppendUint64(b, tag)
	b = le.AppendUint32(b, uint32(errno))
	b = le.AppendUint32(b, uint32(len(r.Objects)))
	for _, o := range r.Objects {
		writable := uint64(0)
		if o.writable {
			writable = 1
		}
		b = le.AppendUint64(b, uint64(o.offset))
		b = le.AppendUint64(b, uint64(o.size))
		b = le.AppendUint64(b, writable)
	}
	for _, v := range r.Values {
		b = le.AppendUint64(b, v)
	}
	return b
}

// answers tells whether a message is the reply to the request with that tag. It may have
// been cut behind its header.
func answers(b []byte, tag uint64) bool {
	return len(b) >= replyHeader && binary.LittleEndian.Uint64(b) == tag
}

// parseReply decodes a message with the descriptors that came with it, which it
// takes over, also when it fails.
func parseReply(b []byte, fds []int) (reply, unix.Errno) {
	var r reply
	for _, fd := range fds {
		r.Objects = append(r.Objects, object{fd: fd})
	}
	le := binary.LittleEndian
	if len(b) < replyHeader || len(b)%8 != 0 || uint64(le.Uint32(b[12:])) != uint64(len(fds)) || len(b) < replyHeader+24*len(fds) {
		r.close()
		return reply{}, unix.EPROTO
	}
	errno := unix.Errno(le.Uint32(b[8:]))
	b = b[replyHeader:]
	for i := range r.Objects {
		o := &r.Objects[i]
		o.offset, o.size, o.writable = int(le.Uint64(b)), int(le.Uint64(b[8:])), le.Uint64(b[16:]) != 0
		b = b[24:]
	}
	for ; len(b) > 0; b = b[8:] {
		r.Values = append(r.Values, le.Uint64(b))
	}
	if errno != 0 {
		r.close()
		return reply{}, errno
	}
	return r, 0
}
