package xenstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// Limits of xs_wire.h, in bytes.
const (
	HeaderSize      = 16   // sizeof(struct xsd_sockmsg)
	MaxPayload      = 4096 // XENSTORE_PAYLOAD_MAX; xenstored drops a connection that sends more
	MaxAbsolutePath = 3072 // XENSTORE_ABS_PATH_MAX
	MaxRelativePath = 2048 // XENSTORE_REL_PATH_MAX
)

// ErrMalformed says that bytes from the other side are not what the protocol allows
// there. It is wrapped with what was wrong.
var ErrMalformed = errors.New("malformed message")

// MessageType says what a message asks or answers (enum xsd_sockmsg_type). A reply
// has the type of its request, or [TypeError].
type MessageType uint32

// The message types, with the payloads of request → reply. "|" is a NUL byte. Where
// no reply is given it is [Acknowledgement].
const (
	TypeControl            MessageType = 0  // <command>|[<parameters>|]
	TypeDirectory          MessageType = 1  // <path>| → (<name>|)*
	TypeRead               MessageType = 2  // <path>| → <value>, any bytes
	TypeGetPermissions     MessageType = 3  // <path>| → (<permission>|)+
	TypeWatch              MessageType = 4  // <path>|<token>|
	TypeUnwatch            MessageType = 5  // <path>|<token>|
	TypeTransactionStart   MessageType = 6  // | → <transaction>|
	TypeTransactionEnd     MessageType = 7  // T| to commit, F| to drop
	TypeIntroduce          MessageType = 8  // toolstack only
	TypeRelease            MessageType = 9  // toolstack only
	TypeGetDomainPath      MessageType = 10 // <domid>| → <path>|
	TypeWrite              MessageType = 11 // <path>|<value>, any bytes
	TypeMkdir              MessageType = 12 // <path>|
	TypeRemove             MessageType = 13 // <path>|
	TypeSetPermissions     MessageType = 14 // <path>|(<permission>|)+
	TypeWatchEvent         MessageType = 15 // from the server, unasked: <path>|<token>|
	TypeError              MessageType = 16 // from the server: <name>|, see [ParseError]
	TypeIsDomainIntroduced MessageType = 17 // <domid>| → T| or F|
	TypeResume             MessageType = 18 // toolstack only
	TypeSetTarget          MessageType = 19 // toolstack only
	TypeResetWatches       MessageType = 21 // |; 20 was XS_RESTRICT, no longer valid
	TypeDirectoryPart      MessageType = 22 // <path>|<offset>| → see [AppendDirectoryPart]
	TypeGetFeature         MessageType = 23 // [<domid>|] → <value>|
	TypeSetFeature         MessageType = 24 // <domid>|<value>|
	TypeGetQuota           MessageType = 25 // [<domid>|][<quota>|] → <value>|
	TypeSetQuota           MessageType = 26 // [<domid>|]<quota>|<value>|
)

// Acknowledgement is the payload of a reply that has nothing else to say.
const Acknowledgement = "OK\x00"

// String is the type's name in docs/misc/xenstore.txt.
func (t MessageType) String() string {
	names := [...]string{
		"CONTROL", "DIRECTORY", "READ", "GET_PERMS", "WATCH", "UNWATCH",
		"TRANSACTION_START", "TRANSACTION_END", "INTRODUCE", "RELEASE",
		"GET_DOMAIN_PATH", "WRITE", "MKDIR", "RM", "SET_PERMS", "WATCH_EVENT",
		"ERROR", "IS_DOMAIN_INTRODUCED", "RESUME", "SET_TARGET", "", "RESET_WATCHES",
		"DIRECTORY_PART", "GET_FEATURE", "SET_FEATURE", "GET_QUOTA", "SET_QUOTA",
	}
	if int64(t) < int64(len(names)) && names[t] != "" {
		return names[t]
	}
	return "type " + strconv.FormatUint(uint64(t), 10)
}

// Header begins every message (struct xsd_sockmsg): four 32-bit words in this order.
// The words are in the byte order of the machine, which for Xen is little endian.
type Header struct {
	Type        MessageType
	Request     uint32 // req_id: chosen by the client, echoed in the reply
	Transaction uint32 // tx_id: 0 outside of a transaction, echoed in the reply
	Length      uint32 // len: bytes of payload that follow, at most MaxPayload
}

// ParseHeader reads the header at the beginning of b. It fails with [ErrMalformed]
// if b is too short or the header announces more than [MaxPayload].
func ParseHeader(b []byte) (Header, error) {
	if len(b) < HeaderSize {
		return Header{}, fmt.Errorf("%w: %d bytes of header", ErrMalformed, len(b))
	}
	h := Header{
		Type:        MessageType(binary.LittleEndian.Uint32(b)),
		Request:     binary.LittleEndian.Uint32(b[4:]),
		Transaction: binary.LittleEndian.Uint32(b[8:]),
		Length:      binary.LittleEndian.Uint32(b[12:]),
	}
	if h.Length > MaxPayload {
		return h, fmt.Errorf("%w: %v with %d bytes of payload", ErrMalformed, h.Type, h.Length)
	}
	return h, nil
}

// Append appends the header to b.
func (h Header) Append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(h.Type))
	b = binary.LittleEndian.AppendUint32(b, h.Request)
	b = binary.LittleEndian.AppendUint32(b, h.Transaction)
	return binary.LittleEndian.AppendUint32(b, h.Length)
}

// AppendMessage appends a whole message to b: h, with the Length of payload, and
// payload. The caller keeps payload within [MaxPayload].
func AppendMessage(b []byte, h Header, payload []byte) []byte {
	h.Length = uint32(len(payload))
	return append(h.Append(b), payload...)
}

// ReadMessage reads one message from r, in as many reads as it takes. The payload is
// the caller's. The error is [io.EOF] only if r ended between two messages; a message
// cut off is [io.ErrUnexpectedEOF], a wrong header [ErrMalformed]. After an error r
// cannot be used any more, since nobody knows where the next message begins.
func ReadMessage(r io.Reader) (Header, []byte, error) {
	var b [HeaderSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return Header{}, nil, err
	}
	h, err := ParseHeader(b[:])
	if err != nil {
		return h, nil, err
	}
	payload := make([]byte, h.Length)
	if _, err := io.ReadFull(r, payload); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return h, nil, err
	}
	return h, payload, nil
}

// AppendString appends s and a NUL byte to b.
func AppendString(b []byte, s string) []byte { return append(append(b, s...), 0) }

// CutString takes the first string, which must end with a NUL byte, off payload. Rest
// is what follows the NUL; it is a part of payload.
func CutString(payload []byte) (s string, rest []byte, err error) {
	before, rest, ok := bytes.Cut(payload, []byte{0})
	if !ok {
		return "", nil, fmt.Errorf("%w: string without its NUL", ErrMalformed)
	}
	return string(before), rest, nil
}

// AppendStrings appends each of list, with a NUL byte after each, to b.
func AppendStrings(b []byte, list []string) []byte {
	for _, s := range list {
		b = AppendString(b, s)
	}
	return b
}

// ParseStrings splits a payload that consists of strings with a NUL byte after each.
// An empty payload is an empty list.
func ParseStrings(payload []byte) ([]string, error) {
	list := make([]string, 0, bytes.Count(payload, []byte{0}))
	for len(payload) > 0 {
		s, rest, err := CutString(payload)
		if err != nil {
			return nil, err
		}
		list, payload = append(list, s), rest
	}
	return list, nil
}

// AppendWatchEvent appends the payload of a [TypeWatchEvent] to b.
func AppendWatchEvent(b []byte, path, token string) []byte {
	return AppendString(AppendString(b, path), token)
}

// ParseWatchEvent is the counterpart of [AppendWatchEvent]. What follows the token is
// left alone: servers may add to it.
func ParseWatchEvent(payload []byte) (path, token string, err error) {
	path, rest, err := CutString(payload)
	if err != nil {
		return "", "", err
	}
	token, _, err = CutString(rest)
	return path, token, err
}

// ParseTransaction reads the reply to a [TypeTransactionStart]: a number other than
// 0, in decimal.
func ParseTransaction(payload []byte) (uint32, error) {
	s, rest, err := CutString(payload)
	if err != nil {
		return 0, err
	}
	id, err := strconv.ParseUint(s, 10, 32)
	if err != nil || id == 0 || len(rest) > 0 {
		return 0, fmt.Errorf("%w: transaction %q", ErrMalformed, payload)
	}
	return uint32(id), nil
}

// AppendTransaction is the counterpart of [ParseTransaction].
func AppendTransaction(b []byte, id uint32) []byte {
	return append(strconv.AppendUint(b, uint64(id), 10), 0)
}
