// Package journal writes log entries to systemd's journal, each as one entry whose
// fields can be searched for: `journalctl -u xnetfrontd CAUSE=violation`. It speaks the
// native protocol (https://systemd.io/JOURNAL_NATIVE_PROTOCOL/): a datagram of fields,
// or, for an entry that is too large for one, a sealed memory file.
//
// Nothing here waits for journald. The goroutine that logs may be the one that carries frames,
// and a guest whose disk is full or whose journald hangs must not lose its network, too. An
// entry that journald does not take at once is lost, and is counted.
//
// github.com/coreos/go-systemd/v22/journal has such a sender, too. It waits for ever if
// journald does not read, has one socket for the whole process, and needs a directory in which
// the daemon may not write.
package journal
