package main

import (
	"slices"
	"testing"
)

func TestBenchmarkOutputIsReadWithItsUnits(t *testing.T) {
	const out = `goos: linux
cpu: AMD EPYC
BenchmarkTxService/60-2         	 1093810	      1097 ns/op	       137.2 ns/packet	       137.5 ns/slot	       0 B/op	       0 allocs/op
BenchmarkTxService/60-2         	 1000000	      1070 ns/op	       133.8 ns/packet	       133.9 ns/slot	       0 B/op	       1 allocs/op
BenchmarkRead/64/uring32 	 5000	 883.5 ns/op	 31 B/op	 0 allocs/op
PASS
ok  	github.com/xnetfrontd/xnetfrontd/pkg/netfront	17.484s
`
	loops, err := parseBenchmarks("pkg/netfront", out)
	if err != nil {
		t.Fatal(err)
	}
	if len(loops) != 2 || loops[0].Name != "TxService/60" || loops[1].Name != "Read/64/uring32" {
		t.Fatalf("loops %+v", loops)
	}
	tx := loops[0].Figures
	if !slices.Equal(tx["ns/slot"], []float64{137.5, 133.9}) || !slices.Equal(tx["allocs/op"], []float64{0, 1}) {
		t.Errorf("figures %v", tx)
	}
	if got := loops[0].times(); !slices.Equal(got, []string{"ns/packet", "ns/slot"}) {
		t.Errorf("times %v", got)
	}
	if got := loops[1].times(); !slices.Equal(got, []string{"ns/op"}) {
		t.Errorf("times %v", got)
	}
	if _, err := parseBenchmarks("x", "BenchmarkX 1 fast ns/op\n"); err == nil {
		t.Error("a figure that is no number is taken")
	}
}
