package wire

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"
)

// lineOf is frames as they go over a line.
func lineOf(t testing.TB, frames ...frame) []byte {
	t.Helper()
	var b bytes.Buffer
	w := &frameWriter{to: &b}
	for _, f := range frames {
		if err := w.write(f); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

// framesIn reads all frames of a line, and what is between them.
func framesIn(t *testing.T, line io.Reader) (frames []frame, noise string) {
	t.Helper()
	var between bytes.Buffer
	r := newFrameReader(line, &between)
	for {
		f, err := r.read()
		if errors.Is(err, io.EOF) {
			return frames, between.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		f.payload = bytes.Clone(f.payload)
		frames = append(frames, f)
	}
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

func TestFramesAreFoundBetweenWhatAKernelPrints(t *testing.T) {
	first := frame{kind: kindData, session: 7, number: 1, payload: randomBytes(maxPayload)}
	second := frame{kind: kindHello, session: 1<<64 - 1}
	var line []byte
	line = append(line, "[    1.2] a kernel says \x16 and \x16XL\n"...)
	line = append(line, lineOf(t, first)...)
	line = append(line, "and more"...)
	line = append(line, lineOf(t, second)...)
	for name, r := range map[string]io.Reader{
		"at once":      bytes.NewReader(line),
		"byte by byte": iotest.OneByteReader(bytes.NewReader(line)),
	} {
		frames, noise := framesIn(t, r)
		if len(frames) != 2 || !bytes.Equal(frames[0].payload, first.payload) || frames[0].number != 1 || frames[1].session != second.session {
			t.Errorf("%s: %d frames, want two as they were sent", name, len(frames))
		}
		if want := "[    1.2] a kernel says \x16 and \x16XL\nand more"; noise != want {
			t.Errorf("%s: noise %q, want %q", name, noise, want)
		}
	}
}

func TestAFrameThatWasCutShortCostsNoneBehindIt(t *testing.T) {
	whole := lineOf(t, frame{kind: kindData, session: 1, payload: randomBytes(1000)})
	next := frame{kind: kindHello, session: 2, payload: make([]byte, maxPayload)}
	for cut := 1; cut < len(whole); cut += 37 {
		line := append(bytes.Clone(whole[:cut]), lineOf(t, next, next)...)
		frames, _ := framesIn(t, bytes.NewReader(line))
		if len(frames) == 0 || frames[len(frames)-1].session != 2 {
			t.Errorf("cut at %d: no frame of the next session", cut)
		}
	}
}

func TestADamagedFrameIsNoFrame(t *testing.T) {
	whole := lineOf(t, frame{kind: kindData, session: 1, payload: []byte("payload")})
	for i := range whole {
		damaged := bytes.Clone(whole)
		damaged[i] ^= 0x20
		if frames, _ := framesIn(t, bytes.NewReader(damaged)); len(frames) != 0 {
			t.Errorf("byte %d of %d damaged: taken for a frame", i, len(whole))
		}
	}
}

func TestCtrlONeverGoesOverALine(t *testing.T) {
	all := make([]byte, 0, 1024)
	for range 4 {
		for c := range 256 {
			all = append(all, byte(c))
		}
	}
	line := appendEscaped(nil, all)
	if bytes.IndexByte(line, ctrlO) >= 0 {
		t.Error("Ctrl-O is on the line: a guest's console would swallow it and the byte behind it")
	}
	got, err := io.ReadAll(iotest.OneByteReader(&unescaper{from: bytes.NewReader(line)}))
	if err != nil || !bytes.Equal(got, all) {
		t.Errorf("%d bytes came back, %v; want the %d that were sent", len(got), err, len(all))
	}
}

func FuzzAnyLineIsReadToItsEnd(f *testing.F) {
	f.Add([]byte("\x16XL\xe7"))
	f.Add(lineOf(f, frame{kind: kindData, payload: []byte("x")}))
	f.Fuzz(func(t *testing.T, line []byte) {
		r := newFrameReader(bytes.NewReader(line), io.Discard)
		for {
			fr, err := r.read()
			if err != nil {
				if !errors.Is(err, io.EOF) {
					t.Fatal(err)
				}
				return
			}
			if len(fr.payload) > maxPayload {
				t.Fatalf("a payload of %d bytes", len(fr.payload))
			}
		}
	})
}

func TestMessagesRefuseWhatIsTooLong(t *testing.T) {
	_, _, err := NewMessages(struct {
		io.Reader
		io.Writer
	}{strings.NewReader("\x01\xff\xff\xff\xff"), io.Discard}).Receive()
	if err == nil || !strings.Contains(err.Error(), "4294967295 bytes") {
		t.Errorf("error %v, want one with the length", err)
	}
}
