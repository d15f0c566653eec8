package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/config"
	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/netfront"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

// taker is a fake kernel that remembers the states of vifs, and acts on those that it
// sees in xenstore: since Linux 7.0 (seven) it takes a vif that was reset for a new one.
// Like the kernel it sees a state when its turn comes, which is before that of a watch
// that was set later.
type taker struct {
	*fakeKernel
	xen.Store // the guest's, as the kernel has it
	m         *machine
	seven     bool

	seeing  sync.Mutex
	changed []int // vifs whose new state it has not seen yet
}

func newTaker(t *testing.T, seven bool, vifs ...int) *taker {
	t.Helper()
	m := newMachine(t, xensim.Options{}, vifs...)
	k := &taker{fakeKernel: newFakeKernel(t, true, vifs...), Store: storeOf(t, m), m: m, seven: seven}
	for _, devid := range vifs {
		k.remember(devid, "Connected")
	}
	k.closed = func(devid int) {
		k.remember(devid, "Closed")
		if _, err := k.Read(t.Context(), fmt.Sprintf("device/vif/%d/state", devid)); err == nil {
			k.setStates(devid, "6", "6")
		}
	}
	return k
}

func (k *taker) remember(devid int, state string) {
	k.t.Helper()
	writeFile(k.t, k.device(devid)+"/state", state+"\n")
}

// setStates writes the states of both ends.
func (k *taker) setStates(devid int, frontend, backend string) {
	k.t.Helper()
	k.must(errors.Join(
		k.m.domain0.Store().Write(k.t.Context(), xensim.FrontendPath(guest, devid)+"/state", frontend),
		k.m.domain0.Store().Write(k.t.Context(), xensim.BackendPath(0, guest, devid)+"/state", backend)))
}

func (k *taker) Write(ctx context.Context, path, value string) error {
	var devid int
	if n, _ := fmt.Sscanf(path, "device/vif/%d/state", &devid); n == 1 {
		k.seeing.Lock()
		defer k.seeing.Unlock()
		k.changed = append(k.changed, devid)
	}
	return k.Store.Write(ctx, path, value)
}

func (k *taker) Watch(ctx context.Context, path string) (*xenstore.Watch, error) {
	k.seeing.Lock()
	defer k.seeing.Unlock()
	for _, devid := range k.changed {
		state, err := k.Store.Read(ctx, fmt.Sprintf("device/vif/%d/state", devid))
		k.must(err)
		if !k.seven || state != "1" || !k.bus().stale(devid) {
			continue
		}
		k.remember(devid, "Initialising")
		if auto, err := os.ReadFile(k.sys.sysfs + "/bus/xen/drivers_autoprobe"); err != nil || strings.TrimSpace(string(auto)) == "1" {
			k.attach(devid)
		}
	}
	k.changed = nil
	return k.Store.Watch(ctx, path)
}

func (k *taker) wantOwner(devid int, want string) {
	k.t.Helper()
	if driver, err := k.bus().owner(devid); driver != want || err != nil {
		k.t.Errorf("vif %d has driver %q, %v, want %q", devid, driver, err, want)
	}
}

func TestConfiguredVifsAreTakenFromTheKernelAndNoOthers(t *testing.T) {
	store := storeOf(t, newMachine(t, xensim.Options{}, 0, 1, 2))
	k := newFakeKernel(t, true, 0, 1, 2)
	p, out := prepareOn(k)
	vifs := []wantedVif{{devid: 0, attached: true}, {devid: 2, attached: true}, {devid: 7}}
	if err := p.claim(t.Context(), store, vifs); err != nil {
		t.Fatal(err)
	}
	wantPrinted(t, out, "vif 0: taken from the kernel's xen-netfront, where it was eth0\n"+
		"vif 2: taken from the kernel's xen-netfront, where it was eth2\nvif 7: not attached\n")
	k.wantUnbound(2)
	if driver, err := k.bus().owner(1); driver != "vif" || err != nil {
		t.Errorf("vif 1 has driver %q, %v", driver, err)
	}

	k.wrote = nil
	if err := p.claim(t.Context(), store, vifs); err != nil {
		t.Fatal(err)
	}
	wantPrinted(t, out, "vif 0: no kernel driver has it\nvif 2: no kernel driver has it\nvif 7: not attached\n")
	k.wantWritten()
}

func TestVifThatTheKernelKeepsDoesNotStopTheOthersFromBeingTaken(t *testing.T) {
	store := storeOf(t, newMachine(t, xensim.Options{}, 0, 1))
	k := newFakeKernel(t, true, 0, 1)
	p, out := prepareOn(k)
	k.refuses = "vif-0"
	err := p.claim(t.Context(), store, []wantedVif{{devid: 0, attached: true}, {devid: 1, attached: true}})
	if want := "vif 0: the kernel's xen-netfront keeps it; permission denied"; err == nil || oneLine(err) != want {
		t.Errorf("got %v, want %s", err, want)
	}
	wantPrinted(t, out, "vif 1: taken from the kernel's xen-netfront, where it was eth1\n")
}

// A vif whose backend is silent takes the kernel's driver 30 s, and ever so many of them no more.
func TestVifsWithASilentBackendAreWaitedForTogetherAndKeepNoOther(t *testing.T) {
	const silent = 3 // and one more
	store := storeOf(t, newMachine(t, xensim.Options{}, 0, 1, 2, 3))
	k := newFakeKernel(t, true, 0, 1, 2, 3)
	p, out := prepareOn(k)
	var waiting sync.WaitGroup
	waiting.Add(silent)
	taken := make(chan struct{})
	var vifs []wantedVif
	for devid := range silent + 1 {
		vifs = append(vifs, wantedVif{devid: devid, attached: true})
	}
	bus, began := k.bus(), time.Now()
	bus.store = func(ctx context.Context, path, value string) error {
		if !strings.HasSuffix(path, "/unbind") {
			return k.store(ctx, path, value)
		}
		if value == fmt.Sprintf("vif-%d", silent) {
			close(taken)
			return k.store(ctx, path, value)
		}
		if limit, ok := ctx.Deadline(); !ok || limit.After(began.Add(kernelLimit+patience)) {
			t.Errorf("%s is waited for until %v", value, limit)
		}
		waiting.Done()
		all := make(chan struct{})
		go func() { waiting.Wait(); <-taken; close(all) }()
		select {
		case <-all: // they are waited for, and the good one is not kept by that
			return context.DeadlineExceeded
		case <-ctx.Done():
			t.Errorf("%s keeps others", value)
			return ctx.Err()
		}
	}
	p.bus = bus
	err := p.claim(t.Context(), store, vifs)
	wantPrinted(t, out, "vif 3: taken from the kernel's xen-netfront, where it was eth3\n")
	var lines bytes.Buffer
	want := ""
	for devid := range silent {
		want += fmt.Sprintf("xnetfrontd: vif %d: the kernel's xen-netfront has not let go of it in 30s: it waits for its backend, and lets go when that answers or `xl network-detach` takes the vif away\n", devid)
	}
	if code := report(&lines, err); code != exitRuntime || lines.String() != want {
		t.Errorf("exit code %d, said:\n%swant:\n%s", code, &lines, want)
	}
}

func TestVifThatAnotherCommandHasInHandIsSaidAndKeepsNoOther(t *testing.T) {
	store := storeOf(t, newMachine(t, xensim.Options{}, 0, 1))
	k := newFakeKernel(t, true, 0, 1)
	p, out := prepareOn(k)
	release, err := k.bus().reserve(t.Context(), 0)
	k.must(err)
	defer release()
	limited, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = p.claimOne(t.Context(), limited, store, 0)
	wantMessage(t, err, "it changes hands with the kernel, by another `xnetfrontd prepare` or `release`, which has not ended")
	k.must(p.claim(t.Context(), store, []wantedVif{{devid: 1, attached: true}}))
	wantPrinted(t, out, "vif 1: taken from the kernel's xen-netfront, where it was eth1\n")
}

func TestKernelDoesNotTakeBackWhatWasTakenFromIt(t *testing.T) {
	for _, seven := range []bool{false, true} {
		t.Run(fmt.Sprintf("since Linux 7.0: %v", seven), func(t *testing.T) {
			k := newTaker(t, seven, 0)
			p, out := prepareOn(k.fakeKernel)
			k.must(p.claim(t.Context(), k, []wantedVif{{devid: 0, attached: true}}))
			wantPrinted(t, out, "vif 0: taken from the kernel's xen-netfront, where it was eth0\n")
			if k.bus().stale(0) == seven {
				t.Errorf("the kernel remembers another state than that of a new vif: %v", !seven)
			}
			// A daemon resets it at each of its connections.
			for range 2 {
				k.setStates(0, "6", "6")
				k.must(netfront.Rewind(t.Context(), k, 0, nil))
				k.wantOwner(0, "")
			}
			k.wantWritten("unbind=vif-0", "drivers_autoprobe=0", "drivers_autoprobe=1")
		})
	}
}

func TestVifThatSomebodyElseTookFromTheKernelIsNotTakenBackEither(t *testing.T) {
	k := newTaker(t, true, 0, 1, 2)
	for devid := range 3 {
		k.must(k.store(t.Context(), k.driver()+"/unbind", fmt.Sprintf("vif-%d", devid)))
	}
	k.setStates(1, "4", "4") // a daemon has left it so, to the next one
	k.setStates(2, "6", "6")
	p, out := prepareOn(k.fakeKernel)
	lock, err := lockVif(p.lockDir, 2) // and that one is served
	k.must(err)
	defer lock.release()
	k.wrote = nil
	k.must(p.claim(t.Context(), k, []wantedVif{{devid: 0, attached: true}, {devid: 1, attached: true}, {devid: 2, attached: true}}))
	wantPrinted(t, out, "vif 0: no kernel driver has it any more\nvif 1: no kernel driver has it\nvif 2: no kernel driver has it\n")
	k.wantWritten("drivers_autoprobe=0", "drivers_autoprobe=1")
	for devid, want := range []string{"1", "4", "6"} {
		if state, err := k.Read(t.Context(), fmt.Sprintf("device/vif/%d/state", devid)); err != nil || state != want {
			t.Errorf("the state of vif %d is %s, %v, want %s", devid, state, err, want)
		}
	}
	k.must(netfront.Rewind(t.Context(), k, 0, nil))
	k.wantOwner(0, "")
}

func TestVifThatIsDetachedWhileItIsTakenIsNoFailure(t *testing.T) {
	for _, had := range []bool{true, false} {
		k := newTaker(t, true, 0, 1)
		if !had {
			k.must(k.store(t.Context(), k.driver()+"/unbind", "vif-0"))
		}
		k.must(k.m.domain0.Store().Remove(t.Context(), xensim.FrontendPath(guest, 0)))
		p, out := prepareOn(k.fakeKernel)
		k.must(p.claim(t.Context(), k, []wantedVif{{devid: 0, attached: true}, {devid: 1, attached: true}}))
		wantPrinted(t, out, "vif 0: detached meanwhile\nvif 1: taken from the kernel's xen-netfront, where it was eth1\n")
	}
}

func TestKernelThatDoesNotLookAtXenstoreIsNotWaitedForForEver(t *testing.T) {
	k := newTaker(t, true, 0)
	ctx, cancel := context.WithCancel(t.Context())
	// Its last write is the window's; from then on nothing comes.
	bus := k.bus()
	p, _ := prepareOn(k.fakeKernel)
	p.bus = bus
	bus.store = func(c context.Context, path, value string) error {
		if strings.HasSuffix(path, "drivers_autoprobe") && value == "0" {
			cancel()
		}
		return k.store(c, path, value)
	}
	err := p.claim(ctx, k, []wantedVif{{devid: 0, attached: true}})
	if err == nil || !strings.Contains(err.Error(), "taken from the kernel's xen-netfront, which may take it again: ") {
		t.Errorf("got %v", err)
	}
	k.wantWritten("unbind=vif-0", "drivers_autoprobe=0", "drivers_autoprobe=1")
}

func TestVifThatACommandHasInHandIsServedAfterThat(t *testing.T) {
	k := newTaker(t, true, 0)
	k.must(k.store(t.Context(), k.driver()+"/unbind", "vif-0"))
	v := newVif(place{sys: k.sys, xen: xenFlags{locks: t.TempDir()}}, config.NewVif(config.SelectDevID(0)), 0, nil)
	release, err := k.bus().reserve(t.Context(), 0)
	k.must(err)
	limited, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	wantMessage(t, v.own(limited, 0), "it changes hands with the kernel, by `xnetfrontd prepare` or `release`: it is served after that")
	var free atomic.Bool
	go func() {
		free.Store(true)
		release()
	}()
	for v.own(t.Context(), 0) != nil {
		continue // on a machine so busy that the other goroutine had no turn yet
	}
	if !free.Load() {
		t.Error("it was taken while a command had it in hand")
	}
	k.must(v.disown())
}

func TestDaemonGivesUpTheLockOfAVifThatTheKernelHas(t *testing.T) {
	k := newTaker(t, true, 0)
	k.must(k.store(t.Context(), k.driver()+"/unbind", "vif-0"))
	v := newVif(place{sys: k.sys, xen: xenFlags{locks: t.TempDir()}}, config.NewVif(config.SelectDevID(0)), 0, nil)
	k.must(v.own(t.Context(), 0))
	if _, taken := lockOwner(v.xen.lockDir(), 0); !taken {
		t.Fatal("it is not locked")
	}
	k.attach(0)
	if err := v.own(t.Context(), 0); err == nil {
		t.Error("a vif that the kernel has was taken")
	}
	if who, taken := lockOwner(v.xen.lockDir(), 0); taken {
		t.Errorf("it is locked by %s", who)
	}
}

func TestReleaseLetsTheKernelTakeAVifWhenItIsReadyForThat(t *testing.T) {
	k := newTaker(t, true, 0)
	k.m.startBackend()
	k.must(k.store(t.Context(), k.driver()+"/unbind", "vif-0"))
	k.wrote = nil
	var kernel *process
	k.m.serveAsKernel(k.fakeKernel, &kernel)
	var out bytes.Buffer
	r := k.m.releaser(k.fakeKernel, &out)
	r.store = k
	k.must(r.release(t.Context()))
	k.wantWritten("drivers_autoprobe=0", "drivers_autoprobe=1", "bind=vif-0")
}
