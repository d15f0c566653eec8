package hold

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// startedLinger is how long a holder that was started by a daemon outlives its last
// bundle and its last client: without systemd nobody else would end it.
const startedLinger = 2 * time.Second

// startTimeout bounds the start of a holder. A machine that boots may be slow.
const startTimeout = 10 * time.Second

// bindTimeout is how long a holder may take from its lock to its socket.
const bindTimeout = 200 * time.Millisecond

// StartCommand is the command that makes a holder at path of this program, for
// [KeeperOptions].
func StartCommand(path string) []string {
	return []string{"/proc/self/exe", "hold", "--detach", "--linger", startedLinger.String(), "--socket", path}
}

// EnsureHolder returns when a holder answers at path, and starts one of this program if
// none does. That holder is nobody's child and in a session of its own: it outlives
// this process, though not a service manager that kills by control group, so under
// systemd let its socket activation start the holder instead.
func EnsureHolder(ctx context.Context, path string) error {
	c, err := dialOrStart(ctx, path, StartCommand(path))
	if err != nil {
		return err
	}
	return c.Close()
}

// dialOrStart starts a holder when none is there to connect to and there is a command
// to start one with.
func dialOrStart(ctx context.Context, path string, command []string) (*Client, error) {
	c, err := Dial(ctx, path)
	if len(command) == 0 || !errors.Is(err, ErrUnavailable) ||
		!errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ECONNREFUSED) {
		return c, err // a holder that is there and does not answer is not to be doubled
	}
	startErr := start(ctx, command)
	// Another process may have been faster, so that ours was refused, and may be about
	// to listen.
	for end := time.Now().Add(bindTimeout); ; {
		if c, err = Dial(ctx, path); err == nil {
			return c, nil
		}
		if startErr == nil || time.Now().After(end) {
			return nil, errors.Join(startErr, err)
		}
		select {
		case <-time.After(bindTimeout / 20):
		case <-ctx.Done():
		}
	}
}

// start runs the command of a holder that detaches itself, and waits until that is
// ready.
func start(ctx context.Context, command []string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start holder: %w", err)
	}
	defer r.Close()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = w, os.Stderr
	// It is no service of systemd's, and nothing that it says is about this one.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "NOTIFY_SOCKET=") || strings.HasPrefix(v, "WATCHDOG_") || strings.HasPrefix(v, "LISTEN_")
	})
	err = cmd.Run()
	_ = w.Close()
	if err != nil {
		return fmt.Errorf("start holder: %w", err)
	}
	defer context.AfterFunc(ctx, func() { _ = r.SetReadDeadline(time.Unix(1, 0)) })()
	line, err := bufio.NewReader(r).ReadString('\n')
	if line = strings.TrimSpace(line); line != readyLine {
		return fmt.Errorf("start holder: it said %q before it was ready (%v)", line, err)
	}
	return nil
}

// Detach starts this program once more, with these arguments, in a session of its own,
// and returns at once. When the caller then ends, that process is nobody's child. Its
// standard output and standard error are the caller's; nothing else is.
func Detach(args []string) error {
	// The daemon may have descriptors that are not closed by an exec. In the holder they
	// would live for ever, and under no name.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("detach: close_range: %w", err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return fmt.Errorf("detach: %w", err)
	}
	defer null.Close()
	p, err := os.StartProcess("/proc/self/exe", append([]string{processName}, args...), &os.ProcAttr{
		Files: []*os.File{null, os.Stdout, os.Stderr},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return fmt.Errorf("detach: %w", err)
	}
	return p.Release()
}
