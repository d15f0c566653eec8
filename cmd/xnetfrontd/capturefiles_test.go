package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/xnetfrontd/xnetfrontd/internal/await"
	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
)

func TestFilesOfACaptureHaveTcpdumpsNames(t *testing.T) {
	for _, c := range []struct {
		files captureFiles
		want  [4]string
	}{
		{captureFiles{FileSize: 1}, [4]string{"f", "f1", "f2", "f3"}},
		{captureFiles{FileSize: 1, Files: 1}, [4]string{"f0", "f0", "f0", "f0"}},
		{captureFiles{FileSize: 1, Files: 3}, [4]string{"f0", "f1", "f2", "f0"}},
		{captureFiles{FileSize: 1, Files: 11}, [4]string{"f00", "f01", "f02", "f03"}},
	} {
		for n, want := range c.want {
			if got := c.files.name("f", n); got != want {
				t.Errorf("%+v: file %d is %s, want %s", c.files, n, got, want)
			}
		}
	}
}

// The capture has three million bytes, in files of one million. Two files are kept.
func TestCaptureOverAnyTimeTakesNoMoreRoomThanItsFilesMay(t *testing.T) {
	m := newMachine(t, xensim.Options{AllowRaise: true}, 0)
	m.startBackend()
	d := m.start("--vif", "0", "--queues", "1")
	d.await("READY=1")
	m.awaitState(0, "Connected")
	_, port := m.port(0)
	dir := t.TempDir()
	s := m.captureTo(filepath.Join(dir, "vif.pcapng"), filepath.Join(dir, "vif.pcapng0"), "0", "-C", "1", "-W", "2", "--direction", "rx")
	const size, count = 1400, 2100
	for i := range count {
		if err := port.Send(0, tap.VirtioHeader{}, strange(size, byte(i))); err != nil {
			t.Fatal(err)
		}
		if i%100 == 99 { // the capture must keep up
			await.That(m.t, "the frames to be carried", func() bool {
				return int(m.awaitState(0, "Connected").Vifs[0].Device.Totals[0].Rx["packets"]) > i
			})
		}
	}
	s.interrupt()
	s.wait(0)
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(names) != 2 {
		t.Fatalf("files %v, %v", names, err)
	}
	frames := 0
	for _, name := range names {
		fi, err := os.Stat(name)
		if err != nil || fi.Size() > 1e6+2000 { // the statistics at the end come on top
			t.Errorf("%s: %v, %v", name, fi, err)
		}
		s.file = name
		some, _ := s.frames()
		frames += len(some)
	}
	if frames < 600 || frames >= count {
		t.Errorf("%d frames in the files", frames)
	}
}

func TestTimeOfAFileIsInSecondsOrHasItsUnit(t *testing.T) {
	for text, want := range map[string]time.Duration{"1": time.Second, "90": 90 * time.Second, "1500ms": 1500 * time.Millisecond, "10m": 10 * time.Minute} {
		var s span
		if err := s.UnmarshalText([]byte(text)); err != nil || time.Duration(s) != want {
			t.Errorf("%s: %v, %v", text, time.Duration(s), err)
		}
	}
}
