package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/await"
	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/control"
)

// exampleTarget is the daemon's address in the example of a Prometheus's configuration.
const exampleTarget = "127.0.0.1:9797"

// startMeasured starts a daemon with a holder. It serves its metrics on a unix socket and at
// exampleTarget, and vif 0 with two queues.
func (m *testMachine) startMeasured(holder string) *process {
	m.t.Helper()
	file := filepath.Join(m.dir, "xnetfrontd.toml")
	text := fmt.Sprintf("[metrics]\nsocket = %q\nlisten = %q\n[[vif]]\ndevid = 0\nqueues = 2\n", m.metrics(), exampleTarget)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		m.t.Fatal(err)
	}
	d := m.start("--config", file, "--holder", holder)
	d.await("READY=1")
	return d
}

func (m *testMachine) metrics() string { return filepath.Join(m.dir, "metrics.sock") }

// scrape reads the metrics, as text and as families by name.
func (m *testMachine) scrape(client *http.Client, host string) (text string, families map[string]*dto.MetricFamily) {
	m.t.Helper()
	q, err := http.NewRequestWithContext(m.t.Context(), http.MethodGet, "http://"+host+"/metrics", nil)
	if err != nil {
		m.t.Fatal(err)
	}
	a, err := client.Do(q)
	if err != nil {
		m.t.Fatal(err)
	}
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	if err != nil || a.StatusCode != http.StatusOK {
		m.t.Fatalf("status %d, %v: %s", a.StatusCode, err, b)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err = parser.TextToMetricFamilies(strings.NewReader(string(b)))
	if err != nil {
		m.t.Fatal(err)
	}
	return string(b), families
}

// local scrapes the unix socket.
func (m *testMachine) local() (text string, families map[string]*dto.MetricFamily) {
	m.t.Helper()
	return m.scrape(&http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", m.metrics())
		},
	}}, "localhost")
}

// documented are the rows of docs/metrics.md by metric.
func documented(t *testing.T) map[string]string {
	t.Helper()
	rows := map[string]string{}
	row := regexp.MustCompile("(?m)^\\| `(xnetfrontd_[a-z0-9_]+)` \\| ([a-z]+) \\| ([a-z_, ]*)\\|")
	for _, f := range row.FindAllStringSubmatch(readFile(t, "../../docs/metrics.md"), -1) {
		rows[f[1]] = strings.TrimSpace(f[2] + " " + f[3])
	}
	return rows
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// row is the row that docs/metrics.md must have for a family.
func row(f *dto.MetricFamily) string {
	labels := map[string]bool{}
	for _, m := range f.GetMetric() {
		for _, l := range m.GetLabel() {
			labels[l.GetName()] = true
		}
	}
	return strings.ToLower(f.GetType().String()) + " " + strings.Join(slices.Sorted(maps.Keys(labels)), ", ")
}

func sortLabels(row string) string {
	kind, labels, _ := strings.Cut(row, " ")
	all := strings.Split(labels, ", ")
	slices.Sort(all)
	return kind + " " + strings.Join(all, ", ")
}

func TestMetricsAreThoseOfTheirPageTheRulesAndTheDashboard(t *testing.T) {
	m := newMachine(t, xensim.Options{AllowRaise: true}, 0)
	m.startBackend()
	m.startMeasured(m.startHolder())
	m.awaitState(0, "Connected")
	_, families := m.local()

	page := documented(t)
	for name, f := range families {
		if want, ok := page[name]; strings.HasPrefix(name, "xnetfrontd_") && (!ok || sortLabels(want) != row(f)) {
			t.Errorf("docs/metrics.md says %q of %s, the daemon shows %q", want, name, row(f))
		}
	}
	for name := range page {
		if families[name] == nil {
			t.Errorf("docs/metrics.md has %s, which the daemon does not show", name)
		}
	}
	used := regexp.MustCompile(`\b(xnetfrontd|go|process)_[a-z0-9_]+`)
	for _, file := range []string{"../../deploy/prometheus/xnetfrontd.rules.yml", "../../deploy/prometheus/xnetfrontd.rules.test.yml", "../../deploy/grafana/xnetfrontd.json"} {
		names := used.FindAllString(readFile(t, file), -1)
		if len(names) == 0 {
			t.Errorf("%s uses no metric", file)
		}
		for _, name := range names {
			if families[name] == nil && families[strings.TrimSuffix(name, "_bucket")] == nil {
				t.Errorf("%s uses %s, which the daemon does not show", file, name)
			}
		}
	}
}

func TestEveryAlertIsInTheDocumentation(t *testing.T) {
	find := func(path, pattern string) (names []string) {
		for _, f := range regexp.MustCompile(pattern).FindAllStringSubmatch(readFile(t, path), -1) {
			names = append(names, f[1])
		}
		return names
	}
	alerts := find("../../deploy/prometheus/xnetfrontd.rules.yml", `(?m)^ +- alert: (\w+)$`)
	if page := find("../../docs/metrics.md", "(?m)^\\| `(Xnetfrontd\\w+)` \\|"); len(alerts) == 0 || !slices.Equal(alerts, page) {
		t.Errorf("the rules have %q, docs/metrics.md %q", alerts, page)
	}
}

// send gives the TAP an address and sends frames through it.
func (m *testMachine) send(n int) {
	m.t.Helper()
	link, err := m.space.Links.LinkByName("xnf0")
	if err != nil {
		m.t.Fatal(err)
	}
	address, err := netlink.ParseAddr("192.0.2.1/24")
	if err != nil {
		m.t.Fatal(err)
	}
	if err := m.space.Links.AddrReplace(link, address); err != nil {
		m.t.Fatal(err)
	}
	if err := m.space.Links.LinkSetUp(link); err != nil {
		m.t.Fatal(err)
	}
	var conn net.Conn
	if err := m.space.Do(func() (err error) {
		conn, err = net.Dial("udp", "192.0.2.255:9")
		return err
	}); err != nil {
		m.t.Fatal(err)
	}
	defer conn.Close()
	for range n {
		if _, err := conn.Write(make([]byte, 100)); err != nil {
			m.t.Fatal(err)
		}
	}
}

// counters are the counters and histograms of a scrape by series, and the sum of the counters
// with this name.
func counters(families map[string]*dto.MetricFamily, name string) (all map[string]float64, sum float64) {
	all = map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			switch series := f.GetName() + fmt.Sprint(m.GetLabel()); {
			case m.Counter != nil:
				all[series] = m.Counter.GetValue()
			case m.Histogram != nil:
				all[series] = float64(m.Histogram.GetSampleCount())
			}
			if f.GetName() == name {
				sum += m.Counter.GetValue()
			}
		}
	}
	return all, sum
}

func TestCountersDoNotGoBackOverAReconnect(t *testing.T) {
	m := newMachine(t, xensim.Options{AllowRaise: true}, 0)
	kill := m.startBackend()
	m.startMeasured("none")
	m.awaitState(0, "Connected")
	const packets, frames = "xnetfrontd_queue_packets_total", 50
	m.send(frames)
	var before map[string]float64
	await.That(m.t, "the frames to be counted", func() bool {
		_, families := m.local()
		all, n := counters(families, packets)
		before = all
		return n >= frames
	})
	kill()
	m.closeBackend()
	await.That(m.t, "the connection to end", func() bool {
		_, families := m.local()
		_, n := counters(families, "xnetfrontd_vif_disconnects_total")
		return n == 1
	})
	m.startBackend()
	m.awaitStatus("vif 0 connected anew", func(v control.Vif) bool { return v.Device != nil && v.Device.Connects == 2 })
	_, families := m.local()
	after, _ := counters(families, packets)
	for series, n := range before {
		if after[series] < n {
			t.Errorf("%s went from %v to %v", series, n, after[series])
		}
	}
}

// closeBackend sets the backend's state in xenstore to that of a backend which has gone.
func (m *testMachine) closeBackend() {
	m.t.Helper()
	if err := m.domain0.Store().Write(m.t.Context(), xensim.BackendPath(0, guest, 0)+"/state", "6"); err != nil {
		m.t.Fatal(err)
	}
}

func TestNextDaemonShowsItsFiguresAtOnce(t *testing.T) {
	m := newMachine(t, xensim.Options{AllowRaise: true}, 0)
	m.startBackend()
	holder := m.startHolder()
	var tcp http.Client
	tcp.Timeout = patience
	tcp.Transport = &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		err = m.space.Do(func() error {
			conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
			return err
		})
		return conn, err
	}}
	for round := range 3 {
		d := m.startMeasured(holder)
		m.awaitState(0, "Connected")
		_, families := m.local()
		for name, want := range map[string]float64{"xnetfrontd_handover_ready": 1, "xnetfrontd_vif_up": 1, "xnetfrontd_vif_taken_over": float64(min(round, 1))} {
			if n := families[name].GetMetric()[0].Gauge.GetValue(); n != want {
				t.Errorf("daemon %d: %s is %v, want %v", round, name, n, want)
			}
		}
		await.That(m.t, "the TCP socket", func() bool {
			conn, err := tcp.Transport.(*http.Transport).DialContext(t.Context(), "tcp", exampleTarget)
			if err == nil {
				conn.Close()
			}
			return err == nil
		})
		m.scrape(&tcp, exampleTarget)
		if code, _ := d.stop(unix.SIGUSR2); code != 0 {
			t.Errorf("exit code %d", code)
		}
		if log := d.stderr(); strings.Contains(log, "not served") {
			t.Errorf("daemon %d logged:\n%s", round, log)
		}
	}
}

func TestMetricsThatCannotBeServedDoNotStopTheDaemon(t *testing.T) {
	m := newMachine(t, xensim.Options{}, 0)
	if err := os.WriteFile(m.metrics(), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d := m.startMeasured("none")
	if !m.hasLink("xnf0") {
		t.Error("no TAP")
	}
	if code, _ := d.stop(unix.SIGTERM); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if want := "something that is not a socket has that name"; strings.Count(d.stderr(), want) != 1 {
		t.Errorf("%q is not in the log once", want)
	}
}
