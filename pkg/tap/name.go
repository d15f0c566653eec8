package tap

import (
	"errors"
	"fmt"
	"strings"
)

// DefaultName is the pattern that stands for an empty name.
const DefaultName = "xnf%d"

// maxName is the longest name of a link in bytes (IFNAMSIZ less the closing zero).
const maxName = 15

// ErrName says that Linux would not take a name for a link, or would cut it.
var ErrName = errors.New("not a name for a link")

// CheckName says whether name can be a link's name: 1 to 15 bytes of printable ASCII
// without '/', ':', '%' and space, and none of ".", "..", "all" and "default" (the
// last two are directories beside the links in /proc/sys/net). A pattern may hold one
// "%d", for which Linux puts the first free number. The error is [ErrName].
//
// The rules are those of dev_valid_name in Linux's net/core/dev.c. They are checked
// here because TUNSETIFF cuts a long name without a word.
func CheckName(name string, pattern bool) error {
	reason := ""
	plain := name
	if pattern {
		plain = strings.Replace(name, "%d", "0", 1)
	}
	switch {
	case name == "":
		reason = "it is empty"
	case len(name) > maxName:
		reason = fmt.Sprintf("it is longer than %d bytes", maxName)
	case name == "." || name == ".." || name == "all" || name == "default":
		reason = "it is reserved"
	case strings.ContainsAny(plain, "/:%"):
		reason = "it holds one of / : %"
	case strings.ContainsFunc(plain, func(r rune) bool { return r <= ' ' || r > '~' }):
		reason = "it holds a space or a byte that is not printable ASCII"
	default:
		return nil
	}
	return fmt.Errorf("%w: %q: %s", ErrName, name, reason)
}
