package pcapng

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/gopacket/gopacket/pcapgo"
)

// files are what a Splitter makes.
type files struct {
	made []*bytes.Buffer
	fail error
}

type memoryFile struct{ *bytes.Buffer }

func (memoryFile) Close() error { return nil }

func (f *files) next() (io.WriteCloser, error) {
	if f.fail != nil {
		return nil, f.fail
	}
	b := new(bytes.Buffer)
	f.made = append(f.made, b)
	return memoryFile{b}, nil
}

// packets reads a file to its end.
func packets(t *testing.T, b []byte) (n int) {
	t.Helper()
	r, err := pcapgo.NewNgReader(bytes.NewReader(b), pcapgo.DefaultNgReaderOptions)
	if err != nil {
		t.Fatal(err)
	}
	for ; ; n++ {
		_, ci, err := r.ReadPacketData()
		if errors.Is(err, io.EOF) {
			return n
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Interface(ci.InterfaceIndex); err != nil {
			t.Fatal(err)
		}
	}
}

func TestEachFileOfASplitStreamCanBeReadByItself(t *testing.T) {
	stream := testStream(t, 300)
	for _, c := range []struct {
		name  string
		split Splitter
		want  []int // packets in each file
	}{
		{"one that is large enough", Splitter{Size: int64(len(stream))}, []int{3}},
		{"no file is without a packet", Splitter{Size: 1}, []int{1, 1, 1}},
		{"by time", Splitter{Every: time.Nanosecond}, []int{1, 1, 1}},
		{"not at all", Splitter{}, []int{3}},
	} {
		for _, piece := range []int{1, 7, 100, len(stream)} {
			f := &files{}
			s := c.split
			s.Next = f.next
			for at := 0; at < len(stream); at += piece {
				part := stream[at:min(at+piece, len(stream))]
				if n, err := s.Write(part); n != len(part) || err != nil {
					t.Fatal(n, err)
				}
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if len(f.made) != len(c.want) {
				t.Fatalf("%s, pieces of %d: %d files, want %d", c.name, piece, len(f.made), len(c.want))
			}
			for i, b := range f.made {
				if n := packets(t, b.Bytes()); n != c.want[i] {
					t.Errorf("%s: file %d has %d packets, want %d", c.name, i, n, c.want[i])
				}
			}
			if len(f.made) == 1 && !bytes.Equal(f.made[0].Bytes(), stream) {
				t.Errorf("%s: the file is not the stream", c.name)
			}
		}
	}
}

func TestSplitterRefusesWhatIsNoStream(t *testing.T) {
	f := &files{}
	s := Splitter{Size: 1, Next: f.next}
	if _, err := s.Write([]byte("GET / HTTP/1.1\r\n")); !errors.Is(err, ErrFormat) {
		t.Error(err)
	}
	full := errors.New("no space left")
	f = &files{}
	s = Splitter{Size: 1, Next: f.next}
	if err := s.Open(); err != nil {
		t.Fatal(err)
	}
	f.fail = full
	if _, err := s.Write(testStream(t, 10)); !errors.Is(err, full) {
		t.Error(err)
	}
}
