package scenario

import (
	"fmt"
	"strings"

	"github.com/xnetfrontd/xnetfrontd/test/docs"
)

// guestPages are the pages whose commands are for a guest in which the daemon serves a
// vif. The walkthrough types all of them there, in this order.
func guestPages() []string {
	return []string{
		"docs/configuration.md", "docs/log.md", "docs/metrics.md", "docs/security.md",
		"docs/capture.md", "docs/control-socket.md", "docs/operate.md", "docs/troubleshoot.md",
	}
}

// proof is a text in a file of the sources which shows that a command is run. Without a
// file, the text is why no test can run it.
type proof struct{ file, text string }

// elsewhere are the commands of the documentation that are not typed in the guest of the
// walkthrough, with what runs them instead.
func elsewhere() map[string]proof {
	const (
		ci    = ".ci/run"
		steps = "test/xenlab/scenario/walkthrough_steps.go"
		deb   = "test/xenlab/scenario/systemd.go"
		taken = "test/xenlab/scenario/takeover.go"
		moved = "test/xenlab/scenario/nic.go"

		otherGround = "it is this run on another ground, and as long as it"
	)
	return map[string]proof{
		"make demo":                                      {ci, "make demo"},
		"make test":                                      {ci, "make test\n"},
		"make packages":                                  {ci, "packages\n"},
		"make hostile":                                   {"test/run.sh", "Test(Hostile|"},
		"make hostile SEED=1796104":                      {"pkg/netfront/hostile_test.go", "TestHostileScheduleIsTheSameEachTime"},
		"make hostile SEED=1796104 KEEP=3,9":             {"pkg/netfront/hostile_test.go", "TestHostileScheduleIsTheSameEachTime"},
		"make soak":                                      {"", "it takes an hour"},
		"make test-xen":                                  {ci, "make test-xen\n"},
		"make test-xen SCENARIO=bulk,vlan":               {"test/xenlab/main.go", "Scenario"},
		"xnetfrontd status":                              {steps, "xnetfrontd status"},
		"dpkg -i xnetfrontd_*.deb":                       {steps, "dpkg -i /root/"},
		"apt install ./dist/xnetfrontd_*.deb":            {steps, "dpkg -i /root/"},
		"systemctl start xnetfrontd":                     {steps, "systemctl enable --now"},
		"systemctl stop xnetfrontd":                      {deb, "systemctl stop xnetfrontd"},
		"systemctl restart xnetfrontd":                   {deb, "systemctl restart xnetfrontd"},
		"xnetfrontd prepare --vif 0":                     {taken, `"prepare"`},
		"xnetfrontd release --vif 0":                     {steps, "xnetfrontd release --vif 0"},
		"ip link set xnf0 netns blue":                    {moved, "ip link set"},
		"ip -n blue addr add 192.0.2.7/24 dev xnf0":      {moved, "ip -n blue addr add"},
		"ip -n blue link set xnf0 up":                    {moved, "ip -n blue link set"},
		"tc qdisc show dev xnf0":                         {"pkg/tap/shape_test.go", "Shapers"},
		`make bench BENCH="-quick -only latency-30"`:     {"test/bench/main_test.go", "latency-30"},
		"make bench-xen":                                 {"test/xenlab/scenario/benchmark.go", "bench."},
		`make bench-xen BENCH="--quick --only tcp,ping"`: {"test/xenlab/scenario/benchmark.go", "bench.Quick"},
		`make bench-xen BENCH="--pairs 10 --check"`:      {"", "it takes half an hour and needs a machine that does nothing else"},
		`make bench-xen BENCH="--only latency"`:          {"test/xenlab/scenario/latency.go", "bench.Latency"},
		`make bench-xen BENCH="--only latency --rates 30 --flows 1 --upload 10s --pairs 1"`: {"test/xenlab/scenario/latency.go", "bench.Latency"},
		`make bench-xen BENCH="--guest pvh"`:                                                {"", "it takes minutes, and the scenario bench takes the same way in a PV guest"},
		"make xen-shell":                                                                    {"", "it is for a person at a terminal"},
		`make bench-xen BENCH="--guest-kernel 7.x"`:                                         {"", otherGround},
		"make test-xen XEN='--guest-kernel 7.x'":                                            {"", otherGround},
		"make test-xen XEN='--guest-kernel 6.1 --dom0-kernel 6.1 --xen 4.17'":               {"", otherGround},
		"make test-xen XEN='--store oxenstored'":                                            {"", otherGround},
		"make test-xen-matrix":                                                              {"", "it takes half an hour; .ci/run takes one of its grounds"},
		"make test-xen-matrix GROUND=linux-7 SCENARIO=takeover":                             {ci, "make test-xen-matrix GROUND=linux-7 SCENARIO=takeover"},
		"make test-xen-matrix XEN='--page docs/grounds.md'":                                 {"test/xenlab/matrix_test.go", "writeGrid("},
	}
}

// documented types every command of the pages that are for a guest like this one.
func (w *walk) documented() {
	t := w.t
	typed := 0
	for _, page := range guestPages() {
		shown, err := docs.Commands(t.runner.Source, page)
		t.NoError(err, page)
		for _, c := range shown {
			if _, ok := elsewhere()[c.Text]; ok {
				continue
			}
			out, ok := w.typed(w.u.Guest, Step{At: atGuest, Run: "cd /root; export SYSTEMD_PAGER=\n" + finite(c.Text)})
			if !ok {
				t.Errorf("%s: %s", c, out)
			}
			typed++
		}
	}
	shell(t, w.u.Guest, "systemctl disable --now xnetfrontd-metrics.socket && systemctl is-active xnetfrontd")
	t.Reportf("%d commands of the documentation do what they are shown for", typed)
}

// finite is a command that ends by itself: one that is shown to go on until somebody ends
// it gets a Ctrl-C.
func finite(command string) string {
	endless := strings.HasSuffix(command, " -f")
	for _, name := range []string{"xnetfrontd capture", "xnetfrontd top"} {
		endless = endless || strings.HasPrefix(command, name) && !strings.Contains(command, "--count") && !strings.Contains(command, "--duration")
	}
	if !endless {
		return command
	}
	const ended = 124 // timeout(1): it was
	return fmt.Sprintf("timeout --signal=INT 3 %s\ncode=$?; [ $code = 0 ] || [ $code = %d ]", command, ended)
}
