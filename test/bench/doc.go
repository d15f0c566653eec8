// Bench measures xnetfrontd against a veth pair and against a plain forwarder
// between two TAPs, on one machine and in one run: two network namespaces stand for
// the guest and for the network, and each of the three links connects them.
//
//	veth       what the kernel does without a process in between: the measure
//	forwarder  a process that hands frames from TAP to TAP: the ceiling for
//	           anything that hands frames through a process
//	xnetfrontd the daemon, the rings and the embedded Xen's netback: two processes
//
// Machines are shared and noisy, so that only ratios count. Samples are taken in
// turn, veth forwarder xnetfrontd veth ..., and each is divided by the mean of the
// veth samples before and after it. The median of the ratios is the figure, with
// their spread beside it.
//
// Latency under load is measured apart, on one vif for each rate and on a veth pair
// with a bucket before it that fills as netback's credit does: see loadCase. One sample
// has uploads by TCP from the guest, and beside them 50 pings a second, whose jitter is
// a telephone's, and a sparse TCP flow, which sends when its answer is there. A queue
// that nobody manages grows for as long as a sample takes: longer samples show more of
// it. Samples of one load alternate, which link comes first changes from pair to pair,
// and the ratio is taken within the pair.
//
// Afterwards it runs the benchmarks of the packages that every frame passes. Results go
// to a folder as JSON and as a chart (SVG).
package main
