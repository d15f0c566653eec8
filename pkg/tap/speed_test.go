package tap

import (
	"testing"
	"unsafe"
)

// speed is what the kernel says of the link, in Mb/s.
func speed(t *testing.T, d *Device) (got int) {
	t.Helper()
	err := d.withSettings(func(ask func(uint32) error, s *linkSettings) error {
		err := ask(getLinkSettings)
		got = int(s.speed)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// setSpeed is `ethtool -s tap speed ...`.
func setSpeed(t *testing.T, d *Device, mbits uint32) {
	t.Helper()
	err := d.withSettings(func(ask func(uint32) error, s *linkSettings) error {
		if err := ask(getLinkSettings); err != nil {
			return err
		}
		s.speed = mbits
		return ask(setLinkSettings)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestNewLinkSaysTenGigabit(t *testing.T) {
	enterNamespace(t)
	d, _ := liveDevice(t, Config{}, 1)
	if got := speed(t, d); got != speedHigh {
		t.Errorf("%d Mb/s", got)
	}
}

func TestLinkOfAKernelThatSaysTenMegabitSaysTenGigabit(t *testing.T) {
	enterNamespace(t)
	d, _ := liveDevice(t, Config{}, 1)
	setSpeed(t, d, speedLow) // as a kernel before 6.2 makes it
	if got := speed(t, d); got != speedLow {
		t.Fatalf("%d Mb/s", got)
	}
	if err := d.raiseSpeed(); err != nil {
		t.Fatal(err)
	}
	if got := speed(t, d); got != speedHigh {
		t.Errorf("%d Mb/s", got)
	}
}

func TestSpeedThatSomebodyHasSetStays(t *testing.T) {
	enterNamespace(t)
	d, _ := liveDevice(t, Config{}, 1)
	setSpeed(t, d, 2500)
	if err := d.raiseSpeed(); err != nil {
		t.Fatal(err)
	}
	if got := speed(t, d); got != 2500 {
		t.Errorf("%d Mb/s", got)
	}
}

func TestLinkSettingsHaveTheKernelsLayout(t *testing.T) {
	if n := unsafe.Offsetof(linkSettings{}.masks); n != 48 {
		t.Errorf("%d bytes, want 48", n)
	}
	if n := unsafe.Offsetof(linkSettings{}.words); n != 15 {
		t.Errorf("the words are at byte %d, want 15", n)
	}
	if n := unsafe.Sizeof(ifreqData{}); n != 40 {
		t.Errorf("struct ifreq has %d bytes, want 40", n)
	}
}
