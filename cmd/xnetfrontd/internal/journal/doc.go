// Package journal writes log entries to systemd's journal, each as one entry whose
// fields can be searched for: `journalctl -u xnetfrontd CAUSE=violation`. It speaks the
// native protocol (https://systemd.io/JOURNAL_NATIVE_PROTOCOL/): a datagram of fields,
// or, for an entry that is too large for one, a sealed memory file.
//
// Nothing here waits for journald. Who logs may be who carries frames, and a guest
// whose disk is full or whose journald hangs must not lose its network too. An entry
// that journald does not take at once is lost, and counted.
//
// github.com/coreos/go-systemd/v22/journal has such a sender as well. It waits for ever
// for a journald that does not read, has one socket for the whole process, and needs a
// directory that the daemon may not write to.
package journal
