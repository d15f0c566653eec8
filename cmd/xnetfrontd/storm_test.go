package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
)

// cpuTime is the CPU time of a process so far.
func cpuTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')'):]))
	var user, system int64 // ticks of 1/100 s: fields 14 and 15 of proc_pid_stat(5)
	if _, err := fmt.Sscan(fields[12]+" "+fields[13], &user, &system); err != nil {
		t.Fatal(err)
	}
	return time.Duration(user+system) * time.Second / 100
}

// storm makes the toolstack and the backend of vif 0 change its nodes as fast as they can,
// until stop is called. It counts the changes in writes.
func (m *testMachine) storm(writes *atomic.Int64) (stop func()) {
	ctx, cancel := context.WithCancel(m.t.Context())
	var all sync.WaitGroup
	front, back := xensim.FrontendPath(guest, 0), xensim.BackendPath(0, guest, 0)
	for path, values := range map[string][2]string{
		front + "/mtu":  {"1500", "1400"},
		back + "/rate":  {"", "10000,50000"},
		back + "/state": {"4", "4"},
	} {
		all.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				if err := m.domain0.Store().Write(ctx, path, values[i%2]); err != nil && ctx.Err() == nil {
					m.t.Error(err)
					return
				}
				writes.Add(1)
			}
		})
	}
	return func() {
		cancel()
		all.Wait()
	}
}

func TestStormOfStoreEventsCostsLittleAndHoldsUpNoOtherVif(t *testing.T) {
	m := newMachine(t, xensim.Options{AllowRaise: true}, 0, 1)
	m.startBackend()
	d := m.start("--vif", "*")
	d.await("READY=1")
	for devid := range 2 {
		m.awaitVif("at the start", "*", connectedAs(devid))
	}
	var writes atomic.Int64
	stop := m.storm(&writes)
	defer stop()
	m.attach(2, 2)
	m.awaitVif("in the storm", "*", connectedAs(2))
	used, before, began := cpuTime(t, d.cmd.Process.Pid), writes.Load(), time.Now()
	time.Sleep(2 * time.Second) // long enough to measure the CPU time
	used = cpuTime(t, d.cmd.Process.Pid) - used
	share := float64(used) / float64(time.Since(began))
	t.Logf("%d writes; the daemon computed for %v, %.1f %% of a core", writes.Load()-before, used, 100*share)
	if share > 0.5 { // ten times what it may be
		t.Error("the storm makes the daemon busy")
	}
	stop()
	for devid := range 3 {
		if v := m.awaitVif("after the storm", "*", connectedAs(devid)); v.Device.Connects != 1 {
			t.Errorf("vif %d was connected %d times", devid, v.Device.Connects)
		}
	}
	if code, _ := d.stop(unix.SIGTERM); code != 0 || strings.Count(d.stderr(), "\n") > 30 {
		t.Errorf("exit code %d; it logged:\n%s", code, d.stderr())
	}
}
