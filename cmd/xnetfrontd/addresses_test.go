package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/needs"
	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
)

// command runs a program in the daemon's namespace to its end.
func (m *testMachine) command(name string, args ...string) (output string, err error) {
	m.t.Helper()
	var out bytes.Buffer
	cmd := exec.CommandContext(m.t.Context(), name, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := m.space.Start(cmd); err != nil {
		m.t.Fatal(err)
	}
	err = cmd.Wait()
	return out.String(), err
}

// askForNeighbours makes the kernel send n ARP requests through a link, with time for a
// response to each. The link gets an address for that.
func (m *testMachine) askForNeighbours(link string, n int) {
	m.t.Helper()
	if out, err := m.command("ip", "addr", "add", "192.0.2.1/24", "dev", link); err != nil {
		m.t.Fatal(out, err)
	}
	for i := range n {
		err := m.space.Do(func() error {
			c, err := net.Dial("udp", fmt.Sprintf("192.0.2.%d:9", 2+i))
			if err != nil {
				return err
			}
			_, err = c.Write([]byte("x"))
			return errors.Join(err, c.Close())
		})
		if err != nil {
			m.t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// addresses are the addresses of a link, without its own link-local ones.
func (m *testMachine) addresses(name string) []string {
	m.t.Helper()
	list, err := m.space.Links.AddrList(m.link(name), unix.AF_UNSPEC)
	if err != nil {
		m.t.Fatal(err)
	}
	var texts []string
	for _, a := range list {
		if !a.IP.IsLinkLocalUnicast() {
			texts = append(texts, a.IPNet.String())
		}
	}
	slices.Sort(texts)
	return texts
}

// The example for ifupdown, used as Debian does. Without a carrier, ifup fails on IPv6 if it
// waits for the end of duplicate address detection.
func TestAddressesOfTheExampleForIfupdownComeWithoutACarrierAndOutliveIt(t *testing.T) {
	needs.Program(t, "ifup")
	const example = "../../deploy/ifupdown/xnf0"
	m := newMachine(t, xensim.Options{AllowRaise: true}, 0)
	d := m.start("--vif", "0") // its backend is not there yet: no carrier
	d.await("READY=1")
	if out, err := m.command("ifup", "--no-scripts", "--state-dir", t.TempDir(), "-i", example, "xnf0"); err != nil {
		t.Fatalf("ifup: %v: %s", err, out)
	}
	want := []string{"192.0.2.10/24", "2001:db8::10/64"}
	check := func(when string) {
		t.Helper()
		if got := m.addresses("xnf0"); !slices.Equal(got, want) {
			t.Errorf("%s: addresses %s, want %s", when, got, want)
		}
	}
	check("before the first carrier")
	m.startBackend()
	m.awaitVif("connected", "0", connectedAs(0))
	for range 2 {
		m.detach(0)
		m.awaitVif("detached", "0", isWaiting)
		check("the carrier is lost")
		m.attach(0, 0)
		m.awaitVif("attached again", "0", connectedAs(0))
		check("the carrier is back")
	}
}

func TestExamplesOfAddressesAreInThePackages(t *testing.T) {
	list, err := os.ReadFile("../../deploy/packages/nfpm.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range []string{"networkd", "ifupdown", "NetworkManager", "netplan", "dhcpcd"} {
		files, err := filepath.Glob("../../deploy/" + folder + "/*")
		if err != nil || len(files) == 0 {
			t.Errorf("no example in deploy/%s: %v", folder, err)
		}
		for _, f := range files {
			if src := "- src: " + strings.TrimPrefix(f, "../../") + "\n"; !strings.Contains(string(list), src) {
				t.Errorf("not in the packages: %s", f)
			}
		}
	}
}
