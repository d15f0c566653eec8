// Package bench compares xnetfrontd with the kernel's xen-netfront on the real Xen of
// the lab: the same guest, the same boot, the same vif, the same dom0.
//
// The vif changes hands as it does for users: `xnetfrontd prepare` and `run` take it,
// a stop and `xnetfrontd release` give it back. An emulated machine on a shared host
// grows slower and faster all the time, so that only ratios count, and only those of
// samples taken one after the other. A pair is one sample of a metric with each
// frontend; the order changes from pair to pair, and from metric to metric, which also
// spares half of the changes.
//
// Tools and settings are the same for both: iperf3 and ping, one TCP stream, queue
// lengths as they come, offloads set by ethtool on the guest's interface and on dom0's.
//
// Latency under load is measured in turns: a frontend has a vif and is looked at in every
// way before the next one gets it. All that goes beside an upload goes at the same time.
package bench
