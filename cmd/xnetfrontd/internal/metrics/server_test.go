package metrics

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/await"
	"github.com/xnetfrontd/xnetfrontd/pkg/control"
)

const patience = 20 * time.Second

// start serves the metrics of status on a unix socket, and on those of o.
func start(t *testing.T, o Options, s Source) (socket string, logged *observer.ObservedLogs) {
	t.Helper()
	core, logged := observer.New(zapcore.InfoLevel)
	o.Log = zap.New(core)
	if o.Socket == "" {
		o.Socket = filepath.Join(t.TempDir(), "m.sock")
	}
	r, err := NewRegistry(s)
	if err != nil {
		t.Fatal(err)
	}
	server := Start(o, r, "1.0")
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	return o.Socket, logged
}

// client speaks HTTP to a unix socket, on a new connection each time.
func client(socket string) *http.Client {
	return &http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}
}

func do(t *testing.T, c *http.Client, method, url string) (status int, header http.Header, body string) {
	t.Helper()
	q, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	a, err := c.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	if err != nil {
		t.Fatal(err)
	}
	return a.StatusCode, a.Header, string(b)
}

// scrape fails unless Prometheus's parser can read the answer.
func scrape(t *testing.T, c *http.Client, host string) {
	t.Helper()
	code, _, body := do(t, c, http.MethodGet, "http://"+host+"/metrics")
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(body))
	if code != http.StatusOK || err != nil {
		t.Fatalf("status %d, %v", code, err)
	}
	for _, name := range []string{"xnetfrontd_vif_up", "go_goroutines", "process_start_time_seconds"} {
		if families[name] == nil {
			t.Errorf("no %s", name)
		}
	}
}

func TestOnlyTheMetricsAndOneLineCanBeHad(t *testing.T) {
	socket, _ := start(t, Options{}, source(status()))
	c := client(socket)
	scrape(t, c, "x")
	for _, g := range []struct {
		method, path string
		code         int
		body         string
	}{
		{"GET", "/", 200, "xnetfrontd 1.0: figures for Prometheus are at /metrics\n"},
		{"HEAD", "/metrics", 200, ""},
		{"HEAD", "/", 200, ""},
		{"POST", "/metrics", 405, "only GET and HEAD\n"},
		{"DELETE", "/", 405, "only GET and HEAD\n"},
		{"GET", "/metrics/", 404, "404 page not found\n"},
		{"GET", "/debug/pprof/", 404, "404 page not found\n"},
	} {
		if code, _, body := do(t, c, g.method, "http://x"+g.path); code != g.code || body != g.body {
			t.Errorf("%s %s: %d %q, want %d %q", g.method, g.path, code, body, g.code, g.body)
		}
	}
}

func TestGarbageAndLongHeadersAreRefused(t *testing.T) {
	socket, _ := start(t, Options{}, source(status()))
	for _, send := range []string{
		"\x00\xff\x16\x03\x01\r\n\r\n",
		"{\"version\":1,\"op\":\"status\"}\n\n",
		"GET /metrics HTTP/9.9\r\n\r\n",
		"GET /metrics HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 64<<10) + "\r\n\r\n",
	} {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(patience))
		go io.WriteString(conn, send) // fails if the answer comes before the request's end
		line, err := bufio.NewReader(conn).ReadString('\n')
		if ok := strings.HasPrefix(line, "HTTP/1.1 4") || strings.HasPrefix(line, "HTTP/1.1 505"); !ok && !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("%.30q: %q, %v", send, line, err)
		}
		conn.Close()
	}
	scrape(t, client(socket), "x")
}

func TestSilentClientsDoNotKeepAScrapeOut(t *testing.T) {
	t.Parallel()
	socket, _ := start(t, Options{}, source(status()))
	for range maxClients + 3 {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "GET /metr"); err != nil {
			t.Fatal(err)
		}
	}
	scrape(t, client(socket), "x") // after they have been cut off
}

func TestClientThatReadsNothingBlocksNobody(t *testing.T) {
	t.Parallel()
	socket, _ := start(t, Options{}, source(status()))
	for range maxClients - 1 {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	c := client(socket)
	for deadline := time.Now().Add(patience); ; {
		code, _, _ := do(t, c, http.MethodGet, "http://x/metrics")
		if code == http.StatusOK {
			return
		}
		if code != http.StatusServiceUnavailable || time.Now().After(deadline) {
			t.Fatalf("status %d", code)
		}
	}
}

func TestScrapeOfADaemonThatDoesNotAnswerEndsAndIsBounded(t *testing.T) {
	t.Parallel()
	s := source(status())
	stuck, inner := make(chan struct{}), s.Status
	calls := make(chan struct{}, 100)
	s.Status = func() control.Status {
		calls <- struct{}{}
		<-stuck
		return inner()
	}
	socket, _ := start(t, Options{}, s)
	codes := make(chan int)
	for range maxScrapes + 3 {
		go func() {
			a, err := client(socket).Get("http://x/metrics")
			if err != nil {
				codes <- 0
				return
			}
			a.Body.Close()
			codes <- a.StatusCode
		}()
	}
	for range maxScrapes + 3 {
		if code := <-codes; code != http.StatusServiceUnavailable {
			t.Errorf("status %d, want 503", code)
		}
	}
	if n := len(calls); n > maxScrapes {
		t.Errorf("the status was asked for %d times at once, want %d", n, maxScrapes)
	}
	close(stuck)
	c := client(socket)
	for code := 0; code != http.StatusOK; {
		code, _, _ = do(t, c, http.MethodGet, "http://x/metrics")
	}
}

// A fault in a scrape must not end the process, which carries frames.
func TestSourceThatPanicsCostsTheScrapeOnly(t *testing.T) {
	var noted []string
	socket, logged := start(t, Options{}, Source{
		Status: func() control.Status { panic("at the disco") },
		Panicked: func(what string, value any) error {
			noted = append(noted, fmt.Sprint(what, ": ", value))
			return errors.New("a fault")
		},
	})
	code, _, body := do(t, client(socket), http.MethodGet, "http://x/metrics")
	if code != http.StatusInternalServerError || !strings.HasSuffix(body, "a fault\n") || !slices.Equal(noted, []string{"metrics: at the disco"}) {
		t.Errorf("noted %q; the scrape: %d %s", noted, code, body)
	}
	if n := logged.FilterMessageSnippet("a fault").Len(); n != 1 {
		t.Errorf("%d lines about it: %v", n, logged.All())
	}
}

func TestSocketIsForTheGroupAndGoesWithTheServer(t *testing.T) {
	r := prometheus.NewRegistry()
	path := filepath.Join(t.TempDir(), "m.sock")
	server := Start(Options{Socket: path, Log: zap.NewNop()}, r, "1.0")
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o660 {
		t.Errorf("%v, %v, want mode 0660", fi, err)
	}
	if err := server.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket after Close: %v", err)
	}
}

// freePort is an unused TCP port of 127.0.0.1.
func freePort(t *testing.T) (address string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func TestNextServerListensAtOnceWhereTheLastOneDid(t *testing.T) {
	path, address := filepath.Join(t.TempDir(), "m.sock"), freePort(t)
	for range 3 {
		t.Run("", func(t *testing.T) {
			_, logged := start(t, Options{Socket: path, Listen: address}, source(status()))
			scrape(t, client(path), "x")
			for deadline := time.Now().Add(patience); ; {
				if conn, err := net.Dial("tcp", address); err == nil {
					conn.Close()
					break
				}
				if time.Now().After(deadline) {
					t.Fatal("nobody listens")
				}
			}
			scrape(t, &http.Client{Timeout: patience}, address)
			for _, l := range logged.FilterLevelExact(zapcore.ErrorLevel).All() {
				t.Errorf("%s: %v", l.Message, l.ContextMap())
			}
		})
	}
}

func TestAddressThatIsInUseIsSaidOnceAndServedWhenItIsFree(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := taken.Addr().String()
	socket, logged := start(t, Options{Listen: address}, source(status()))
	scrape(t, client(socket), "x") // meanwhile
	await.That(t, "an error", func() bool { return logged.FilterLevelExact(zapcore.ErrorLevel).Len() > 0 })
	want := fmt.Sprintf("metrics.listen %s: listen tcp %s: bind: address already in use", address, address)
	if got := logged.FilterLevelExact(zapcore.ErrorLevel).All()[0].ContextMap()["error"]; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	taken.Close()
	await.That(t, "served", func() bool { return logged.FilterMessage("metrics are served").Len() == 2 })
	scrape(t, &http.Client{Timeout: patience}, address)
	if n := logged.FilterLevelExact(zapcore.ErrorLevel).Len(); n != 1 {
		t.Errorf("%d errors logged, want one", n)
	}
}

func TestSocketOfALiveDaemonIsLeftAlone(t *testing.T) {
	socket, _ := start(t, Options{}, source(status()))
	_, logged := start(t, Options{Socket: socket}, source(status()))
	want := fmt.Sprintf("metrics.socket %s: pid %d listens on it already; stop that one, or choose another path with metrics.socket", socket, os.Getpid())
	await.That(t, "logged", func() bool { return logged.Len() > 0 })
	if all := logged.All(); len(all) != 1 || all[0].ContextMap()["error"] != want {
		t.Errorf("logged %v, want %s", all, want)
	}
	scrape(t, client(socket), "x")
}
