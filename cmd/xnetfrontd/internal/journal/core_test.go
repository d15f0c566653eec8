package journal

import (
	"errors"
	"maps"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sys/unix"
)

func TestAnEntryHasEveryFieldUnderItsDocumentedName(t *testing.T) {
	j := newJournald(t)
	log := zap.New(NewCore(j.dial(), zap.InfoLevel)).With(zap.Int("vif", 0), zap.String("tap", "xnf0"))
	log.Warn("disconnected", zap.Int("queue", 1), zap.Uint16("backend", 3), zap.String("cause", "violation"),
		zap.Error(errors.Join(errors.New("rsp_prod 9"), errors.New("closed"))), zap.Duration("retry_in", 120*time.Millisecond+345),
		zap.String("stack", "a\nb"), zap.Strings("features", []string{"sg", "csum"}), zap.Any("ring", struct{ N int }{7}),
		zap.Bool("attached", true), zap.Int("Odd-key.1", 5), zap.String("message_id", EventLost))
	got, _ := j.read()
	want := map[string]string{
		"MESSAGE":  "vif 0 queue 1: disconnected: violation: rsp_prod 9; closed; retry in 120ms (backend 3, features sg csum, attached true, Odd-key.1 5)",
		"PRIORITY": "4", "SYSLOG_IDENTIFIER": "xnetfrontd", "SYSLOG_FACILITY": "3",
		"VIF": "0", "TAP": "xnf0", "QUEUE": "1", "BACKEND": "3", "CAUSE": "violation", "MESSAGE_ID": EventLost,
		"XNF_ERROR": "rsp_prod 9\nclosed", "XNF_RETRY_IN": "120ms", "XNF_STACK": "a\nb", "XNF_FEATURES": "sg csum",
		"XNF_RING": `{"N":7}`, "XNF_ATTACHED": "true", "XNF_ODD_KEY_1": "5",
	}
	if !maps.Equal(got, want) {
		for k := range want {
			if got[k] != want[k] {
				t.Errorf("%s is %q, want %q", k, got[k], want[k])
			}
			delete(got, k)
		}
		t.Errorf("not expected: %q", got)
	}
}

func TestTheLineForPeopleReadsWell(t *testing.T) {
	j := newJournald(t)
	log := zap.New(NewCore(j.dial(), zap.InfoLevel))
	for _, c := range []struct {
		line func()
		want string
	}{
		{func() { log.Info("ready", zap.String("version", "1.2")) }, "ready (version 1.2)"},
		{func() { log.Info("stopped", zap.String("signal", "")) }, "stopped"},
		{func() {
			log.Warn("disconnected", zap.Int("vif", 2), zap.Int("left_out", 12), zap.Duration("age", 43*time.Second), zap.String("cause", "stalled"))
		}, "vif 2: disconnected: stalled; 12 such lines were left out, this is the last of them, of 43s ago"},
		{func() { log.Info("the backend says \x1b[31m\r\x00", zap.String("key", "a\tb\xff")) }, "the backend says  [31m   (key a b\ufffd)"},
	} {
		c.line()
		if got, _ := j.read(); got["MESSAGE"] != c.want {
			t.Errorf("it reads %q, want %q", got["MESSAGE"], c.want)
		}
	}
}

func TestALevelHasSyslogsPriority(t *testing.T) {
	j := newJournald(t)
	core := NewCore(j.dial(), zap.DebugLevel)
	for level, want := range map[zapcore.Level]string{
		zap.DebugLevel: "7", zap.InfoLevel: "6", zap.WarnLevel: "4", zap.ErrorLevel: "3", zap.DPanicLevel: "2", zap.PanicLevel: "2", zap.FatalLevel: "2",
	} {
		if err := core.Write(zapcore.Entry{Level: level, Message: "x"}, nil); err != nil {
			t.Fatal(err)
		}
		if got, _ := j.read(); got["PRIORITY"] != want {
			t.Errorf("%s has the priority %s, want %s", level, got["PRIORITY"], want)
		}
	}
}

func TestALineBelowTheLevelIsNotSent(t *testing.T) {
	j := newJournald(t)
	zap.New(NewCore(j.dial(), zap.WarnLevel)).Info("quiet")
	if !j.drained() {
		t.Error("it was sent")
	}
}

func TestAnEntryThatNoDatagramHoldsComesAsAFile(t *testing.T) {
	j := newJournald(t)
	large := strings.Repeat("goroutine 1\n", 1<<20)
	zap.New(NewCore(j.dial(), zap.InfoLevel)).Error("panic", zap.String("stack", large))
	got, file := j.read()
	if !file || got["XNF_STACK"] != large || got["MESSAGE"] != "panic" {
		t.Errorf("as a file: %t, with %d bytes of %d and the message %q", file, len(got["XNF_STACK"]), len(large), got["MESSAGE"])
	}
}

// A queue's worker must not stop to carry frames because it logs.
func TestAJournaldThatDoesNotReadHoldsUpNobodyAndTheLossIsTold(t *testing.T) {
	j := newJournald(t)
	log := zap.New(NewCore(j.dial(), zap.InfoLevel))
	const lines = 5000 // more than any queue of datagrams holds
	began := time.Now()
	for range lines {
		log.Info("line")
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("%d lines to a journald that does not read took %s", lines, took)
	}
	kept := 0
	for ; !j.drained(); kept++ {
		if got, _ := j.read(); got["MESSAGE"] != "line" {
			t.Fatalf("instead of a line: %q", got)
		}
	}
	if kept == 0 || kept == lines {
		t.Fatalf("%d of %d lines were kept: the socket was never full, or always", kept, lines)
	}
	log.Warn("next")
	got, _ := j.read()
	if got["MESSAGE_ID"] != EventLost || got["XNF_LOST"] != strconv.Itoa(lines-kept) || got["PRIORITY"] != "4" ||
		got["MESSAGE"] != strconv.Itoa(lines-kept)+" log lines were lost: journald did not take them: resource temporarily unavailable" {
		t.Errorf("%d lines were lost, and the journal has: %q", lines-kept, got)
	}
	if got, _ := j.read(); got["MESSAGE"] != "next" {
		t.Errorf("after it: %q", got)
	}
	if log.Sync() != nil || !j.drained() {
		t.Error("the loss is told twice")
	}
}

func TestAJournaldThatIsAwayAndBackIsReachedAgain(t *testing.T) {
	j := newJournald(t)
	log := zap.New(NewCore(j.dial(), zap.InfoLevel))
	if err := unix.Close(j.fd); err != nil {
		t.Fatal(err)
	}
	log.Info("nobody listens")
	if err := unix.Unlink(j.path); err != nil {
		t.Fatal(err)
	}
	log.Info("nothing is there")
	var err error
	if j.fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(j.fd, &unix.SockaddrUnix{Name: j.path}); err != nil {
		t.Fatal(err)
	}
	if err := log.Sync(); err != nil {
		t.Fatal(err)
	}
	if got, _ := j.read(); got["XNF_LOST"] != "2" || got["XNF_ERROR"] != "no such file or directory" {
		t.Errorf("the journal has: %q", got)
	}
}

func TestWhereNoJournaldListensThereIsNoSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	if _, err := Dial(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("nothing is there: %v", err)
	}
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	if _, err := Dial(path); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("nobody listens any more: %v", err)
	}
}
