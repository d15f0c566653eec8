package handover

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// heldKeys is what the holder has of one vif.
const heldKeys = "/connection /events /tap"

// holds tells whether the holder has all of the vif.
func (w *world) holds() bool {
	keys := w.held()
	for i, k := range keys {
		keys[i] = k[strings.LastIndexByte(k, '/'):]
	}
	return strings.Join(keys, " ") == heldKeys
}

// holderIsKilled kills the holder under a daemon, which starts another one and hands
// everything to that.
func holderIsKilled(t *testing.T, p programs) {
	w := newWorld(t, p, 2)
	d := w.connected(p.plain)
	same := w.watch()
	out, in := w.streams()
	out.start(0)
	in.start(0)
	dropped := w.drops()
	gaps := bestOf{t: t, goal: gapGoal}
	kill, last := w.holder.kill, -1
	for range 3 {
		out.settle()
		began := time.Now()
		kill()
		w.awaitHolder()
		w.wait("the next holder to have everything", w.holds)
		report(t, "holder killed: until the next one has everything", milliseconds(time.Since(began)), "no goal")
		next := w.openHolder()
		kill = func() { must(t, unix.PidfdSendSignal(next, unix.SIGKILL, nil, 0)) }
		last = next
		d = w.restart(d, p.plain)
		out.settle()
		in.settle()
		gaps.add("restart with the next holder, longest gap from the guest", out.longest())
		same.check()
	}
	gaps.check()
	for _, s := range []*stream{out, in} {
		s.halt()
		sent, lost := s.finish()
		report(t, "packets lost "+s.name, share(lost, sent), "goal 0")
		if lost != 0 {
			t.Errorf("%d of %d packets lost %s", lost, sent, s.name)
		}
		s.whole()
	}
	if now := w.drops(); !slices.Equal(now, dropped) {
		t.Errorf("dropped: %v, before %v", now, dropped)
	}
	d.end(unix.SIGTERM)
	// A holder that a daemon has started ends when there is nothing to hold.
	if !awaitEnd(last) {
		t.Error("the holder is still there, with nothing to hold")
	}
	if w.front.has(guestTAP) || len(w.grantRefs()) > 0 || len(w.ports()) > 0 {
		t.Errorf("left: TAP %v, grants %v, ports %v", w.front.has(guestTAP), w.grantRefs(), w.ports())
	}
}

// openHolder returns a pidfd of the holder, which is nobody's child.
func (w *world) openHolder() int {
	w.t.Helper()
	c, err := net.Dial("unixpacket", w.holdSocket())
	must(w.t, err)
	defer c.Close()
	raw, err := c.(*net.UnixConn).SyscallConn()
	must(w.t, err)
	var cred *unix.Ucred
	cerr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	must(w.t, errors.Join(cerr, err))
	pidfd, err := unix.PidfdOpen(int(cred.Pid), 0)
	must(w.t, err)
	w.t.Cleanup(func() {
		_ = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0) // it has ended, if all went well
		awaitEnd(pidfd)
		unix.Close(pidfd)
	})
	return pidfd
}

// awaitEnd waits for the end of a process that is not a child.
func awaitEnd(pidfd int) bool {
	for end := time.Now().Add(patience); time.Now().Before(end); {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 1000)
		if n == 1 && err == nil {
			return true
		}
	}
	return false
}

// secondDaemon starts another daemon for a vif that is served.
func secondDaemon(t *testing.T, p programs) {
	w := newWorld(t, p, 2)
	d := w.connected(p.plain)
	same := w.watch()
	args := w.args()
	args[slices.Index(args, w.controlSocket())] = w.controlSocket() + "2"
	cmd := exec.Command(p.plain, args...)
	var said bytes.Buffer
	cmd.Stderr = &said
	must(t, w.front.Start(cmd))
	limit := time.AfterFunc(patience, func() { cmd.Process.Kill() })
	cmd.Wait() // its error is in ProcessState too
	limit.Stop()
	lines := strings.Split(strings.TrimSpace(said.String()), "\n")
	last := lines[len(lines)-1]
	if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.HasPrefix(last, "xnetfrontd: ") || !strings.Contains(last, fmt.Sprint(d.cmd.Process.Pid)) {
		t.Errorf("exit code %d, last line %q: want 1, and that process %d has the vif", code, last, d.cmd.Process.Pid)
	}
	t.Log(last)
	w.flows()
	same.check()
	w.stop(d)
}
