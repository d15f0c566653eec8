package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/xnetfrontd/xnetfrontd/internal/await"
	"github.com/xnetfrontd/xnetfrontd/internal/needs"
	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
)

const (
	rulesDir      = "../../deploy/prometheus"
	prometheusWeb = "127.0.0.1:9090" // in the machine's namespace
)

// needPrometheus skips a test where Prometheus's programs are missing. The machine that
// checks changes has them: see .ci/run.
func needPrometheus(t *testing.T) {
	t.Helper()
	for _, name := range []string{"promtool", "prometheus"} {
		if _, err := exec.LookPath(name); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatal(err)
			}
			needs.LeaveOut(t, name)
		}
	}
}

// promtool runs promtool in a directory.
func promtool(t *testing.T, dir string, in string, args ...string) {
	t.Helper()
	cmd := exec.Command("promtool", args...)
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(in)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func TestPromtoolAcceptsTheRulesAndTheirTestsAndTheExample(t *testing.T) {
	needPrometheus(t)
	promtool(t, rulesDir, "", "check", "rules", "xnetfrontd.rules.yml")
	promtool(t, rulesDir, "", "test", "rules", "xnetfrontd.rules.test.yml")
	promtool(t, rulesDir, "", "check", "config", "prometheus.yml")
}

// startPrometheus runs a Prometheus with the example configuration in the machine's namespace.
// It scrapes 30 times as often.
func (m *testMachine) startPrometheus() {
	m.t.Helper()
	example := readFile(m.t, filepath.Join(rulesDir, "prometheus.yml"))
	rules, err := filepath.Abs(filepath.Join(rulesDir, "xnetfrontd.rules.yml"))
	if err != nil {
		m.t.Fatal(err)
	}
	for _, r := range []struct{ old, new string }{
		{"scrape_interval: 15s", "scrape_interval: 500ms"},
		{"scrape_timeout: 10s", "scrape_timeout: 500ms"},
		{"evaluation_interval: 15s", "evaluation_interval: 500ms"},
		{"- xnetfrontd.rules.yml", "- " + rules},
	} {
		if !strings.Contains(example, r.old) {
			m.t.Fatalf("the example has no %q", r.old)
		}
		example = strings.Replace(example, r.old, r.new, 1)
	}
	dir := m.t.TempDir()
	file := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(file, []byte(example), 0o600); err != nil {
		m.t.Fatal(err)
	}
	var log bytes.Buffer
	cmd := exec.Command("prometheus", "--config.file", file, "--storage.tsdb.path", filepath.Join(dir, "data"), "--web.listen-address", prometheusWeb)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := m.space.Start(cmd); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if m.t.Failed() {
			m.t.Logf("Prometheus logged:\n%s", &log)
		}
	})
}

// query asks Prometheus for the value of an expression.
func (m *testMachine) query(expression string) (string, error) {
	m.t.Helper()
	var out bytes.Buffer
	cmd := exec.Command("promtool", "query", "instant", "http://"+prometheusWeb, expression)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := m.space.Start(cmd); err != nil {
		m.t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		return "", fmt.Errorf("%w: %s", err, &out)
	}
	return strings.TrimSpace(out.String()), nil
}

// awaitQuery waits until Prometheus has a value for an expression.
func (m *testMachine) awaitQuery(expression string) {
	m.t.Helper()
	await.That(m.t, "a value of "+expression, func() bool {
		value, err := m.query(expression)
		return err == nil && value != ""
	})
}

// dashboard returns the expressions of the dashboard's panels, with Grafana's variables
// filled in.
func dashboard(t *testing.T) (expressions []string) {
	t.Helper()
	var d struct {
		Panels []struct {
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(readFile(t, "../../deploy/grafana/xnetfrontd.json")), &d); err != nil {
		t.Fatal(err)
	}
	fill := strings.NewReplacer("$__rate_interval", "1m", "$instance", ".*", "$vif", ".*")
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			expressions = append(expressions, fill.Replace(target.Expr))
		}
	}
	if len(expressions) == 0 {
		t.Error("the dashboard shows nothing")
	}
	return expressions
}

func TestPrometheusScrapesTheDaemonAndTheRulesFire(t *testing.T) {
	needPrometheus(t)
	m := newMachine(t, xensim.Options{AllowRaise: true}, 0)
	kill := m.startBackend()
	m.startMeasured(m.startHolder())
	m.awaitState(0, "Connected")
	m.send(50)
	m.startPrometheus()
	m.awaitQuery(`up{job="xnetfrontd"} == 1`)
	m.awaitQuery(fmt.Sprintf(`xnetfrontd_vif_up{instance="%s",vif="0"} == 1`, exampleTarget))
	m.awaitQuery(`sum(xnetfrontd_queue_packets_total{direction="tx"}) >= 50`)
	m.awaitQuery(`count(scrape_samples_scraped > 200) and absent(ALERTS)`)

	text, _ := m.local()
	promtool(t, ".", text, "check", "metrics")

	for _, expression := range dashboard(t) {
		if _, err := m.query(expression); err != nil {
			t.Errorf("the dashboard asks %s: %v", expression, err)
		}
	}

	kill()
	m.closeBackend()
	m.awaitQuery(`ALERTS{alertname="XnetfrontdVifDown",vif="0"}`)
	m.startBackend()
	m.awaitQuery(`absent(ALERTS{alertname="XnetfrontdVifDown"})`)
	m.awaitQuery(`sum(xnetfrontd_vif_disconnects_total{cause="backend-closed"}) == 1`)
}
