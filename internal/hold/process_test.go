package hold

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/await"
	"github.com/xnetfrontd/xnetfrontd/internal/needs"
)

func TestHolderThatHoldsNothingEndsWithASignal(t *testing.T) {
	for _, s := range []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGQUIT} {
		p := startProcess(t, filepath.Join(t.TempDir(), "s"))
		c := dial(t, p.path)
		p.signal(unix.SIGHUP) // does nothing
		must(t, c.Drop(t.Context(), "none"))
		p.signal(s)
		p.wantEnd()
		<-c.Done()
	}
}

func TestHolderWithABundleInUseEndsWhenThatIsDropped(t *testing.T) {
	p := startProcess(t, filepath.Join(t.TempDir(), "s"))
	c := dial(t, p.path)
	held := newCanary(t)
	must(t, c.Put(t.Context(), held.bundle("k")))
	p.signal(unix.SIGTERM)
	p.awaitLog("1 bundles in use, 0 parked")
	must(t, c.Put(t.Context(), held.bundle("k")))
	held.letGo()
	held.wantOpen()
	must(t, c.Drop(t.Context(), "k"))
	held.wantClosed()
	p.wantEnd()
}

func TestHolderWithAParkedBundleNeverEnds(t *testing.T) {
	p := startProcess(t, filepath.Join(t.TempDir(), "s"))
	c := dial(t, p.path)
	poison := newCanary(t)
	must(t, c.Put(t.Context(), poison.bundle("k")))
	_, err := c.Park(t.Context(), "k")
	must(t, err)
	must(t, c.Close())
	poison.letGo()
	for _, s := range []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM} {
		p.signal(unix.SIGHUP)
		p.signal(unix.SIGUSR2)
		p.signal(s)
		p.awaitLog("0 bundles in use, 1 parked")
	}
	must(t, dial(t, p.path).Drop(t.Context(), "k"))
	poison.wantOpen()
}

func TestHolderThatLingersEndsAfterItsLastBundleAndClient(t *testing.T) {
	p := startProcess(t, filepath.Join(t.TempDir(), "s"), "--linger", "1s")
	c := dial(t, p.path)
	held := newCanary(t)
	must(t, c.Put(t.Context(), held.bundle("k")))
	must(t, c.Close())
	select {
	case <-p.ended:
		t.Fatal("it ended with a bundle")
	case <-time.After(1500 * time.Millisecond):
	}
	c = dial(t, p.path)
	must(t, c.Drop(t.Context(), "k"))
	must(t, c.Close())
	p.wantEnd()
}

func TestClientKilledWhilePuttingLeavesTheBundleWhole(t *testing.T) {
	p := startProcess(t, filepath.Join(t.TempDir(), "s"))
	c := dial(t, p.path)
	for range 20 {
		cmd := command("putter", p.path)
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		_, err = bufio.NewReader(out).ReadString('\n')
		must(t, err)
		time.Sleep(rand.N(5 * time.Millisecond)) // the moment is the test
		must(t, cmd.Process.Kill())
		cmd.Wait()
		b, err := c.Get(t.Context(), "numbered")
		must(t, err)
		wantWhole(t, b)
	}
}

func TestHolderLeaksNoDescriptors(t *testing.T) {
	p := startProcess(t, filepath.Join(t.TempDir(), "s"))
	round := func(i int) {
		c, err := Dial(t.Context(), p.path)
		must(t, err)
		b, err := numbered(i)
		must(t, err)
		must(t, c.Put(t.Context(), *b))
		must(t, b.Close())
		b, err = c.Get(t.Context(), "numbered")
		must(t, err)
		wantWhole(t, b)
		rawAnswer(t, p.path, []byte("garbage"), 0, 1, 2)
		must(t, c.Drop(t.Context(), "numbered"))
		must(t, c.Close())
	}
	round(0)
	settled := func() int {
		n := 0
		await.That(t, "connections are closed", func() bool {
			links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", p.cmd.Process.Pid))
			must(t, err)
			n = 0
			open := 0
			for _, l := range links {
				to, err := os.Readlink(l)
				if err != nil {
					continue // closed meanwhile
				}
				n++
				if strings.HasPrefix(to, "socket:") {
					open++
				}
			}
			return open == 1 // the one that listens
		})
		return n
	}
	before := settled()
	for i := range 100 {
		round(i)
	}
	if after := settled(); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func TestHolderWithoutDescriptorsLeftRefusesAndKeepsTheOld(t *testing.T) {
	p := startProcess(t, filepath.Join(t.TempDir(), "s"))
	c := dial(t, p.path)
	held, fd := newCanary(t), memfd(t, "")
	must(t, c.Put(t.Context(), held.bundle("k")))
	var old unix.Rlimit
	must(t, unix.Prlimit(p.cmd.Process.Pid, unix.RLIMIT_NOFILE, nil, &old))
	limit := func(n uint64) {
		must(t, unix.Prlimit(p.cmd.Process.Pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: old.Max}, nil))
	}
	before := files(t, p.cmd.Process.Pid)
	limit(50)
	many := Bundle{Key: "k"}
	for i := range 150 {
		many.Files = append(many.Files, File{fmt.Sprint(i), fd})
	}
	wantError(t, c.Put(t.Context(), many), ErrRefused, "the holder has no descriptors left (RLIMIT_NOFILE)")
	held.letGo()
	held.wantOpen()
	if after := files(t, p.cmd.Process.Pid); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
	limit(8) // not even for a connection
	if _, err := Dial(t.Context(), p.path); err == nil {
		t.Error("a connection was made without a descriptor for it")
	}
	limit(old.Cur)
	must(t, c.Put(t.Context(), many))
	held.wantClosed()
	must(t, dial(t, p.path).Drop(t.Context(), "k"))
}

func TestHolderRaisesItsSoftLimit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	cmd := command("program")
	cmd.Path, cmd.Args = "/bin/sh", []string{"sh", "-c", `ulimit -Sn 64 && ulimit -Hn 500 && exec "$0" "$@"`, "/proc/" + strconv.Itoa(os.Getpid()) + "/exe", "hold", "--detached", "--socket", path}
	launch(t, path, cmd)
	c := dial(t, path)
	fd := memfd(t, "")
	b := Bundle{}
	for i := range 100 {
		b.Files = append(b.Files, File{fmt.Sprint(i), fd})
	}
	b.Key = "first"
	must(t, c.Put(t.Context(), b))
	b.Key = "second"
	wantError(t, c.Put(t.Context(), b), ErrRefused, fmt.Sprint("limit of ", 500-reservedFiles))
}

// failing runs a holder that cannot start.
func failing(t *testing.T, path, want string) {
	t.Helper()
	out, err := command("program", "hold", "--socket", path).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || !strings.Contains(string(out), want) {
		t.Errorf("it ended with %v, and said %q, want %q", err, out, want)
	}
}

func TestSecondHolderNamesTheFirstAndEnds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	p := startProcess(t, path)
	held := newCanary(t)
	must(t, dial(t, path).Put(t.Context(), held.bundle("k")))
	failing(t, path, fmt.Sprintf("another holder, pid %d, has %s", p.cmd.Process.Pid, path))
	_, err := dial(t, path).Get(t.Context(), "k")
	must(t, err)
}

func TestSocketOfADeadHolderIsTakenOver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "s")
	p := startProcess(t, path)
	p.kill()
	if _, err := os.Lstat(path); err != nil {
		t.Fatal("no socket is left: this tests nothing")
	}
	startProcess(t, path)
	must(t, dial(t, path).Drop(t.Context(), "none"))
}

func TestOnlyASocketIsRemovedForTheSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(path, []byte("mine"), 0o600))
	failing(t, path, "is there and is no socket")
	if b, err := os.ReadFile(path); err != nil || string(b) != "mine" {
		t.Errorf("the file has %q, %v", b, err)
	}
	failing(t, filepath.Join(t.TempDir(), strings.Repeat("x", 100)), "socket path of")
}

// dialAs tells what another user gets.
func dialAs(t *testing.T, path string, uid uint32) string {
	t.Helper()
	cmd := command("dial", path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	out, _ := cmd.CombinedOutput()
	return string(out)
}

func TestForeignUsersAreRefused(t *testing.T) {
	needs.Root(t)
	dir := t.TempDir()
	must(t, errors.Join(os.Chmod(dir, 0o755), os.Chmod(filepath.Dir(dir), 0o755)))
	closed := startProcess(t, filepath.Join(dir, "closed"))
	if got := dialAs(t, closed.path, 65534); !strings.Contains(got, "permission denied") {
		t.Errorf("user 65534 got %q", got)
	}
	must(t, os.Chmod(closed.path, 0o666)) // the mode is not what it depends on
	if got := dialAs(t, closed.path, 65534); !strings.Contains(got, "user 65534 may not use it") {
		t.Errorf("user 65534 got %q", got)
	}
	open := startProcess(t, filepath.Join(dir, "open"), "--allow-uid", "65533", "--allow-uid", "65532")
	if got := dialAs(t, open.path, 65534); !strings.Contains(got, "user 65534 may not use it (see --allow-user)") {
		t.Errorf("user 65534 got %q", got)
	}
	if got := dialAs(t, open.path, 65532); got != "" {
		t.Errorf("user 65532 got %q", got)
	}
	dial(t, open.path)
}

func TestStrangersTakeNoPlaceOfAClientAndKeepNoHolder(t *testing.T) {
	needs.Root(t)
	dir := t.TempDir()
	must(t, errors.Join(os.Chmod(dir, 0o755), os.Chmod(filepath.Dir(dir), 0o755)))
	p := startProcess(t, filepath.Join(dir, "s"), "--allow-uid", "65532", "--linger", "1s")
	first := dial(t, p.path)
	strangers := command("crowd", p.path)
	strangers.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := strangers.StdoutPipe()
	must(t, err)
	must(t, strangers.Start())
	t.Cleanup(func() {
		strangers.Process.Kill()
		strangers.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "crowded\n" {
		t.Fatalf("the strangers said %q, %v", line, err)
	}
	// There is room for so many, and the next is not even told why.
	if got := dialAs(t, p.path, 65534); got == "" || strings.Contains(got, "may not use it") {
		t.Errorf("one stranger more got %q", got)
	}
	// Clients of every kind are served as if nobody else were there.
	clients := []*Client{first}
	for len(clients) < MaxClients-1 {
		clients = append(clients, dial(t, p.path))
	}
	if got := dialAs(t, p.path, 65532); got != "" {
		t.Errorf("user 65532 got %q", got)
	}
	must(t, first.Put(t.Context(), Bundle{Key: "k"}))
	must(t, first.Drop(t.Context(), "k"))
	for _, c := range clients {
		must(t, c.Close())
	}
	p.wantEnd() // though the strangers are still there
}

func TestHolderOfAnotherUserIsNotBelieved(t *testing.T) {
	needs.Root(t)
	dir := t.TempDir()
	must(t, errors.Join(os.Chmod(dir, 0o777), os.Chmod(filepath.Dir(dir), 0o755)))
	path := filepath.Join(dir, "s")
	cmd := command("program", "hold", "--detached", "--socket", path, "--allow-uid", "0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	launch(t, path, cmd)
	c, err := Dial(t.Context(), path)
	if err == nil {
		c.Close()
		t.Fatal("descriptors would be handed to a process of user 65534")
	}
	if want := "is of user 65534: expected root or user 0"; !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want one with %q", err, want)
	}
}

func TestHolderOutlivesTheReaderOfItsLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	cmd := command("program", "hold", "--detached", "--socket", path)
	r, w, err := os.Pipe()
	must(t, err)
	cmd.Stderr = w
	p := launch(t, path, cmd)
	must(t, errors.Join(w.Close(), r.Close()))
	c := dial(t, path)
	for range 10 { // a log that cannot be written
		must(t, c.Put(t.Context(), Bundle{Key: "k"}))
	}
	must(t, c.Drop(t.Context(), "k"))
	p.signal(unix.SIGTERM)
	p.wantEnd()
}

func TestHolderDoesNotWaitForTheReaderOfItsLog(t *testing.T) {
	p := startProcess(t, filepath.Join(t.TempDir(), "s"))
	c := dial(t, p.path)
	for range 2000 { // several pipes full
		must(t, c.Put(t.Context(), Bundle{Key: strings.Repeat("k", MaxKey)}))
	}
	must(t, c.Drop(t.Context(), strings.Repeat("k", MaxKey)))
	go io.Copy(io.Discard, p.stderr)
	p.signal(unix.SIGTERM)
	p.wantEnd()
}

func TestHolderTakesTheSocketOfSystemd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := listen(path, false)
	must(t, err)
	l.SetUnlinkOnClose(false)
	f, err := l.File()
	must(t, err)
	must(t, errors.Join(l.Close(), l.release()))
	defer f.Close()
	activate := func() *process {
		cmd := command("program")
		cmd.Path, cmd.Args = "/bin/sh", []string{"sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@"`, "/proc/" + strconv.Itoa(os.Getpid()) + "/exe", "hold", "--detached", "--socket", "/nowhere"}
		cmd.ExtraFiles = []*os.File{f}
		return launch(t, path, cmd)
	}
	p := activate()
	held := newCanary(t)
	must(t, dial(t, path).Put(t.Context(), held.bundle("k")))
	p.kill()
	activate() // on the same socket
	_, err = dial(t, path).Get(t.Context(), "k")
	wantError(t, err, ErrNotFound, "")
}

// useProgram makes StartCommand start a holder of this test binary. What it starts is
// ended with the test.
func useProgram(t *testing.T) (path string) {
	t.Helper()
	t.Setenv(role, "program")
	t.Setenv("GORACE", "atexit_sleep_ms=0")
	path = filepath.Join(t.TempDir(), "s")
	t.Cleanup(func() { killHolder(t, path) })
	return path
}

// holderPid is the process that has the lock of a socket, or 0.
func holderPid(t *testing.T, path string) int {
	t.Helper()
	f, err := os.Open(path + ".lock")
	if err != nil {
		return 0
	}
	defer f.Close()
	if unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) == nil {
		return 0
	}
	pid, _ := strconv.Atoi(lockOwner(f))
	return pid
}

// killHolder kills the holder, and waits until it is gone.
func killHolder(t *testing.T, path string) {
	t.Helper()
	if pid := holderPid(t, path); pid > 1 {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			return
		}
		defer unix.Close(fd)
		unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10000)
	}
}

func TestStartedHolderIsNobodysChildAndHasNothingOfItsStarter(t *testing.T) {
	path := useProgram(t)
	// As water opens a TAP: not closed by an exec.
	stray := newCanary(t)
	_, err := unix.FcntlInt(uintptr(stray.fd), unix.F_SETFD, 0)
	must(t, err)
	must(t, EnsureHolder(t.Context(), path))
	pid := holderPid(t, path)
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	must(t, err)
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if parent, session := fields[1], fields[3]; parent == strconv.Itoa(os.Getpid()) || session != strconv.Itoa(pid) {
		t.Errorf("holder %d has parent %s and session %s; this is %d", pid, parent, session, os.Getpid())
	}
	argv, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	must(t, err)
	if !bytes.HasPrefix(argv, []byte(processName+"\x00hold\x00")) {
		t.Errorf("its arguments are %q", argv)
	}
	stray.wantClosed()
	must(t, EnsureHolder(t.Context(), path))
	if again := holderPid(t, path); again != pid {
		t.Errorf("holder %d was there, and %d was started", pid, again)
	}
	await.That(t, "it ends, with nobody there", func() bool { return holderPid(t, path) == 0 })
}

func TestHolderStartedByManyAtOnceIsOne(t *testing.T) {
	path := useProgram(t)
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			if err := EnsureHolder(t.Context(), path); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
}

func TestHolderThatCannotBeStartedIsAReason(t *testing.T) {
	path := useProgram(t)
	must(t, os.WriteFile(path, nil, 0o600))
	_, err := dialOrStart(t.Context(), path, StartCommand(path))
	wantError(t, err, ErrUnavailable, "is there and is no socket")
	_, err = dialOrStart(t.Context(), path, []string{"/nonexistent"})
	wantError(t, err, os.ErrNotExist, "start holder")
}

func TestHolderOfRootHasTheNameThatAShutdownSpares(t *testing.T) {
	needs.Root(t)
	p := startProcess(t, filepath.Join(t.TempDir(), "s"))
	argv, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.cmd.Process.Pid))
	must(t, err)
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", p.cmd.Process.Pid))
	must(t, err)
	if !bytes.HasPrefix(argv, []byte("@xnetfrontd-hold\x00hold\x00")) || string(comm) != "xnetfrontd-hold\n" {
		t.Errorf("its arguments are %q, its name %q", argv, comm)
	}
}

// The directory of a socket can be another user's.
func TestLockOfASocketIsAPlainFileAndNamesANumber(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	secret := filepath.Join(dir, "secret")
	must(t, os.WriteFile(secret, []byte("keep"), 0o600))
	for name, link := range map[string]func(old, new string) error{
		"symbolic link": os.Symlink,
		"hard link":     os.Link,
		"FIFO":          func(_, new string) error { return unix.Mkfifo(new, 0o600) },
	} {
		must(t, link(secret, path+".lock"))
		if l, err := listen(path, false); err == nil {
			t.Errorf("a %s was taken for a lock", name)
			must(t, errors.Join(l.Close(), l.release()))
		}
		must(t, os.Remove(path+".lock"))
	}
	if b, err := os.ReadFile(secret); err != nil || string(b) != "keep" {
		t.Errorf("the other file has %q, %v", b, err)
	}
	must(t, os.WriteFile(path+".lock", []byte("\x1b[2J1\n"), 0o600))
	f, err := os.Open(path + ".lock")
	must(t, err)
	defer f.Close()
	must(t, unix.Flock(int(f.Fd()), unix.LOCK_EX))
	if _, err := listen(path, false); !strings.Contains(fmt.Sprint(err), "another holder, pid unknown, has") {
		t.Errorf("error %q", err)
	}
}
