package metrics

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/sys/unix"
)

// beSandboxed makes the test binary a daemon in its unit: systemd has passed it a socket, and
// it may open no TCP socket.
const beSandboxed = "XNETFRONTD_TEST_SANDBOXED"

func TestMain(m *testing.M) {
	if listen, ok := os.LookupEnv(beSandboxed); ok {
		if err := serveSandboxed(listen); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// serveSandboxed serves on the passed socket until its input ends, and fails to listen on an
// address. It prints its log, and the variables of the sockets that a child gets.
func serveSandboxed(listen string) error {
	if err := refuseInternet(); err != nil {
		return err
	}
	// Only systemd knows the number of a process before the process exists.
	if err := os.Setenv("LISTEN_PID", fmt.Sprint(os.Getpid())); err != nil {
		return err
	}
	passed := Passed(zap.NewNop())
	child, err := exec.Command("/bin/sh", "-c", "env | grep ^LISTEN_; ls -l /proc/self/fd | grep socket:; true").Output()
	if err != nil {
		return err
	}
	fmt.Printf("%d passed; the child has %q\n", len(passed), child)
	core, logged := observer.New(zap.ErrorLevel)
	server := Start(Options{Passed: passed, Listen: listen, Log: zap.New(core)}, prometheus.NewRegistry(), "1.0")
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	for deadline := time.Now().Add(patience); logged.Len() == 0 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	if err := server.Close(); err != nil {
		return err
	}
	for _, l := range logged.All() {
		fmt.Println(l.Message+":", l.ContextMap()["error"])
	}
	return nil
}

// refuseInternet is what RestrictAddressFamilies=AF_UNIX AF_NETLINK does: seccomp(2)
// refuses socket(2) for the other families, to every thread.
func refuseInternet() error {
	const (
		number, family = 0, 16 // offsets in struct seccomp_data of linux/seccomp.h
		load           = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal          = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		ret            = unix.BPF_RET | unix.BPF_K
	)
	filter := []unix.SockFilter{
		{Code: load, K: number},
		{Code: equal, Jf: 3, K: unix.SYS_SOCKET},
		{Code: load, K: family},
		{Code: equal, Jt: 2, K: unix.AF_INET},
		{Code: equal, Jt: 1, K: unix.AF_INET6},
		{Code: ret, K: unix.SECCOMP_RET_ALLOW},
		{Code: ret, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EAFNOSUPPORT)},
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program)))
	runtime.KeepAlive(filter)
	if errno != 0 {
		return fmt.Errorf("seccomp: %w", errno)
	}
	return nil
}

func TestSocketsThatSystemdPassesAreServedInTheSandboxAndNotHandedOn(t *testing.T) {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	local, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	var files []*os.File
	for _, l := range []interface{ File() (*os.File, error) }{tcp.(*net.TCPListener), local, local} {
		f, err := l.File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files = append(files, f)
	}
	for _, listen := range []string{"127.0.0.1:9797", ":9797", "[::1]:9797"} { // systemd's sockets are served meanwhile
		var out bytes.Buffer
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), beSandboxed+"="+listen, "LISTEN_FDS=3", "LISTEN_FDNAMES=metrics:metrics:other")
		cmd.ExtraFiles = files
		cmd.Stdout = &out
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for _, c := range []*http.Client{{Timeout: patience, Transport: &http.Transport{}}, client(local.Addr().String())} {
			if code, _, body := do(t, c, "GET", "http://"+tcp.Addr().String()+"/"); code != 200 || !strings.HasPrefix(body, "xnetfrontd 1.0") {
				t.Errorf("%d %q", code, body)
			}
		}
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v: %s", err, &out)
		}
		want := "2 passed; the child has \"\"\n" +
			"metrics are not served: metrics.listen " + listen + ": this process may have no TCP socket (RestrictAddressFamilies= of its unit): enable xnetfrontd-metrics.socket in its place\n"
		if out.String() != want {
			t.Errorf("got %q, want %q", &out, want)
		}
	}
}
