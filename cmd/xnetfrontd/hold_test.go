package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/failure"
	"github.com/xnetfrontd/xnetfrontd/internal/hold"
)

func TestHoldRefusesWhatItCannotDo(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		args []string
		code int
		line string
	}{
		{[]string{"--socket", dir}, failure.ExitRuntime, dir + " is there and is no socket: remove it, or choose another --socket"},
		{[]string{"--linger=-1s"}, failure.ExitUsage, "--linger -1s: expected 0 or more"},
		{[]string{"--log-level", "loud"}, failure.ExitUsage, `log level: unrecognized level: "loud"`},
	} {
		wantError(t, runProgram(t, program(append([]string{"hold"}, c.args...)...)), c.code, c.line)
	}
}

// The daemon would wait several times, and log several lines, for a holder that cannot be
// started either.
func TestDaemonThatFindsNoXenSaysSoInOneLineAndStartsNoHolder(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "run", "hold.sock")
	wantError(t, runProgram(t, program("run", "--vif", "0", "--xen", dir, "--holder", socket, "--control", filepath.Join(dir, "c.sock"))), failure.ExitRuntime,
		"embedded Xen in "+dir+": connect domain 1: open grants: dial unixpacket "+dir+"/hypercalls: connect: no such file or directory")
	if _, err := os.Stat(filepath.Dir(socket)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the holder's directory: %v, want none", err)
	}
}

func TestUsersOfTheHolderAreNamesOrNumbers(t *testing.T) {
	uids, unknown := lookupUsers([]string{"root", "nobody", "1234", "-1", "nobody-has-this"})
	if want := []int{0, 65534, 1234}; !slices.Equal(uids, want) {
		t.Errorf("users %v, want %v", uids, want)
	}
	if want := []string{"-1", "nobody-has-this"}; !slices.Equal(unknown, want) {
		t.Errorf("unknown %q, want %q", unknown, want)
	}
}

// The command line with which a daemon starts a holder, and all requests of a daemon.
func TestDaemonStartsAHolderThatOutlivesItsConnection(t *testing.T) {
	t.Setenv(beProgram, "1")
	t.Setenv("GORACE", "atexit_sleep_ms=0")
	path := filepath.Join(t.TempDir(), "run", "hold.sock")
	if err := hold.EnsureHolder(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	c, err := hold.Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Put(t.Context(), hold.Bundle{Key: "k", Label: "kept", Files: []hold.File{{Name: "stdin", FD: 0}}}); err != nil {
		t.Fatal(err)
	}
	c.Close()
	c, err = hold.Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b, err := c.Get(t.Context(), "k")
	if err != nil || b.Label != "kept" || len(b.Files) != 1 {
		t.Errorf("got %+v, %v", b, err)
	}
	b.Close()
	var pid int
	if lock, err := os.ReadFile(path + ".lock"); err != nil {
		t.Fatal(err)
	} else if _, err := fmt.Sscan(string(lock), &pid); err != nil {
		t.Fatal(err)
	}
	if err := c.Drop(t.Context(), "k"); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(pid, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-c.Done()
}
