package metrics

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"

	"github.com/xnetfrontd/xnetfrontd/pkg/control"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/ring"
)

// status has one vif for each state of a vif.
func status() control.Status {
	since := time.UnixMilli(1700000000250)
	return control.Status{PID: 1, Program: "1.0", Started: since, Vifs: []control.Vif{
		{Match: "0", DevID: 0, TAP: "xnf0", MAC: "00:16:3e:00:00:00", Device: &control.Device{
			TAP: "xnf0", MAC: "00:16:3e:00:00:00", MTU: 1500, State: "Connected", BackendState: "Connected", Since: since,
			Backend: "/local/domain/3/backend/vif/1/0", BackendDomID: 3, Connects: 2, Ended: map[string]uint64{"violation": 1, "new": 4},
			Features: control.Features{SG: true}, Grants: 514, GrantLimit: 1024, Link: &control.LinkCounters{TxDropped: 7},
			Queues: []control.Queue{{Number: 0, Tx: control.Direction{
				Ring: ring.Header{ReqProd: 5, RspProd: 0xfffffffe}, Maps: control.MapCounts{Free: 249, InFlight: 7, Created: 256}, OldestInFlight: 3,
			}, Rx: control.Direction{Ring: ring.Header{ReqProd: 0, RspProd: 0x80000000}}}},
			Totals: []control.Totals{
				{Number: 0,
					Tx: map[string]uint64{"packets": 10, "slots": 300, "batch_1": 2, "batch_4": 1, "batch_128": 1, "drop_too_big": 5, "drop_later": 6, "notify_sent": 9},
					Rx: map[string]uint64{"packets": 1 << 40}},
				{Number: 1, Tx: map[string]uint64{"packets": 3}},
			},
		}},
		{Match: "*", DevID: 1, TAP: "xnf1", Problem: "the kernel's driver has it"},
		{Match: "2", DevID: 2, TAP: "xnf2", Waiting: "its TAP stays", Device: &control.Device{TAP: "xnf2", State: "Closed", BackendState: "Unknown"}},
		{Match: "00:16:3e:00:00:09", DevID: -1, Waiting: "this domain has 0"},
	}}
}

// gather returns the samples of one scrape by their names in the text format, with labels
// sorted by name.
func gather(t *testing.T, s Source) map[string]float64 {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	if err := r.Register(NewCollector(s)); err != nil {
		t.Fatal(err)
	}
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	samples := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			add(samples, f.GetName(), m)
		}
	}
	return samples
}

func add(samples map[string]float64, name string, m *dto.Metric) {
	var labels []string
	for _, l := range m.GetLabel() {
		labels = append(labels, l.GetName()+"="+l.GetValue())
	}
	series := func(suffix string, more ...string) string {
		all := append(slices.Clone(labels), more...)
		if len(all) == 0 {
			return name + suffix
		}
		return name + suffix + "{" + strings.Join(all, ",") + "}"
	}
	switch {
	case m.Gauge != nil:
		samples[series("")] = m.Gauge.GetValue()
	case m.Counter != nil:
		samples[series("")] = m.Counter.GetValue()
	case m.Histogram != nil:
		samples[series("_count")] = float64(m.Histogram.GetSampleCount())
		samples[series("_sum")] = m.Histogram.GetSampleSum()
		for _, b := range m.Histogram.GetBucket() {
			samples[series("_bucket", "le="+strconv.FormatFloat(b.GetUpperBound(), 'g', -1, 64))] = float64(b.GetCumulativeCount())
		}
	}
}

func source(s control.Status) Source {
	return Source{
		Status:        func() control.Status { return s },
		HandoverReady: func() bool { return true },
	}
}

func TestFiguresAreThoseOfTheStatus(t *testing.T) {
	got := gather(t, source(status()))
	for series, want := range map[string]float64{
		"xnetfrontd_start_time_seconds":           1700000000.25,
		"xnetfrontd_handover_ready":               1,
		"xnetfrontd_xenstore_events_late_seconds": 0,
		"xnetfrontd_xenstore_events_late_total":   0,
		"xnetfrontd_grant_limit_pages":            1024,
		"xnetfrontd_vif_info{backend=/local/domain/3/backend/vif/1/0,backend_domid=3,mac=00:16:3e:00:00:00,tap=xnf0,vif=0}": 1,
		"xnetfrontd_vif_up{vif=0}":                                                          1,
		"xnetfrontd_vif_up{vif=1}":                                                          0,
		"xnetfrontd_vif_up{vif=2}":                                                          0,
		"xnetfrontd_vif_up{vif=00:16:3e:00:00:09}":                                          0,
		"xnetfrontd_vif_served{vif=0}":                                                      1,
		"xnetfrontd_vif_served{vif=1}":                                                      0,
		"xnetfrontd_vif_served{vif=2}":                                                      0,
		"xnetfrontd_vif_present{vif=1}":                                                     1,
		"xnetfrontd_vif_present{vif=2}":                                                     0,
		"xnetfrontd_vif_present{vif=00:16:3e:00:00:09}":                                     0,
		"xnetfrontd_vif_state{side=frontend,state=Connected,vif=0}":                         1,
		"xnetfrontd_vif_state{side=frontend,state=Closed,vif=0}":                            0,
		"xnetfrontd_vif_state{side=backend,state=Unknown,vif=2}":                            1,
		"xnetfrontd_vif_state_since_timestamp_seconds{vif=0}":                               1700000000.25,
		"xnetfrontd_vif_connects_total{vif=0}":                                              2,
		"xnetfrontd_vif_disconnects_total{cause=violation,vif=0}":                           1,
		"xnetfrontd_vif_disconnects_total{cause=stalled,vif=0}":                             0,
		"xnetfrontd_vif_disconnects_total{cause=new,vif=0}":                                 4,
		"xnetfrontd_vif_feature{feature=sg,vif=0}":                                          1,
		"xnetfrontd_vif_feature{feature=csum,vif=0}":                                        0,
		"xnetfrontd_vif_queues{vif=0}":                                                      1,
		"xnetfrontd_vif_grants_used_pages{vif=0}":                                           514,
		"xnetfrontd_tap_drops_total{direction=tx,vif=0}":                                    7,
		"xnetfrontd_queue_maps{direction=tx,queue=0,state=in_flight,vif=0}":                 7,
		"xnetfrontd_queue_ring_slots_in_use{direction=tx,queue=0,vif=0}":                    7,
		"xnetfrontd_queue_ring_slots_in_use{direction=rx,queue=0,vif=0}":                    256, // the backend has written more than a ring has
		"xnetfrontd_queue_oldest_in_flight_seconds{direction=tx,queue=0,vif=0}":             3,
		"xnetfrontd_queue_packets_total{direction=tx,queue=0,vif=0}":                        10,
		"xnetfrontd_queue_packets_total{direction=rx,queue=0,vif=0}":                        1 << 40,
		"xnetfrontd_queue_packets_total{direction=tx,queue=1,vif=0}":                        3, // of an earlier connection
		"xnetfrontd_queue_packets_total{direction=rx,queue=1,vif=0}":                        0,
		"xnetfrontd_queue_notifications_total{direction=tx,queue=0,result=sent,vif=0}":      9,
		"xnetfrontd_queue_drops_total{cause=too_big,direction=tx,queue=0,vif=0}":            5,
		"xnetfrontd_queue_drops_total{cause=later,direction=tx,queue=0,vif=0}":              6,
		"xnetfrontd_queue_drops_total{cause=tap_error,direction=rx,queue=0,vif=0}":          0,
		"xnetfrontd_queue_batch_slots_bucket{direction=tx,queue=0,vif=0,le=1}":              2,
		"xnetfrontd_queue_batch_slots_bucket{direction=tx,queue=0,vif=0,le=3}":              2,
		"xnetfrontd_queue_batch_slots_bucket{direction=tx,queue=0,vif=0,le=7}":              3,
		"xnetfrontd_queue_batch_slots_bucket{direction=tx,queue=0,vif=0,le=127}":            3,
		"xnetfrontd_queue_batch_slots_count{direction=tx,queue=0,vif=0}":                    4,
		"xnetfrontd_queue_batch_slots_sum{direction=tx,queue=0,vif=0}":                      300,
		"xnetfrontd_queue_backend_responses_total{direction=tx,queue=0,status=error,vif=0}": 0,
	} {
		if v, ok := got[series]; !ok || v != want {
			t.Errorf("%s is %v (there: %v), want %v", series, v, ok, want)
		}
	}
	for series := range got {
		if strings.Contains(series, "vif=00:16") && !strings.HasPrefix(series, "xnetfrontd_vif_") {
			t.Errorf("%s of a vif that is not there", series)
		}
	}
}

func TestEveryFamilyThatIsDescribedIsShown(t *testing.T) {
	names := map[string]bool{}
	for series := range gather(t, source(status())) {
		name, _, _ := strings.Cut(series, "{")
		names[name] = true
	}
	for _, d := range newFamilies().all {
		if name := nameOf(d); !names[name] && !names[name+"_count"] {
			t.Errorf("%s has no series", name)
		}
	}
}

// nameOf is the name in a description. Only the text of a description has it.
func nameOf(d *prometheus.Desc) string {
	_, rest, _ := strings.Cut(d.String(), `fqName: "`)
	name, _, _ := strings.Cut(rest, `"`)
	return name
}

func TestNamesAndHelpsAreAsPrometheusWantsThem(t *testing.T) {
	problems, err := testutil.CollectAndLint(NewCollector(source(status())))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestVifThatIsThereTwiceDoesNotSpoilTheScrape(t *testing.T) {
	s := status()
	s.Vifs = append(s.Vifs, control.Vif{Match: "0", DevID: 0, Waiting: "this domain has 0"})
	if got := gather(t, source(s)); got["xnetfrontd_vif_present{vif=0}"] != 1 {
		t.Error("the first of them is not what is shown")
	}
}

func TestVifThatIsGoneHasNoSeries(t *testing.T) {
	s := status()
	s.Vifs = nil
	for series := range gather(t, source(s)) {
		if strings.Contains(series, "vif=") {
			t.Errorf("%s is left", series)
		}
	}
}

func TestTextFromOutsideCannotSpoilTheScrape(t *testing.T) {
	s := status()
	s.Vifs[0].Device.Backend = "/\xff\n\"" + strings.Repeat("x", 5000)
	s.Vifs[0].Device.State, s.Vifs[0].Device.BackendState = "\xff", ""
	s.Vifs[0].Device.Ended["\xff"] = 1
	for series := range gather(t, source(s)) {
		if len(series) > 2*maxLabel+100 {
			t.Errorf("a series with %d bytes", len(series))
		}
	}
}

// strings in the Go source of package netfront, of the declaration called name.
func stringsIn(t *testing.T, file, name string) (found []string) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "../../../../pkg/netfront/"+file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	object := f.Scope.Lookup(name)
	if object == nil {
		t.Fatalf("%s has no %s", file, name)
	}
	ast.Inspect(object.Decl.(ast.Node), func(n ast.Node) bool {
		if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING {
			s, err := strconv.Unquote(l.Value)
			if err != nil {
				t.Fatal(err)
			}
			found = append(found, s)
		}
		return true
	})
	return found
}

func TestNoCounterOfTheQueuesIsForgotten(t *testing.T) {
	e := emitter{families: newFamilies()}
	known := map[string]bool{"batches": true} // the histogram's count
	for size := firstBatch; size <= lastBatch; size *= 2 {
		known["batch_"+strconv.Itoa(size)] = true
	}
	for _, direction := range []string{"tx", "rx"} {
		for _, k := range append(e.both(), e.only(direction)...) {
			known[k.key] = true
		}
		for _, cause := range dropCauses(direction) {
			known[dropPrefix+cause] = true
		}
	}
	for _, name := range stringsIn(t, "counters.go", "counterNames") {
		if !known[name] {
			t.Errorf("pkg/netfront counts %s, which no metric shows", name)
		}
		delete(known, name)
	}
	for _, name := range slices.Sorted(maps.Keys(known)) {
		t.Errorf("pkg/netfront has no counter %s", name)
	}
}

func TestEveryCauseOfADisconnectIsShownFromTheStart(t *testing.T) {
	got := stringsIn(t, "device.go", "cause")
	slices.Sort(got)
	if want := causes(); !slices.Equal(got, want) {
		t.Errorf("pkg/netfront has the causes %q, shown are %q", got, want)
	}
}
