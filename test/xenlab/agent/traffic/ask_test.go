package traffic

import (
	"slices"
	"testing"
	"time"
)

func TestEachRequestIsAnsweredAndTimed(t *testing.T) {
	a, b := pair(t)
	for _, to := range []string{"10.9.0.2:5003", "[fd09::2]:5003"} {
		answer := b.listen("answer")
		ask := a.start("ask", to, "--requests=50", "--rate=200")
		var got Asked
		ask.result(&got)
		ask.end()
		answer.stop()
		answer.end()
		if got.Sent != 50 || got.Answered != 50 {
			t.Errorf("to %s: %+v", to, got)
		}
		if !(got.AverageMS > 0 && got.AverageMS <= got.MaxMS && got.P95MS > 0 && got.P95MS <= got.MaxMS) {
			t.Errorf("to %s: times %+v", to, got)
		}
	}
}

func TestRequestsGoOnWhileNothingIsAnswered(t *testing.T) {
	a, b := pair(t)
	answer := b.listen("answer")
	ask := a.start("ask", "10.9.0.2:5003", "--requests=1000000", "--rate=1000")
	for b.received() < 100 { // there are requests among them
		time.Sleep(time.Millisecond)
	}
	ask.stop()
	var got Asked
	ask.result(&got)
	ask.end()
	answer.stop()
	answer.end()
	if got.Sent == 0 || got.Answered == 0 || got.Answered > got.Sent {
		t.Errorf("%+v", got)
	}
}

func TestRequestsAreDueAtTheirRate(t *testing.T) {
	began := time.Now()
	a := asking{Ask: &Ask{Rate: 4}, began: began}
	if got, want := a.due(6), began.Add(1500*time.Millisecond); !got.Equal(want) {
		t.Errorf("request 6 at 4/s is due %s after the first, want 1.5 s", got.Sub(began))
	}
}

func TestPercentileIsTheNearestRank(t *testing.T) {
	var hundred []float64
	for i := range 100 {
		hundred = append(hundred, float64(i+1))
	}
	for _, c := range []struct {
		of   []float64
		want float64
	}{{hundred, 95}, {hundred[:20], 19}, {hundred[:21], 20}, {hundred[:1], 1}, {hundred[:2], 2}} {
		if got := Percentile(slices.Clone(c.of), 95); got != c.want {
			t.Errorf("95th percentile of 1 to %d is %v, want %v", len(c.of), got, c.want)
		}
	}
}
