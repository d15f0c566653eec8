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
// Afterwards it runs the benchmarks of the packages that every frame passes. Results go
// to a folder as JSON and as a chart (SVG).
package main
