package tap

import (
	"errors"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

var errInjected = errors.New("injected")

func TestCreateLeavesNothingBehindWhenAStepFails(t *testing.T) {
	enterNamespace(t)
	cfg := Config{Name: "xnf0", MAC: []byte{2, 0, 0, 0, 0, 1}, MTU: 9000, TxQueueLen: 100}
	steps := new(Device).createSteps(cfg)
	for _, s := range steps {
		before, linksBefore := openDescriptors(t), links(t)
		ran := false
		_, err := create(cfg, func(name string) error {
			if name == s.name {
				ran = true
				return errInjected
			}
			return nil
		})
		if !ran || !errors.Is(err, errInjected) {
			t.Errorf("step %s: ran %t, error %v", s.name, ran, err)
		}
		if left := newDescriptors(t, before); len(left) > 0 {
			t.Errorf("step %s: descriptors left: %v", s.name, left)
		}
		if now := links(t); !slices.Equal(now, linksBefore) {
			t.Errorf("step %s: links %v, before %v", s.name, now, linksBefore)
		}
	}
}

// The same with errors that the kernel really gives.
func TestCreateLeavesNothingBehindWhenTheKernelRefuses(t *testing.T) {
	enterNamespace(t)
	before, linksBefore := openDescriptors(t), links(t)
	for what, cfg := range map[string]Config{
		"multicast MAC":  {MAC: net.HardwareAddr{1, 0, 0, 0, 0, 1}},
		"short MAC":      {MAC: net.HardwareAddr{2}},
		"MTU too large":  {MTU: MaxMTU + 1},
		"MTU too small":  {MTU: MinMTU - 1},
		"negative queue": {TxQueueLen: -1},
		"taken name":     {Name: "lo"},
		"bad name":       {Name: "a/b"},
	} {
		if d, err := Create(cfg); err == nil {
			t.Errorf("%s: created", what)
			d.Close()
		}
		if left := newDescriptors(t, before); len(left) > 0 {
			t.Errorf("%s: descriptors left: %v", what, left)
		}
		if now := links(t); !slices.Equal(now, linksBefore) {
			t.Errorf("%s: links %v, before %v", what, now, linksBefore)
		}
	}
}

// Descriptors run out at a different step with each limit.
func TestCreateLeavesNothingBehindWhenDescriptorsRunOut(t *testing.T) {
	enterNamespace(t)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	before, linksBefore := openDescriptors(t), links(t)
	highest := len(entries) + 16
	failed, created := false, false
	for n := len(entries) - 4; n < highest && !created; n++ {
		low := limit
		low.Cur = uint64(n)
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
			t.Fatal(err)
		}
		d, err := Create(Config{Name: "xnf0"})
		if err == nil && d.UringError() == nil {
			_, err = d.SetQueues(1)
			created = err == nil
		}
		if d != nil {
			d.Close()
		}
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatal(err)
		}
		failed = failed || err != nil
		if left := newDescriptors(t, before); len(left) > 0 {
			t.Errorf("limit %d: descriptors left: %v", n, left)
		}
		if now := links(t); !slices.Equal(now, linksBefore) {
			t.Errorf("limit %d: links %v, before %v", n, now, linksBefore)
		}
	}
	if !failed || !created {
		t.Errorf("failed with some limit: %t; made with some limit: %t", failed, created)
	}
}

func TestCreateNamesTheLinkThatIsInTheWay(t *testing.T) {
	enterNamespace(t)
	d := newDevice(t, Config{Name: "xnf7"})
	for _, name := range []string{"xnf7", "lo"} {
		if _, err := Create(Config{Name: name}); !errors.Is(err, ErrNameTaken) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := linkNamed(t, "xnf7").Index; got != d.Index() {
		t.Errorf("the link has index %d, was %d", got, d.Index())
	}
}

func TestCreateTakesTheFirstFreeNumberOfAPattern(t *testing.T) {
	enterNamespace(t)
	for _, c := range []struct{ pattern, want string }{{"", "xnf0"}, {"", "xnf1"}, {"vif%d.0", "vif0.0"}, {"xnf%d", "xnf2"}} {
		if d := newDevice(t, Config{Name: c.pattern}); d.Name() != c.want {
			t.Errorf("pattern %q gave %q, want %q", c.pattern, d.Name(), c.want)
		}
	}
}

func TestCreateMakesTheLinkAsConfigured(t *testing.T) {
	enterNamespace(t)
	d := newDevice(t, Config{Name: "xnf0", MAC: testMAC, MTU: 9000, TxQueueLen: 123})
	a := linkNamed(t, "xnf0")
	if a.HardwareAddr.String() != testMAC.String() || a.MTU != 9000 || a.TxQLen != 123 || a.Index != d.Index() {
		t.Errorf("MAC %v, MTU %d, queue %d, index %d", a.HardwareAddr, a.MTU, a.TxQLen, a.Index)
	}
	if a.RawFlags&(unix.IFF_UP|unix.IFF_LOWER_UP) != 0 {
		t.Errorf("it is up: %#x", a.RawFlags)
	}
	if a.GSOMaxSize != MaxGSOSize || a.GSOIPv4MaxSize != MaxGSOSize {
		t.Errorf("GSO sizes %d and %d, want %d", a.GSOMaxSize, a.GSOIPv4MaxSize, MaxGSOSize)
	}
	if _, err := checkQueue(d.keeper, true); err != nil {
		t.Errorf("keeper queue: %v", err)
	}
}

// What a killed predecessor left goes some milliseconds after it.
func TestCreateWaitsForANameThatIsAboutToBeFree(t *testing.T) {
	enterNamespace(t)
	old, err := Create(Config{Name: "xnf0"})
	if err != nil {
		t.Fatal(err)
	}
	here, err := currentNamespace()
	if err != nil {
		t.Fatal(err)
	}
	defer here.close()
	result := make(chan error)
	go func() {
		result <- here.run(func() error {
			d, err := Create(Config{Name: "xnf0"})
			if err != nil {
				return err
			}
			return d.Close()
		})
	}()
	runtime.Gosched()
	if err := old.Release(); err != nil {
		t.Error(err)
	}
	if err := <-result; err != nil {
		t.Error(err)
	}
}

// What udev sees of a link whose address is nobody's is a reason for it to set one.
func TestLinkWaitsForItsAddress(t *testing.T) {
	enterNamespace(t)
	mac := net.HardwareAddr{0, 0x16, 0x3e, 1, 2, 3}
	var steps []string
	d, err := create(Config{MAC: mac}, func(step string) error {
		steps = append(steps, step)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if i := slices.Index(steps, "link"); i < 0 || steps[i+1] != "mac" {
		t.Errorf("steps %q", steps)
	}
	if got, err := d.MAC(); err != nil || !slices.Equal(got, mac) {
		t.Errorf("%v, %v", got, err)
	}
}
