package wire

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// Kind says what a message of a stream is.
type Kind byte

// The first message is a Request. What follows depends on it:
//
//	Exec    client: Stdin* StdinEnd, Signal*, Resize*   server: Started (Ready|Stdout|Stderr)* Exited
//	Wait    server: Exited
//	Read    server: Data* End
//	Write   client: Data* End                           server: End
//	Relay   server: Started, then bytes both ways with no messages
//
// A server that fails sends Failed in place of the rest. A client that goes away ends
// what it asked for, except a detached command, for whose end any client can Wait.
const (
	KindRequest  Kind = iota + 1 // Request
	KindStarted                  // Started
	KindReady                    // nothing
	KindStdin                    // bytes
	KindStdinEnd                 // nothing
	KindSignal                   // Signal
	KindResize                   // Terminal
	KindStdout                   // bytes
	KindStderr                   // bytes
	KindExited                   // Exited
	KindData                     // bytes
	KindEnd                      // nothing
	KindFailed                   // text
)

// Request is what a stream is for. One of its fields is set.
type Request struct {
	Exec  *Exec  `json:"exec,omitempty"`
	Wait  int    `json:"wait,omitempty"` // a detached command's pid
	Read  string `json:"read,omitempty"` // path
	Write *Write `json:"write,omitempty"`
	Relay string `json:"relay,omitempty"` // path of a terminal
}

// Exec is a command to execute, in a process group of its own.
type Exec struct {
	Argv     []string  `json:"argv"`
	Env      []string  `json:"env,omitempty"`
	Dir      string    `json:"dir,omitempty"`
	Detached string    `json:"detached,omitempty"` // file for the output
	Notify   bool      `json:"notify,omitempty"`   // send Ready at the command's READY=1, as sd_notify(3) has it
	Terminal *Terminal `json:"terminal,omitempty"` // run in a session with a terminal of this size
}

// Terminal is a terminal's size.
type Terminal struct {
	Rows    uint16 `json:"rows"`
	Columns uint16 `json:"columns"`
}

// Write is a file to write.
type Write struct {
	Path string `json:"path"`
	Mode uint32 `json:"mode"` // permission bits
}

// Started says that the command runs.
type Started struct {
	Pid int `json:"pid"`
}

// Signal is sent to the command's process group.
type Signal struct {
	Number int `json:"number"`
}

// Exited says how a command ended.
type Exited struct {
	Code   int    `json:"code"`             // -1 after a signal
	Signal string `json:"signal,omitempty"` // its name
}

// maxMessage is the longest message that is accepted.
const maxMessage = 1 << 20

// Messages are those of one stream. Send may be called by any goroutine, Receive by
// one at a time.
type Messages struct {
	stream io.ReadWriter
	mu     sync.Mutex
}

// NewMessages returns the messages of stream.
func NewMessages(stream io.ReadWriter) *Messages { return &Messages{stream: stream} }

// Send sends one message of bytes.
func (m *Messages) Send(k Kind, payload []byte) error {
	b := make([]byte, 5, 5+len(payload))
	b[0] = byte(k)
	binary.BigEndian.PutUint32(b[1:], uint32(len(payload)))
	m.mu.Lock()
	defer m.mu.Unlock()
	_, err := m.stream.Write(append(b, payload...))
	return err
}

// SendJSON sends one message that is a value.
func SendJSON[V any](m *Messages, k Kind, v V) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return m.Send(k, b)
}

// Receive returns the next message. Failed is an error here; the end of the stream is
// io.EOF.
func (m *Messages) Receive() (Kind, []byte, error) {
	var h [5]byte
	if _, err := io.ReadFull(m.stream, h[:]); err != nil {
		return 0, nil, err
	}
	size := binary.BigEndian.Uint32(h[1:])
	if size > maxMessage {
		return 0, nil, fmt.Errorf("a message of %d bytes; at most %d are accepted", size, maxMessage)
	}
	payload := make([]byte, size)
	if _, err := io.ReadFull(m.stream, payload); err != nil {
		return 0, nil, err
	}
	if Kind(h[0]) == KindFailed {
		return 0, nil, errors.New(string(payload))
	}
	return Kind(h[0]), payload, nil
}

// Decode reads a message that is a value.
func Decode[V any](payload []byte) (V, error) {
	var v V
	if err := json.Unmarshal(payload, &v); err != nil {
		return v, fmt.Errorf("message %q: %w", payload, err)
	}
	return v, nil
}

// ReceiveJSON receives one message, which must be of this kind, as a value.
func ReceiveJSON[V any](m *Messages, want Kind) (v V, err error) {
	k, payload, err := m.Receive()
	if err != nil {
		return v, err
	}
	if k != want {
		return v, fmt.Errorf("a message of kind %d where %d must be", k, want)
	}
	return Decode[V](payload)
}
