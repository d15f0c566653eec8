package main

import (
	"fmt"
	"os"
	"os/signal"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/await"
	"github.com/xnetfrontd/xnetfrontd/internal/needs"
	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/control"
	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
)

// refuseUring makes the three system calls of io_uring fail in every thread of this process,
// as a sandbox without @aio does.
func refuseUring() {
	const number = 0 // of the system call, in struct seccomp_data
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: number},
		// The three have successive numbers.
		{Code: unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, K: unix.SYS_IO_URING_SETUP, Jt: 0, Jf: 2},
		{Code: unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K, K: unix.SYS_IO_URING_REGISTER, Jt: 1, Jf: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		panic(err)
	}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		panic(errno)
	}
}

// refusedLater stands for a filter that comes with the signal SIGWINCH.
const refusedLater = "later"

func refuseUringLater() {
	wanted := make(chan os.Signal, 1)
	signal.Notify(wanted, unix.SIGWINCH)
	go func() {
		<-wanted
		refuseUring()
	}()
}

// awaitRefusal waits until status says why there is no io_uring.
func (m *testMachine) awaitRefusal(why string) {
	m.t.Helper()
	m.awaitStatus("a refused io_uring", func(v control.Vif) bool { return v.Device != nil && v.Device.NoUring == why })
	if text, _ := m.local(); !strings.Contains(text, `xnetfrontd_vif_io_uring{vif="0"} 0`) {
		m.t.Error("no metric says it")
	}
}

func TestIOUringThatIsRefusedToALaterConnectionIsSaidInLogStatusAndMetrics(t *testing.T) {
	m := newMachine(t, xensim.Options{AllowRaise: true}, 0)
	m.startBackend()
	t.Setenv(beRefused, refusedLater)
	d := m.startMeasured("none")
	status := m.awaitState(0, "Connected")
	if why := status.Vifs[0].Device.NoUring; why != "" {
		needs.LeaveOut(t, "io_uring")
	}
	if text, _ := m.local(); !strings.Contains(text, `xnetfrontd_vif_io_uring{vif="0"} 1`) {
		t.Error("the metric does not say that it is used")
	}
	if err := d.cmd.Process.Signal(unix.SIGWINCH); err != nil {
		t.Fatal(err)
	}
	await.That(m.t, "the filter", func() bool {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid))
		return err == nil && strings.Contains(string(b), "\nSeccomp:\t2\n")
	})
	m.detach(0)
	m.attach(0, 0)
	m.awaitState(0, "Connected")
	const why = "set up io_uring: operation not permitted"
	m.awaitRefusal(why)
	m.send(5)
	m.awaitStatus("frames without it", func(v control.Vif) bool {
		q := v.Device.Queues
		return len(q) > 0 && q[0].Tx.Counters["packets"] >= 5
	})
	d.stop(unix.SIGTERM)
	if log := d.stderr(); strings.Count(log, "io_uring is not used: a system call for each frame") != 1 || !strings.Contains(log, why) {
		t.Errorf("it logged:\n%s", log)
	}
}

func TestRefusedIOUringIsSaidInLogStatusAndMetricsAndFramesFlow(t *testing.T) {
	m := newMachine(t, xensim.Options{AllowRaise: true}, 0)
	m.startBackend()
	t.Setenv(beRefused, "1")
	d := m.startMeasured("none")
	m.awaitState(0, "Connected")
	const why = "set up io_uring: operation not permitted"
	status := m.awaitState(0, "Connected")
	if got := status.Vifs[0].Device.NoUring; got != why {
		t.Errorf("status says %q, want %q", got, why)
	}
	text, _ := m.local()
	if !strings.Contains(text, `xnetfrontd_vif_io_uring{vif="0"} 0`) {
		t.Error("no metric says it")
	}
	// Frames go both ways without it.
	m.send(5)
	_, port := m.port(0)
	for i := range 5 {
		if err := port.Send(0, tap.VirtioHeader{}, strange(60+1000*i, byte(i))); err != nil {
			t.Fatal(err)
		}
	}
	m.awaitStatus("frames both ways", func(v control.Vif) bool {
		q := v.Device.Queues
		return len(q) > 0 && q[0].Tx.Counters["packets"] >= 5 && q[0].Rx.Counters["packets"] >= 5
	})
	d.stop(unix.SIGTERM)
	if log := d.stderr(); strings.Count(log, "io_uring is not used: a system call for each frame") != 1 || !strings.Contains(log, why) {
		t.Errorf("it logged:\n%s", log)
	}
}
