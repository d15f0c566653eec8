package repeats

import (
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func newLog() (*zap.Logger, *observer.ObservedLogs) {
	core, logs := observer.New(zap.DebugLevel)
	return zap.New(NewCore(core)), logs
}

func TestAFloodIsAFewLinesAndTheNumberOfTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, logs := newLog()
		log = log.With(zap.Int("vif", 0))
		// One line in each second, for three intervals.
		const seconds = 180
		for i := range seconds {
			log.Warn("disconnected", zap.String("cause", "violation"), zap.Int("round", i))
			time.Sleep(time.Second)
		}
		time.Sleep(2 * Interval)
		written, left := 0, 0
		for _, l := range logs.All() {
			n, ok := l.ContextMap()["left_out"].(int64)
			if !ok {
				written++
				continue
			}
			left += int(n)
			if l.Message != "disconnected" || l.Level != zap.WarnLevel || l.ContextMap()["vif"] != int64(0) || l.ContextMap()["cause"] != "violation" {
				t.Errorf("the last of those left out is not told as it was: %v", l)
			}
		}
		if want := Burst + 2; written != want || written+left != seconds {
			t.Errorf("%d lines were written, want %d, and %d counted, of %d", written, want, left, seconds)
		}
		last := logs.All()[logs.Len()-1].ContextMap()
		if last["round"] != int64(seconds-1) {
			t.Errorf("the log ends with round %v, the last was %d", last["round"], seconds-1)
		}
	})
}

func TestTheLogIsNeverFurtherBehindThanAnInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, logs := newLog()
		for i := range Burst + 3 {
			log.Info("state", zap.Int("round", i))
		}
		if n := logs.Len(); n != Burst {
			t.Errorf("%d lines were written at once, want %d", n, Burst)
		}
		time.Sleep(Interval)
		synctest.Wait()
		if n := logs.Len(); n != Burst+1 {
			t.Fatalf("%d lines after an interval, want %d", n, Burst+1)
		}
		l := logs.All()[Burst].ContextMap()
		if l["left_out"] != int64(3) || l["round"] != int64(Burst+2) || l["age"] != Interval {
			t.Errorf("the last line says %v", l)
		}
	})
}

func TestAfterAFloodASingleLineIsWrittenAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, logs := newLog()
		for range Burst + 1 {
			log.Info("state")
		}
		time.Sleep(Interval)
		synctest.Wait()
		logs.TakeAll()
		log.Info("state")
		if logs.Len() != 1 {
			t.Error("it was not written")
		}
		time.Sleep(2 * Interval)
		for range Burst {
			log.Info("state")
		}
		if n := logs.Len(); n != 1+Burst {
			t.Errorf("after a calm interval %d of %d lines were written", n-1, Burst)
		}
	})
}

// The first line of a kind is never lost, whatever the number of lines of another kind before
// it.
func TestAFloodOfOneKindHidesNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, logs := newLog()
		vif := log.With(zap.Int("vif", 0))
		for range 100 {
			vif.Warn("disconnected", zap.String("message_id", "a"), zap.String("cause", "stalled"))
		}
		logs.TakeAll()
		vif.Warn("disconnected", zap.String("message_id", "a"), zap.String("cause", "violation"))
		vif.Warn("disconnected", zap.String("message_id", "b"), zap.String("cause", "stalled"))
		vif.Warn("disconnected", zap.String("message_id", "a"), zap.String("cause", "stalled"), zap.Int("queue", 1))
		log.Warn("disconnected", zap.String("message_id", "a"), zap.String("cause", "stalled"), zap.Int("vif", 1))
		vif.Warn("something else")
		if n := logs.Len(); n != 5 {
			t.Errorf("%d of 5 other kinds were written: %v", n, logs.All())
		}
	})
}

func TestNothingIsLostAtTheEndOfTheProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, logs := newLog()
		for range Burst + 5 {
			log.Info("state")
		}
		logs.TakeAll()
		if err := log.Sync(); err != nil {
			t.Fatal(err)
		}
		if l := logs.TakeAll(); len(l) != 1 || l[0].ContextMap()["left_out"] != int64(5) {
			t.Errorf("at the end: %v", l)
		}
	})
}

func TestDebugLinesAndFaultsAreAllWritten(t *testing.T) {
	log, logs := newLog()
	for range 3 * Burst {
		log.Debug("state")
		log.DPanic("fault")
	}
	if n := logs.Len(); n != 6*Burst {
		t.Errorf("%d of %d were written", n, 6*Burst)
	}
}

func TestWhatIsCalmCostsNoMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, _ := observer.New(zap.InfoLevel)
		c := NewCore(core)
		log := zap.New(c)
		for i := range 1000 {
			log.Info("state", zap.Int("vif", i))
		}
		time.Sleep(Interval)
		synctest.Wait()
		if n := len(c.kinds.open); n != 0 {
			t.Errorf("%d kinds are remembered", n)
		}
	})
}
