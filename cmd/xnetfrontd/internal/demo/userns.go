package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// inUserNS marks the process that RunInUserNamespace started.
const inUserNS = "XNETFRONTD_DEMO_USER_NAMESPACE"

// InUserNamespace reports whether this process is one that RunInUserNamespace started.
func InUserNamespace() bool { return os.Getenv(inUserNS) != "" }

// RunInUserNamespace runs the program once more, as root of a new user namespace in
// which this user may make network namespaces and TAPs, and returns its exit code. If
// ctx ends, the program gets SIGTERM.
func RunInUserNamespace(ctx context.Context, program string, args []string, out, errOut io.Writer) (int, error) {
	// The kernel kills the child when the thread that started it ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), inUserNS+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, out, errOut
	cmd.SysProcAttr = &unix.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   unix.SIGTERM,
		Setpgid:     true, // Ctrl-C reaches it once, through ctx
	}
	if err := cmd.Start(); err != nil {
		return 0, explainUserNS(err)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(unix.SIGTERM) }) // an error means that it has ended
	defer stop()
	err := cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if exit.ExitCode() < 0 {
			return 0, fmt.Errorf("demo in the user namespace: %w", err)
		}
		return exit.ExitCode(), nil
	}
	return 0, err
}

// explainUserNS adds to an error what keeps a plain user from making a user namespace.
func explainUserNS(err error) error {
	for _, s := range []struct{ path, bad, remedy string }{
		{"/proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"},
		{"/proc/sys/user/max_user_namespaces", "0", "sysctl user.max_user_namespaces=10000"},
		{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "sysctl kernel.apparmor_restrict_unprivileged_userns=0"},
	} {
		if b, readErr := os.ReadFile(s.path); readErr == nil && strings.TrimSpace(string(b)) == s.bad {
			return fmt.Errorf("%w (%w): %s is %s; run as root (sudo), or let root allow it with `%s`", errNoUserNS, err, s.path, s.bad, s.remedy)
		}
	}
	return fmt.Errorf("%w (%w): run as root (sudo)", errNoUserNS, err)
}

// errNoUserNS is wrapped by every error that keeps a plain user from making namespaces.
var errNoUserNS = errors.New("a plain user cannot make a user namespace here")
