// Package liar is a hostile backend with a script: on a vif that package netback serves it
// tells one lie after another that a backend can tell, on the rings, in the pages, by event
// channels and in xenstore, and looks what the frontend does. It runs on the embedded Xen and
// in a driver domain of a real one (package backdev). Everything it does is what a backend may
// do to its own frontend; nothing of it is meant for the hypervisor or the kernels.
package liar
