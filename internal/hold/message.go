package hold

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// greeting is the first message of either side, the client's first. Its layout is for
// all versions: the magic, the version as a big-endian u32, and the reason of a
// refusal, if it is one. The holder's has text only when it refuses.
type greeting struct {
	version uint32
	reason  string
}

const (
	magic         = "xnf-hold"
	maxReason     = 1024
	greetingSpace = len(magic) + 4 + maxReason
)

var errNoGreeting = errors.New("not a greeting of the holder's protocol")

func (g greeting) encode() []byte {
	b := binary.BigEndian.AppendUint32([]byte(magic), g.version)
	return append(b, g.reason[:min(len(g.reason), maxReason)]...)
}

func decodeGreeting(b []byte) (greeting, error) {
	if len(b) < len(magic)+4 || len(b) > greetingSpace || string(b[:len(magic)]) != magic {
		return greeting{}, errNoGreeting
	}
	b = b[len(magic):]
	return greeting{binary.BigEndian.Uint32(b), string(b[4:])}, nil
}

// op is what a message is.
type op uint8

const (
	// Requests, and the fields that they use.
	opPut  op = iota + 1 // key, text = label, names, parked (empty, or park it at once)
	opGet                // key, or parked
	opDrop               // key
	opPark               // key, parked = the identifier that it gets
	opList               //

	// Answers.
	opDone     // end of a list too
	opBundle   // to a get; descriptors with it; fields as in a put
	opEntry    // one of a list; fields as in a put, without descriptors
	opNotFound // text = reason
	opRefused  // text = reason
)

// message is everything after the greetings: the operation, and three texts and a list
// of names, each text with its length in front.
//
//	op u8 | parked u8+bytes | key u8+bytes | text u16+bytes | count u8 | names, each u8+bytes
//
// Numbers are big-endian. A message with names comes with as many descriptors, in the
// same order, unless it is an entry of a list.
type message struct {
	op     op
	parked string
	key    string
	text   string
	names  []string
}

// maxMessage is the longest message: everything at its limit.
const maxMessage = 1 + (1 + MaxKey) + (1 + MaxKey) + (2 + MaxLabel) + 1 + MaxFiles*(1+MaxName)

var errMessage = errors.New("malformed message")

// encode needs fields that are within the limits.
func (m message) encode() []byte {
	b := append(make([]byte, 0, 256), byte(m.op), byte(len(m.parked)))
	b = append(b, m.parked...)
	b = append(append(b, byte(len(m.key))), m.key...)
	b = append(binary.BigEndian.AppendUint16(b, uint16(len(m.text))), m.text...)
	b = append(b, byte(len(m.names)))
	for _, n := range m.names {
		b = append(append(b, byte(len(n))), n...)
	}
	return b
}

// decode takes a message apart. It checks the layout; whether the fields make sense for
// the operation is for who handles it.
func decode(b []byte) (message, error) {
	if len(b) == 0 || len(b) > maxMessage {
		return message{}, fmt.Errorf("%w: %d bytes", errMessage, len(b))
	}
	m := message{op: op(b[0])}
	if m.op < opPut || m.op > opRefused {
		return message{}, fmt.Errorf("%w: operation %d", errMessage, b[0])
	}
	r := reader{rest: b[1:]}
	m.parked = r.text(1, MaxKey)
	m.key = r.text(1, MaxKey)
	m.text = r.text(2, MaxLabel)
	if n := r.number(1, MaxFiles); n > 0 {
		m.names = make([]string, n)
		for i := range m.names {
			m.names[i] = r.text(1, MaxName)
		}
	}
	if r.bad || len(r.rest) != 0 {
		return message{}, fmt.Errorf("%w: %d bytes do not add up", errMessage, len(b))
	}
	return m, nil
}

// reader takes fields off a message. After the first that is not there all are empty.
type reader struct {
	rest []byte
	bad  bool
}

func (r *reader) number(size, limit int) int {
	if len(r.rest) < size {
		r.bad = true
	}
	if r.bad {
		return 0
	}
	n := 0
	for _, c := range r.rest[:size] {
		n = n<<8 | int(c)
	}
	r.rest = r.rest[size:]
	if n > limit {
		r.bad = true
		return 0
	}
	return n
}

func (r *reader) text(size, limit int) string {
	n := r.number(size, limit)
	if len(r.rest) < n {
		r.bad = true
	}
	if r.bad {
		return ""
	}
	s := string(r.rest[:n])
	r.rest = r.rest[n:]
	return s
}

// bundleMessage is a bundle as a put or as the answer to a get.
func bundleMessage(o op, b *Bundle) message {
	names := make([]string, len(b.Files))
	for i, f := range b.Files {
		names[i] = f.Name
	}
	return message{op: o, parked: b.Parked, key: b.Key, text: b.Label, names: names}
}

// bundle is the inverse of bundleMessage. The bundle has fds when there is no error.
func (m message) bundle(fds []int) (*Bundle, error) {
	if len(fds) != len(m.names) {
		return nil, fmt.Errorf("bundle %q: %d descriptors came for %d names", m.key, len(fds), len(m.names))
	}
	b := &Bundle{Key: m.key, Label: m.text, Parked: m.parked, Files: make([]File, len(fds))}
	for i, fd := range fds {
		b.Files[i] = File{m.names[i], fd}
	}
	return b, b.check()
}

func (b *Bundle) fds() []int {
	fds := make([]int, len(b.Files))
	for i, f := range b.Files {
		fds[i] = f.FD
	}
	return fds
}
