// Package vifowner tells which frontend has a vif: a daemon, by a lock that it holds, or a
// driver of the kernel, by sysfs. It takes and gives those locks, and moves vifs to and from
// the kernel's driver.
package vifowner
