package traffic

import (
	"encoding/json"
	"fmt"
	"io"
)

// Commands are the tools as commands of a kong parser, to be embedded into another
// command's. Their Run methods take a context.Context, which ends them early, and the
// io.Writer that their JSON goes to; the parser must bind both.
type Commands struct {
	Send        Send        `cmd:"" help:"Send seeded bytes over TCP and compare the hash with the receiver's."`
	Receive     Receive     `cmd:"" help:"Receive what send sends."`
	Stream      Stream      `cmd:"" help:"Send numbered UDP packets at a rate."`
	StreamSink  StreamSink  `cmd:"" help:"Receive what stream sends, and tell what is missing."`
	Ask         Ask         `cmd:"" help:"Send small requests over one TCP connection at a rate, and time their answers."`
	Answer      Answer      `cmd:"" help:"Answer what ask sends."`
	WatchFrames WatchFrames `cmd:"" help:"Count the frames that pass an interface, and check their checksums."`
}

// Ready is the first line of a command that waits for somebody. It is printed once
// nothing can be missed any more.
type Ready struct {
	Ready string `json:"ready"` // where: an address or an interface
}

// print writes one line of JSON.
func print[T any](out io.Writer, v T) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s\n", b)
	return err
}
