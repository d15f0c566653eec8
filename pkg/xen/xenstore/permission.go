package xenstore

import (
	"fmt"
	"strconv"
)

// Permission is what one domain may do with a node. A node has a list of them. The
// first is special: its Domain owns the node and may do everything, and its Read and
// Write are what domains have that are not in the list.
type Permission struct {
	Domain uint16
	Read   bool
	Write  bool
}

// String is the permission on the wire: n (none), r, w or b (both), and the domain in
// decimal.
func (p Permission) String() string {
	letter := "n"
	switch {
	case p.Read && p.Write:
		letter = "b"
	case p.Read:
		letter = "r"
	case p.Write:
		letter = "w"
	}
	return letter + strconv.Itoa(int(p.Domain))
}

// ParsePermission is the counterpart of [Permission.String]. It fails with
// [ErrMalformed].
func ParsePermission(s string) (Permission, error) {
	var p Permission
	malformed := fmt.Errorf("%w: permission %q", ErrMalformed, s)
	if s == "" {
		return p, malformed
	}
	switch s[0] {
	case 'n':
	case 'r':
		p.Read = true
	case 'w':
		p.Write = true
	case 'b':
		p.Read, p.Write = true, true
	default:
		return p, malformed
	}
	domain, err := strconv.ParseUint(s[1:], 10, 16)
	if err != nil {
		return Permission{}, malformed
	}
	p.Domain = uint16(domain)
	return p, nil
}

// AppendPermissions appends perms, each with a NUL byte after it, to b.
func AppendPermissions(b []byte, perms []Permission) []byte {
	for _, p := range perms {
		b = AppendString(b, p.String())
	}
	return b
}

// ParsePermissions is the counterpart of [AppendPermissions]. A node always has an
// owner: an empty list is [ErrMalformed].
func ParsePermissions(payload []byte) ([]Permission, error) {
	list, err := ParseStrings(payload)
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%w: no permissions", ErrMalformed)
	}
	perms := make([]Permission, len(list))
	for i, s := range list {
		if perms[i], err = ParsePermission(s); err != nil {
			return nil, err
		}
	}
	return perms, nil
}
