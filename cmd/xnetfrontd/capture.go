package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/capturefile"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/failure"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/framefilter"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/pcapng"
	"github.com/xnetfrontd/xnetfrontd/internal/printable"
	"github.com/xnetfrontd/xnetfrontd/pkg/control"
)

type captureCmd struct {
	Vif string `arg:"" complete:"vif" help:"The vif: its number, its MAC address or the name of its TAP."`
	controlFlags
	Write string `short:"w" required:"" placeholder:"FILE" type:"path" help:"File to write; an old one is replaced. - is the standard output, for a pipe."`
	captureFiles
	Direction string        `enum:"tx,rx,both" default:"both" help:"tx: only frames to the backend; rx: only frames from it."`
	Queue     []int         `placeholder:"N" help:"Only this queue. May be given several times."`
	SnapLen   int           `name:"snaplen" short:"s" placeholder:"BYTES" help:"Keep only so many bytes of each frame (default: all)."`
	Count     uint64        `short:"c" placeholder:"N" help:"End after so many frames."`
	Duration  time.Duration `placeholder:"TIME" help:"End after that time, like 30s or 5m."`
	Host      string        `placeholder:"ADDRESS" help:"Only frames from or to this address or network, ARP among them."`
	Port      int           `placeholder:"N" help:"Only TCP and UDP from or to this port."`
	Proto     string        `placeholder:"NAME" help:"Only this protocol: ${protos}."`
	Ether     string        `placeholder:"MAC" help:"Only frames from or to this MAC address."`
	BPF       string        `name:"bpf" placeholder:"FILE" help:"Only frames that match a program printed by tcpdump -ddd; - is the standard input."`
	Buffer    int           `placeholder:"KIB" help:"Room for frames that are not written yet, for each queue and direction (default: 2048)."`
}

func (c *captureCmd) Help() string {
	return `Writes pcapng, with an interface for each queue and direction. The comment of each frame
has its slots on the ring, with ids, flags and extras, and the status of the response. The
capture also has frames that get lost in the daemon or at the backend, and marks them. Only
root and the daemon's own user may capture; a vif has one capture at a time.

    xnetfrontd capture 0 -w vif0.pcapng
    xnetfrontd capture 0 -w - | wireshark -k -i -
    xnetfrontd capture 0 -w - --host 192.0.2.1 | tcpdump -n -r -
    tcpdump -y EN10MB -ddd 'tcp[13] & 2 != 0' | xnetfrontd capture 0 -w syn.pcapng --bpf -
    xnetfrontd capture 0 -w vif0.pcapng -C 100 -W 10   # the last 1 GB

The capture ends with Ctrl-C, or with the daemon. While it is read more slowly than frames
come, frames are dropped from the capture, and only from that.`
}

func (c *captureCmd) Run(s streams) error {
	q, err := c.request()
	if err != nil {
		return err
	}
	if err := c.check(c.Write); err != nil {
		return err
	}
	if f, ok := s.out.(*os.File); ok && c.Write == "-" && term.IsTerminal(int(f.Fd())) {
		return failure.Usagef("-w -: the standard output is a terminal: pipe it into wireshark or tcpdump, or give a file")
	}
	// SIGPIPE would end the program without a word when the reader of a pipe ends.
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGPIPE)
	defer signal.Stop(signals)
	stream, err := c.client().Capture(context.Background(), q)
	if err != nil {
		return err
	}
	defer stream.Close()
	out, closeOut, err := c.open(s)
	if err != nil {
		return err
	}
	fmt.Fprintf(s.err, "capturing vif %s; Ctrl-C ends it\n", printable.Line(c.Vif))
	done := make(chan struct{})
	defer close(done)
	go stopOnSignal(stream, signals, done)
	var count pcapng.Counter
	_, err = io.Copy(io.MultiWriter(out, &count), stream)
	err = errors.Join(captureEnd(&count, err), closeOut())
	fmt.Fprintf(s.err, "%d frames captured, %d dropped\n", count.Packets, count.Dropped())
	if err == nil && count.Why != "" {
		fmt.Fprintf(s.err, "it has ended because %s\n", printable.Line(count.Why))
	}
	return err
}

// request is the request to the daemon, checked as far as possible without the daemon.
func (c *captureCmd) request() (control.CaptureRequest, error) {
	q := control.CaptureRequest{
		Vif: c.Vif, SnapLen: c.SnapLen, Queues: c.Queue,
		Host: c.Host, Port: c.Port, Proto: c.Proto, Ether: c.Ether,
		Count: c.Count, Seconds: c.Duration.Seconds(), Buffer: c.Buffer << 10,
	}
	switch {
	case c.Duration < 0 || c.Duration.Seconds() > capturefile.MaxSeconds:
		return q, failure.Usagef("--duration %v: expected up to a year, or 0 for no end", c.Duration)
	case c.Buffer != 0 && (c.Buffer < 256 || c.Buffer > 64<<10):
		return q, failure.Usagef("--buffer %d: expected 256 to 65536 KiB", c.Buffer)
	}
	if c.Direction != "both" {
		q.Direction = c.Direction
	}
	if c.BPF != "" {
		program, err := readProgram(c.BPF)
		if err != nil {
			return q, err
		}
		q.BPF = program
	}
	if _, err := capturefile.Wanted(q); err != nil {
		return q, failure.Usagef("--%w", err)
	}
	if _, err := framefilter.New(framefilter.Words{Host: q.Host, Port: q.Port, Proto: q.Proto, Ether: q.Ether}, q.BPF); err != nil {
		return q, failure.Usagef("--%w", err)
	}
	return q, nil
}

// maxProgram is the longest text of a program, in bytes. A request has room for it.
const maxProgram = control.MaxRequest - 1024

// readProgram reads a program, with commas in place of its line ends.
func readProgram(path string) (string, error) {
	in := os.Stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return "", fmt.Errorf("--bpf: %w", err)
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, maxProgram+1))
	if err != nil {
		return "", fmt.Errorf("--bpf %s: %w", path, err)
	}
	switch {
	case len(b) > maxProgram:
		return "", failure.Usagef("--bpf %s: the program is longer than %d bytes: simplify the expression", path, maxProgram)
	case len(strings.TrimSpace(string(b))) == 0:
		return "", failure.Usagef("--bpf %s: it is empty: write what `tcpdump -ddd EXPRESSION` prints into it", path)
	}
	return strings.ReplaceAll(strings.TrimSpace(string(b)), "\n", ","), nil
}

// open makes the first file. Run calls it after the daemon has begun to capture, so that a
// refused capture leaves an old file alone.
func (c *captureCmd) open(s streams) (w io.Writer, end func() error, err error) {
	if c.Write == "-" {
		return s.out, func() error { return nil }, nil
	}
	next := c.opener(c.Write)
	if !c.several() {
		f, err := next()
		if err != nil {
			return nil, nil, err
		}
		return f, f.Close, nil
	}
	split := &pcapng.Splitter{Size: int64(c.FileSize) * 1e6, Every: time.Duration(c.FileTime), Next: next}
	return split, split.Close, split.Open()
}

// lastBlocks is how long the daemon may take for the last blocks of a capture.
const lastBlocks = 5 * time.Second

// stopOnSignal asks the daemon for the end of the capture on the first signal. On the second
// it does not wait for the daemon any longer.
func stopOnSignal(stream *control.Stream, signals <-chan os.Signal, done <-chan struct{}) {
	var late <-chan time.Time
	for {
		select {
		case <-done:
			return
		case sig := <-signals:
			if sig == unix.SIGPIPE {
				continue // the write has failed
			}
			if late != nil {
				_ = stream.Close()
				continue
			}
			late = time.After(lastBlocks)
			if stream.Stop() == nil {
				continue
			}
		case <-late:
		}
		_ = stream.Close()
	}
}

// captureEnd returns the error of a stream whose copy has ended with err, or nil if the stream
// is whole.
func captureEnd(count *pcapng.Counter, err error) error {
	switch {
	case errors.Is(err, unix.EPIPE):
		return nil // the reader has seen enough
	case errors.Is(err, pcapng.ErrFormat):
		return err
	case count.Ended:
		return nil
	case err != nil && !errors.Is(err, unix.ECONNRESET):
		return fmt.Errorf("the capture is not complete: %w", err)
	case !count.Whole():
		return errors.New("the capture is not complete: the daemon went away in the middle of a frame")
	}
	return errors.New("the capture is not complete: the daemon went away")
}

// captureFiles are the options for a capture in several files, as tcpdump has them.
type captureFiles struct {
	FileSize amount `name:"file-size" short:"C" placeholder:"MB" help:"Begin another file before one gets larger than so many million bytes: FILE, FILE1, FILE2 and so on."`
	FileTime span   `name:"file-time" short:"G" placeholder:"TIME" help:"Begin another file after that time: seconds, or like 10m."`
	Files    amount `name:"files" short:"W" placeholder:"N" help:"With -C or -G: use so many files, FILE0 and so on, and then overwrite the first one."`
}

// amount is the number of an option; 0: the option is not given. The largest is enough for a
// file a minute for a year, and for a file of a terabyte.
type amount int

const maxAmount = 1000000

// UnmarshalText reads a whole number.
func (a *amount) UnmarshalText(text []byte) error {
	n, err := strconv.Atoi(string(text))
	if err != nil || n < 1 || n > maxAmount {
		return fmt.Errorf("%q: expected a whole number from 1 to %d", text, maxAmount)
	}
	*a = amount(n)
	return nil
}

// span is the time of an option; 0: the option is not given.
type span time.Duration

const maxSpan = 10 * 365 * 24 * time.Hour

// UnmarshalText reads seconds, as tcpdump does, or the format of time.ParseDuration.
func (s *span) UnmarshalText(text []byte) error {
	d, err := time.ParseDuration(string(text))
	if n, nerr := strconv.ParseUint(string(text), 10, 32); nerr == nil {
		d, err = time.Duration(n)*time.Second, nil
	}
	if err != nil || d < time.Second || d > maxSpan {
		return fmt.Errorf("%q: expected a second or more, such as 90 or 10m", text)
	}
	*s = span(d)
	return nil
}

func (c *captureFiles) several() bool { return c.FileSize != 0 || c.FileTime != 0 }

// check fails if the options do not fit each other or the path.
func (c *captureFiles) check(path string) error {
	switch {
	case c.Files != 0 && !c.several():
		return failure.Usagef("-W %d: a number of files needs -C, their size, or -G, their time", c.Files)
	case c.several() && path == "-":
		return failure.Usagef("-w -: the standard output is one file: -C and -G need a name")
	}
	return nil
}

// name is the name of the n-th file of a capture to path.
func (c *captureFiles) name(path string, n int) string {
	switch {
	case c.Files != 0:
		return fmt.Sprintf("%s%0*d", path, len(strconv.Itoa(int(c.Files)-1)), n%int(c.Files))
	case n == 0:
		return path
	}
	return path + strconv.Itoa(n)
}

// opener opens one file after the other.
func (c *captureFiles) opener(path string) func() (io.WriteCloser, error) {
	n := 0
	return func() (io.WriteCloser, error) {
		f, err := openCapture(c.name(path, n))
		n++
		return f, err
	}
}

// openCapture opens a file for writing. Only its owner may read a new one.
func openCapture(path string) (io.WriteCloser, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("-w: %w", err)
	}
	return f, nil
}
