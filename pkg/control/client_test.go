package control_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/xnetfrontd/xnetfrontd/pkg/control"
)

// serve answers every connection with raw bytes after its first line, and keeps it open
// if that is asked for. It returns the client, and what it gets as requests.
func serve(t *testing.T, raw string, keep bool) (*control.Client, <-chan string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c.sock")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	requests := make(chan string, 8)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			line, _ := bufio.NewReader(c).ReadString('\n') // a client that says nothing gets the answer too
			requests <- line
			io.WriteString(c, raw)
			if keep {
				t.Cleanup(func() { c.Close() })
			} else {
				c.Close()
			}
		}
	}()
	return &control.Client{Path: path, Timeout: time.Minute}, requests
}

func TestAnswerThatIsNoneIsAnErrorWithTheSocketsPathAndARefusalIsTheReason(t *testing.T) {
	for _, c := range []struct {
		name, answer, want string
		is                 error
	}{
		{"end at once", "", "no daemon answers: it has closed the connection", control.ErrNoDaemon},
		{"half a line", `{"version":1`, "no daemon answers: it has closed the connection", control.ErrNoDaemon},
		{"no JSON", "HTTP/1.1 400 Bad Request\r\n", "answer is not a line of JSON: invalid character 'H' looking for beginning of value", nil},
		{"another version", `{"version":9}` + "\n", "the daemon speaks version 9, this program 1; use the program it was started from", nil},
		{"nothing in it", `{"version":1}` + "\n", "answer without a status", nil},
		{"refused", `{"version":9,"error":"request has version 1: this daemon speaks version 9"}` + "\n", "request has version 1: this daemon speaks version 9", nil},
	} {
		client, _ := serve(t, c.answer, false)
		_, err := client.Status(t.Context())
		if c.name != "refused" {
			c.want = "control socket " + client.Path + ": " + c.want
		}
		if err == nil || err.Error() != c.want {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
		if c.is != nil && !errors.Is(err, c.is) {
			t.Errorf("%s: %v is no %v", c.name, err, c.is)
		}
		var refused *control.RefusedError
		if errors.As(err, &refused) != (c.name == "refused") {
			t.Errorf("%s: %v is of the wrong kind", c.name, err)
		}
	}
}

func TestDaemonThatHangsIsNotWaitedForLongerThanTheTimeout(t *testing.T) {
	client, _ := serve(t, "", true)
	client.Timeout = 20 * time.Millisecond
	_, err := client.Status(t.Context())
	if !errors.Is(err, control.ErrNoDaemon) || !errors.Is(err, context.DeadlineExceeded) ||
		err.Error() != "control socket "+client.Path+": no answer in time: the daemon hangs, or has too much to do" {
		t.Errorf("%v", err)
	}
	client.Timeout = time.Hour
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := client.Reload(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

func TestRequestsAreAsInTheProtocolsDescription(t *testing.T) {
	client, requests := serve(t, `{"version":1,"status":{"pid":7},"dump":{"tap":"xnf0"}}`+"\n", false)
	for want, call := range map[string]func() error{
		`{"version":1,"op":"status"}`:           func() error { _, err := client.Status(t.Context()); return err },
		`{"version":1,"op":"dump","vif":"0"}`:   func() error { _, err := client.Dump(t.Context(), "0"); return err },
		`{"version":1,"op":"kick","vif":"wan"}`: func() error { return client.Kick(t.Context(), "wan") },
		`{"version":1,"op":"retry","vif":"0"}`:  func() error { return client.Retry(t.Context(), "0") },
		`{"version":1,"op":"reload"}`:           func() error { return client.Reload(t.Context()) },
		`{"version":1,"op":"capture","vif":"0","snaplen":64}`: func() error {
			s, err := client.Capture(t.Context(), control.CaptureRequest{Vif: "0", SnapLen: 64})
			if err == nil {
				err = s.Close()
			}
			return err
		},
	} {
		if err := call(); err != nil {
			t.Errorf("%s: %v", want, err)
		}
		if got := <-requests; got != want+"\n" {
			t.Errorf("sent %q, want %s", got, want)
		}
	}
}

func TestCaptureBeginsRightBehindTheResponse(t *testing.T) {
	client, _ := serve(t, `{"version":1}`+"\n\n{\x0d\x0a", false)
	s, err := client.Capture(t.Context(), control.CaptureRequest{Vif: "0"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if b, err := io.ReadAll(s); err != nil || string(b) != "\n{\x0d\x0a" {
		t.Errorf("%q, %v", b, err)
	}
}

func TestVifIsFoundByNumberAddressTAPOrWhatTheConfigurationCallsIt(t *testing.T) {
	var st control.Status
	const answer = `{"vifs":[{"match":"*","devid":0,"mac":"00:16:3e:00:00:01","tap":"xnf0"},
		{"match":"00:16:3e:00:00:02","devid":4,"tap":"wan","configured_tap":"xnf4"},{"match":"00:16:3e:00:00:03","devid":-1}]}`
	if err := json.Unmarshal([]byte(answer), &st); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int{"0": 0, "xnf0": 0, "00:16:3E:00:00:01": 0, "4": 1, "wan": 1, "xnf4": 1, "00:16:3e:00:00:02": 1, "00:16:3e:00:00:03": 2} {
		if i, err := st.Index(name); err != nil || i != want {
			t.Errorf("%s: vif %d, %v; want %d", name, i, err, want)
		}
	}
	// One that has the name goes before one that was to have it.
	st.Vifs[2].Renamed = "wan"
	if i, err := st.Index("wan"); err != nil || i != 1 {
		t.Errorf("wan: vif %d, %v", i, err)
	}
	for _, name := range []string{"7", "-1", "WAN", "xnf", strings.Repeat("x", 100)} {
		if i, err := st.Index(name); err == nil || !strings.HasSuffix(err.Error(), ": the daemon has vifs 0, 4, 00:16:3e:00:00:03") || len(err.Error()) > 120 {
			t.Errorf("%s: vif %d, %v", name, i, err)
		}
	}
	if err := st.Only("wan"); err != nil || len(st.Vifs) != 1 || st.Vifs[0].DevID != 4 {
		t.Errorf("%+v, %v", st.Vifs, err)
	}
}
