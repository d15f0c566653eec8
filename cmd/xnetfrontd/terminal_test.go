package main

import (
	"bufio"
	"encoding/json"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/cmdtest"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/failure"
	"github.com/xnetfrontd/xnetfrontd/pkg/control"
)

// hostile is text that changes a terminal if it is not made printable.
const hostile = "\x1b]0;title\x07\u009b2J\u202e\x7f"

// answering is a control socket with the same answer to every request. An attacker who has
// taken the daemon over can answer anything.
func answering(t *testing.T, r control.Response) (socket string) {
	t.Helper()
	r.Version = control.Version
	line, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(t.TempDir(), "control.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if _, err := bufio.NewReader(conn).ReadString('\n'); err == nil {
				_, _ = conn.Write(append(line, '\n'))
			}
			conn.Close()
		}
	}()
	return socket
}

func TestWhatADaemonAnswersDoesNothingToATerminal(t *testing.T) {
	refusing := answering(t, control.Response{Error: "no" + hostile})
	status := &control.Status{Program: hostile, Vifs: []control.Vif{
		{Match: "0", DevID: 0, TAP: "good"},
		{Match: hostile, DevID: -1, TAP: "bad" + hostile, Waiting: hostile, Since: time.Unix(0, 0)},
		{Match: "2", DevID: 2, TAP: "worse", Problem: hostile},
	}}
	talking := answering(t, control.Response{Status: status, Dump: &control.Dump{TAP: hostile, BackendState: hostile}})
	for _, args := range []string{"status", "dump 0", "kick 0", "reload", "top", "capture 0 -w /dev/null"} {
		o := runProgram(t, program(append(strings.Fields(args), "--control", refusing)...))
		if !strings.HasPrefix(o.errOut, "xnetfrontd: no?]0;title?") || o.code != failure.ExitRuntime || !cmdtest.Printable(o.out+o.errOut) {
			t.Errorf("%s of a daemon that refuses: %+v", args, o)
		}
	}
	for _, args := range []string{"status", "status --json", "status 7", "dump 0", "dump 0 --json", "top --count 1 --interval 100ms"} {
		o := runProgram(t, program(append(strings.Fields(args), "--control", talking)...))
		if o.out == "" && o.code != failure.ExitRuntime || !cmdtest.Printable(o.out+o.errOut) {
			t.Errorf("%s of a daemon that answers: %+v", args, o)
		}
	}
	var got control.Status
	o := runProgram(t, program("status", "--json", "--control", talking))
	if err := json.Unmarshal([]byte(o.out), &got); err != nil || got.Program != hostile {
		t.Errorf("the JSON has another value: %q, %v", got.Program, err)
	}
	cmd := program()
	cmd.Env = append(cmd.Env, "COMP_LINE=xnetfrontd status --control "+talking+" ")
	if o := runProgram(t, cmd); !strings.Contains(o.out, "good\n") || !cmdtest.Printable(o.out) {
		t.Errorf("completed to %q", o.out)
	}
}
