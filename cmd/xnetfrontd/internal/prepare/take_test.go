package prepare

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/cmdtest"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/failure"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/fakekernel"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/vifowner"
	"github.com/xnetfrontd/xnetfrontd/internal/printable"
	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/netfront"
)

// newWatching is a kernel of a guest of an embedded Xen.
func newWatching(t *testing.T, seven bool, vifs ...int) *fakekernel.Watching {
	t.Helper()
	guest, domain0 := guestOf(t, xensim.Options{}, vifs...)
	return fakekernel.NewWatching(t, seven, guestID, guest.Store, domain0, vifs...)
}

func TestConfiguredVifsAreTakenFromTheKernelAndNoOthers(t *testing.T) {
	store := storeOf(t, 0, 1, 2)
	k := fakekernel.New(t, true, 0, 1, 2)
	p, out := prepareOn(t, k)
	vifs := []wantedVif{{devid: 0, attached: true}, {devid: 2, attached: true}, {devid: 7}}
	if err := p.take(t.Context(), store, vifs); err != nil {
		t.Fatal(err)
	}
	wantPrinted(t, out, "vif 0: taken from the kernel's xen-netfront, where it was eth0\n"+
		"vif 2: taken from the kernel's xen-netfront, where it was eth2\nvif 7: not attached\n")
	k.WantUnbound(2)
	if driver, err := k.Owner().Driver(1); driver != "vif" || err != nil {
		t.Errorf("vif 1 has driver %q, %v", driver, err)
	}

	k.Wrote = nil
	if err := p.take(t.Context(), store, vifs); err != nil {
		t.Fatal(err)
	}
	wantPrinted(t, out, "vif 0: no kernel driver has it\nvif 2: no kernel driver has it\nvif 7: not attached\n")
	k.WantWritten()
}

func TestVifThatTheKernelKeepsDoesNotStopTheOthersFromBeingTaken(t *testing.T) {
	store := storeOf(t, 0, 1)
	k := fakekernel.New(t, true, 0, 1)
	p, out := prepareOn(t, k)
	k.Refuses = "vif-0"
	err := p.take(t.Context(), store, []wantedVif{{devid: 0, attached: true}, {devid: 1, attached: true}})
	if want := "vif 0: the kernel's xen-netfront keeps it; permission denied"; err == nil || printable.Error(err) != want {
		t.Errorf("got %v, want %s", err, want)
	}
	wantPrinted(t, out, "vif 1: taken from the kernel's xen-netfront, where it was eth1\n")
}

// With a silent backend the kernel's driver needs 30 s for a vif. It needs no more for any
// number of such vifs.
func TestVifsWithASilentBackendAreWaitedForTogetherAndKeepNoOther(t *testing.T) {
	const silent = 3 // and one that answers
	store := storeOf(t, 0, 1, 2, 3)
	k := fakekernel.New(t, true, 0, 1, 2, 3)
	p, out := prepareOn(t, k)
	var waiting sync.WaitGroup
	waiting.Add(silent)
	taken := make(chan struct{})
	var vifs []wantedVif
	for devid := range silent + 1 {
		vifs = append(vifs, wantedVif{devid: devid, attached: true})
	}
	bus, began := k.Owner(), time.Now()
	bus.Store = func(ctx context.Context, path, value string) error {
		if !strings.HasSuffix(path, "/unbind") {
			return k.WriteAttribute(ctx, path, value)
		}
		if value == fmt.Sprintf("vif-%d", silent) {
			close(taken)
			return k.WriteAttribute(ctx, path, value)
		}
		if limit, ok := ctx.Deadline(); !ok || limit.After(began.Add(vifowner.Limit+patience)) {
			t.Errorf("%s is waited for until %v", value, limit)
		}
		waiting.Done()
		all := make(chan struct{})
		go func() { waiting.Wait(); <-taken; close(all) }()
		select {
		case <-all: // all wait, and the good one was taken meanwhile
			return context.DeadlineExceeded
		case <-ctx.Done():
			t.Errorf("%s keeps others", value)
			return ctx.Err()
		}
	}
	p.kernel = bus
	err := p.take(t.Context(), store, vifs)
	wantPrinted(t, out, "vif 3: taken from the kernel's xen-netfront, where it was eth3\n")
	lines, want := "", ""
	for devid := range silent {
		want += fmt.Sprintf("vif %d: the kernel's xen-netfront has not let go of it in 30s: it waits for its backend, and lets go when that answers or `xl network-detach` takes the vif away\n", devid)
	}
	var each failure.Several
	each.Add(err)
	for _, err := range each {
		lines += printable.Error(err) + "\n"
	}
	if code := failure.Code(err); code != failure.ExitRuntime || lines != want {
		t.Errorf("exit code %d, errors:\n%swant:\n%s", code, lines, want)
	}
}

func TestVifThatAnotherCommandHasInHandIsSaidAndKeepsNoOther(t *testing.T) {
	store := storeOf(t, 0, 1)
	k := fakekernel.New(t, true, 0, 1)
	p, out := prepareOn(t, k)
	release, err := k.Owner().Reserve(t.Context(), 0)
	k.Must(err)
	defer release()
	limited, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = p.takeOne(t.Context(), limited, store, 0)
	cmdtest.WantError(t, err, "another `xnetfrontd prepare` or `release` has reserved it, and has not ended")
	k.Must(p.take(t.Context(), store, []wantedVif{{devid: 1, attached: true}}))
	wantPrinted(t, out, "vif 1: taken from the kernel's xen-netfront, where it was eth1\n")
}

func TestKernelDoesNotTakeBackWhatWasTakenFromIt(t *testing.T) {
	for _, seven := range []bool{false, true} {
		t.Run(fmt.Sprintf("since Linux 7.0: %v", seven), func(t *testing.T) {
			k := newWatching(t, seven, 0)
			p, out := prepareOn(t, k.Kernel)
			k.Must(p.take(t.Context(), k, []wantedVif{{devid: 0, attached: true}}))
			wantPrinted(t, out, "vif 0: taken from the kernel's xen-netfront, where it was eth0\n")
			if k.Owner().Stale(0) == seven {
				t.Errorf("the kernel remembers another state than that of a new vif: %v", !seven)
			}
			// A daemon resets it at each of its connections.
			for range 2 {
				k.SetStates(0, "6", "6")
				k.Must(netfront.Rewind(t.Context(), k, 0, nil))
				k.WantDriver(0, "")
			}
			k.WantWritten("unbind=vif-0", "drivers_autoprobe=0", "drivers_autoprobe=1")
		})
	}
}

func TestVifThatSomebodyElseTookFromTheKernelIsNotTakenBackEither(t *testing.T) {
	k := newWatching(t, true, 0, 1, 2)
	for devid := range 3 {
		k.Must(k.WriteAttribute(t.Context(), k.Driver()+"/unbind", fmt.Sprintf("vif-%d", devid)))
	}
	k.SetStates(1, "4", "4") // a daemon has left it to the next process
	k.SetStates(2, "6", "6")
	p, out := prepareOn(t, k.Kernel)
	lock, err := vifowner.Take(p.lockDir, 2) // a daemon serves vif 2
	k.Must(err)
	defer lock.Release()
	k.Wrote = nil
	k.Must(p.take(t.Context(), k, []wantedVif{{devid: 0, attached: true}, {devid: 1, attached: true}, {devid: 2, attached: true}}))
	wantPrinted(t, out, "vif 0: no kernel driver has it any more\nvif 1: no kernel driver has it\nvif 2: no kernel driver has it\n")
	k.WantWritten("drivers_autoprobe=0", "drivers_autoprobe=1")
	for devid, want := range []string{"1", "4", "6"} {
		if state, err := k.Read(t.Context(), fmt.Sprintf("device/vif/%d/state", devid)); err != nil || state != want {
			t.Errorf("the state of vif %d is %s, %v, want %s", devid, state, err, want)
		}
	}
	k.Must(netfront.Rewind(t.Context(), k, 0, nil))
	k.WantDriver(0, "")
}

func TestVifThatIsDetachedWhileItIsTakenIsNoFailure(t *testing.T) {
	for _, had := range []bool{true, false} {
		guest, domain0 := guestOf(t, xensim.Options{}, 0, 1)
		k := fakekernel.NewWatching(t, true, guestID, guest.Store, domain0, 0, 1)
		if !had {
			k.Must(k.WriteAttribute(t.Context(), k.Driver()+"/unbind", "vif-0"))
		}
		k.Must(domain0.Remove(t.Context(), xensim.FrontendPath(guestID, 0)))
		p, out := prepareOn(t, k.Kernel)
		k.Must(p.take(t.Context(), k, []wantedVif{{devid: 0, attached: true}, {devid: 1, attached: true}}))
		wantPrinted(t, out, "vif 0: detached meanwhile\nvif 1: taken from the kernel's xen-netfront, where it was eth1\n")
	}
}

func TestKernelThatDoesNotLookAtXenstoreIsNotWaitedForForEver(t *testing.T) {
	k := newWatching(t, true, 0)
	ctx, cancel := context.WithCancel(t.Context())
	// The last write turns the probing off. After that nothing more comes.
	bus := k.Owner()
	p, _ := prepareOn(t, k.Kernel)
	p.kernel = bus
	bus.Store = func(c context.Context, path, value string) error {
		if strings.HasSuffix(path, "drivers_autoprobe") && value == "0" {
			cancel()
		}
		return k.WriteAttribute(c, path, value)
	}
	err := p.take(ctx, k, []wantedVif{{devid: 0, attached: true}})
	if err == nil || !strings.Contains(err.Error(), "taken from the kernel's xen-netfront, which may take it again: ") {
		t.Errorf("got %v", err)
	}
	k.WantWritten("unbind=vif-0", "drivers_autoprobe=0", "drivers_autoprobe=1")
}
