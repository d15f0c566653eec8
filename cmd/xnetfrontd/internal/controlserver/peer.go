package controlserver

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// peer is the user at the other end of a connection.
type peer struct {
	uid      uint32
	writer   bool // may use the ops that change something, and those that show frames
	unmapped bool // has no number in this user namespace
}

func (p peer) String() string {
	if p.unmapped {
		return fmt.Sprintf("a user that the daemon's user namespace does not know (it sees uid %d)", p.uid)
	}
	return fmt.Sprintf("uid %d", p.uid)
}

// users decide what a peer may do.
type users struct {
	own      uint32 // the daemon's
	overflow uint32 // the uid that the kernel shows for a user without a number here: user_namespaces(7)
}

// defaultOverflow is DEFAULT_OVERFLOWUID of the kernel's linux/highuid.h.
const defaultOverflow = 65534

func newUsers() users {
	u := users{own: uint32(os.Geteuid()), overflow: defaultOverflow}
	if b, err := os.ReadFile("/proc/sys/kernel/overflowuid"); err == nil {
		if n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 32); err == nil {
			u.overflow = uint32(n)
		}
	}
	return u
}

// peer judges a uid. The uid of unmapped users can be any user's, even where it is the
// daemon's own.
func (u users) peer(uid uint32) peer {
	p := peer{uid: uid, unmapped: uid == u.overflow}
	p.writer = !p.unmapped && (uid == 0 || uid == u.own)
	return p
}
