package journal

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/needs"
)

const (
	journaldPath = "/usr/lib/systemd/systemd-journald"
	// inNamespaces is set if this test binary is the first process of its own namespaces,
	// without this machine's journal.
	inNamespaces = "JOURNAL_TEST_IN_NAMESPACES"
)

func TestMain(m *testing.M) {
	if os.Getenv(inNamespaces) == "" {
		os.Exit(m.Run())
	}
	if err := logToJournald(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

const stack = "goroutine 1 [running]:\nmain.main()\n"

// logToJournald starts a journald and logs to it. It prints what `journalctl` then finds.
func logToJournald() error {
	// Mounts of this process are not seen outside.
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	for _, dir := range []string{"/run", "/var/log", "/tmp"} {
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return err
	}
	for _, dir := range []string{"/run/systemd/journal", "/run/systemd/journald.conf.d", "/run/log/journal"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	files := map[string]string{
		"/run/machine-id": strings.Repeat("a", 32) + "\n",
		"/run/systemd/journald.conf.d/test.conf": "[Journal]\nStorage=volatile\nReadKMsg=no\nAudit=no\n" +
			"ForwardToSyslog=no\nForwardToKMsg=no\nForwardToConsole=no\nForwardToWall=no\n",
	}
	for path, text := range files {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	if err := unix.Mount("/run/machine-id", "/etc/machine-id", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("/etc/machine-id: %w", err)
	}
	if err := startJournald(); err != nil {
		return err
	}
	socket, err := Dial(DefaultSocket)
	if err != nil {
		return err
	}
	log := zap.New(NewCore(socket, zap.InfoLevel)).With(zap.Int("vif", 0), zap.String("tap", "xnf0"))
	log.Info("connected", zap.Uint16("backend", 3))
	log.Warn("disconnected", zap.String("cause", "violation"), zap.String("stack", stack), zap.String("message_id", EventLost))
	log.Error("large", zap.String("stack", strings.Repeat(stack, 1<<16)))
	if out, err := exec.Command("journalctl", "--sync").CombinedOutput(); err != nil {
		return fmt.Errorf("journalctl --sync: %w: %s", err, out)
	}
	out, err := exec.Command("journalctl", "--no-pager", "--all", "--output=json", "--identifier=xnetfrontd").Output()
	if err != nil {
		return err
	}
	found, err := exec.Command("journalctl", "--no-pager", "--output=cat", "--priority=warning", "CAUSE=violation", "VIF=0").Output()
	if err != nil {
		return err
	}
	fmt.Printf("%s%s", found, out)
	return nil // journald ends with its first process
}

// startJournald starts a journald and waits until it is ready (sd_notify(3)).
func startJournald() error {
	const path = "/run/notify"
	ready, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer func() { _ = ready.Close() }()
	cmd := exec.Command(journaldPath)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+path)
	if err := cmd.Start(); err != nil {
		return err
	}
	if err := ready.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	for buf := make([]byte, 4096); ; {
		n, err := ready.Read(buf)
		if err != nil {
			return fmt.Errorf("journald does not come up: %w", err)
		}
		if strings.Contains(string(buf[:n]), "READY=1") {
			return nil
		}
	}
}

func TestARealJournaldTakesItAllAndFindsItByCause(t *testing.T) {
	needs.Root(t)
	if _, err := os.Stat(journaldPath); err != nil {
		needs.LeaveOut(t, "systemd-journald")
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), inNamespaces+"=1", "GORACE=atexit_sleep_ms=0")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC,
		Pdeathsig:  unix.SIGKILL,
	}
	var problems strings.Builder
	cmd.Stderr = &problems
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, problems.String())
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if lines[0] != "vif 0: disconnected: violation" || len(lines) != 4 {
		t.Fatalf("journalctl CAUSE=violation VIF=0 and everything: %.2000q", out)
	}
	for i, want := range []map[string]string{
		{"MESSAGE": "vif 0: connected (backend 3)", "PRIORITY": "6", "BACKEND": "3", "TAP": "xnf0", "_TRANSPORT": "journal"},
		{"CAUSE": "violation", "PRIORITY": "4", "MESSAGE_ID": EventLost, "XNF_STACK": stack},
		{"MESSAGE": "vif 0: large", "PRIORITY": "3", "XNF_STACK": strings.Repeat(stack, 1<<16)},
	} {
		var got map[string]string
		if err := json.Unmarshal([]byte(lines[1+i]), &got); err != nil {
			t.Fatalf("%v: %.500s", err, lines[1+i])
		}
		for k, v := range want {
			if got[k] != v {
				t.Errorf("entry %d: %s is %.200q, want %.200q", i, k, got[k], v)
			}
		}
	}
}
