// Package daemon serves the vifs of a guest as a configuration says, until it is told to
// stop.
//
// The supervisor compares the guest's list of vifs, which the scanner reads from xenstore,
// with the configuration. It has one service for each vif. A service opens the vif, runs
// it, and tries again after an error or a panic, so that a fault of one vif never reaches
// another. The reporter answers for all of them on the control socket. [Run] puts these
// together, and adds what a daemon needs besides: systemd's notifications and watchdog,
// reloads, metrics, and the holder that keeps what the next process goes on with.
package daemon
