package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/failure"
	"github.com/xnetfrontd/xnetfrontd/internal/needs"
)

// startDemo starts the demo with a directory of its own for temporary files. The
// returned output grows while it runs.
func startDemo(t *testing.T, args ...string) (cmd *exec.Cmd, out *output, tmp string) {
	t.Helper()
	needs.Root(t)
	cmd = program(append([]string{"demo"}, args...)...)
	tmp, err := os.MkdirTemp("", "d") // short: socket paths are below it
	if err != nil {
		t.Fatal(err)
	}
	out = &output{changed: make(chan struct{}, 1)}
	cmd.Env = append(cmd.Env, "TMPDIR="+tmp)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			cmd.Process.Kill()
			cmd.Wait()
		}
		os.RemoveAll(tmp)
	})
	return cmd, out, tmp
}

// output collects what a process writes.
type output struct {
	mu      sync.Mutex
	text    bytes.Buffer
	changed chan struct{}
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case o.changed <- struct{}{}:
	default:
	}
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

func (o *output) await(t *testing.T, text string) {
	t.Helper()
	timeout := time.After(patience)
	for !strings.Contains(o.String(), text) {
		select {
		case <-o.changed:
		case <-timeout:
			t.Fatalf("no %q in:\n%s", text, o)
		}
	}
}

// wantGone checks that the processes that the demo named are gone, and its files.
func wantGone(t *testing.T, out *output, tmp string) {
	t.Helper()
	pids := regexp.MustCompile(`pid (\d+),`).FindAllStringSubmatch(out.String(), -1)
	if len(pids) != 2 {
		t.Errorf("want the pids of two processes in:\n%s", out)
	}
	for _, p := range pids {
		if _, err := os.Stat("/proc/" + p[1]); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("process %s is left: %v", p[1], err)
		}
	}
	left, err := os.ReadDir(tmp)
	if err != nil || len(left) > 0 {
		t.Errorf("files are left: %v, %v", left, err)
	}
}

func TestDemoCopiesEveryByteAndLeavesNothing(t *testing.T) {
	for _, args := range [][]string{
		{"--size", "4MiB"},
		{"--size", "1MiB", "--queues", "1", "--backend-without", "sg,gso_tcpv4,gso_tcpv6,csum_ipv6,split_channels"},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			cmd, out, tmp := startDemo(t, args...)
			if err := cmd.Wait(); err != nil {
				t.Fatalf("%v:\n%s", err, out)
			}
			for _, want := range []string{
				"ping IPv4      10 of 10 replies", "ping IPv6      10 of 10 replies",
				"TCP over IPv4, guest to backend: ", "TCP over IPv6, backend to guest: ",
				"SHA-256 equal at both ends", "QUARANTINED",
			} {
				if !strings.Contains(out.String(), want) {
					t.Errorf("no %q in:\n%s", want, out)
				}
			}
			wantGone(t, out, tmp)
		})
	}
}

func TestDemoThatIsInterruptedLeavesNothing(t *testing.T) {
	cmd, out, tmp := startDemo(t, "--size", "1000GiB")
	out.await(t, "guest to backend: ")
	if err := cmd.Process.Signal(unix.SIGINT); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != failure.ExitRuntime || !strings.HasSuffix(out.String(), "xnetfrontd: interrupted\n") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	wantGone(t, out, tmp)
}

func TestDemoWhoseDaemonDiesFailsAndLeavesNothing(t *testing.T) {
	cmd, out, tmp := startDemo(t, "--size", "1000GiB")
	out.await(t, "guest to backend: ")
	pid := regexp.MustCompile(`daemon +pid (\d+)`).FindStringSubmatch(out.String())
	if pid == nil {
		t.Fatal(out)
	}
	daemon, err := strconv.Atoi(pid[1])
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(daemon, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != failure.ExitRuntime || !strings.Contains(out.String(), "daemon (pid "+pid[1]+") ended: signal: killed") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	wantGone(t, out, tmp)
}

func TestDemoThatIsKeptEndsWithCtrlC(t *testing.T) {
	cmd, out, tmp := startDemo(t, "--size", "1MiB", "--keep")
	out.await(t, "Ctrl-C ends it.\n")
	// The user can type the commands that it prints.
	enter := regexp.MustCompile(`(?m)^  (nsenter .*) ip -s addr show dev xnf0$`).FindStringSubmatch(out.String())
	if enter == nil {
		t.Fatal(out)
	}
	args := strings.Fields(enter[1])
	if o := runProgram(t, exec.Command(args[0], append(args[1:], "cat", "/proc/self/net/dev")...)); o.code != 0 || !strings.Contains(o.out, "xnf0:") {
		t.Errorf("%s: %+v", enter[1], o)
	}
	if err := cmd.Process.Signal(unix.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v:\n%s", err, out)
	}
	wantGone(t, out, tmp)
}

func TestDemoForAPlainUserSaysWhatIsMissing(t *testing.T) {
	cmd := asNobody(t, "demo", "--size", "1MiB")
	fi, err := os.Stat("/dev/net/tun")
	if err != nil {
		t.Fatal(err)
	}
	o := runProgram(t, cmd)
	if fi.Mode().Perm()&0o006 == 0o006 {
		if o.code != 0 && !strings.Contains(o.errOut, "run as root (sudo)") {
			t.Errorf("%+v", o)
		}
		return
	}
	wantError(t, o, failure.ExitRuntime, "open /dev/net/tun: permission denied: run as root, or let this user read and write it with `chmod 0666 /dev/net/tun`, which is how udev makes it")
}
