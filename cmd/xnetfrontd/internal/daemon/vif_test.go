package daemon

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/cmdtest"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/config"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/fakekernel"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/machine"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/vifowner"
)

func TestVifThatACommandHasInHandIsServedAfterThat(t *testing.T) {
	k := fakekernel.New(t, true, 0)
	k.Must(k.WriteAttribute(t.Context(), k.Driver()+"/unbind", "vif-0"))
	v := newVif(place{sys: k.System, kernel: k.Owner(), xen: machine.Xen{Locks: t.TempDir()}}, config.NewVif(config.SelectDevID(0)), 0, nil)
	release, err := k.Owner().Reserve(t.Context(), 0)
	k.Must(err)
	limited, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	cmdtest.WantError(t, v.own(limited, 0), "`xnetfrontd prepare` or `release` has reserved it: it is served after that")
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
	k.Must(v.disown())
}

func TestDaemonGivesUpTheLockOfAVifThatTheKernelHas(t *testing.T) {
	k := fakekernel.New(t, true, 0)
	k.Must(k.WriteAttribute(t.Context(), k.Driver()+"/unbind", "vif-0"))
	v := newVif(place{sys: k.System, kernel: k.Owner(), xen: machine.Xen{Locks: t.TempDir()}}, config.NewVif(config.SelectDevID(0)), 0, nil)
	k.Must(v.own(t.Context(), 0))
	if _, taken := vifowner.Owner(v.xen.LockDir(), 0); !taken {
		t.Fatal("it is not locked")
	}
	k.Attach(0)
	if err := v.own(t.Context(), 0); err == nil {
		t.Error("a vif that the kernel has was taken")
	}
	if who, taken := vifowner.Owner(v.xen.LockDir(), 0); taken {
		t.Errorf("it is locked by %s", who)
	}
}
