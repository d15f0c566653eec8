// Package backdev is what Linux gives a process that is a backend: pages that other domains
// have granted to this one (/dev/xen/gntdev), event channels that they have offered
// (/dev/xen/evtchn), and xenstore. Package netback runs on it in a real driver domain as it
// does on the embedded Xen. Nothing of the daemon is a backend: the lab of test/xenlab has
// one that lies.
package backdev
