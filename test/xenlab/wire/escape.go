package wire

import "io"

// A Xen guest's console takes Ctrl-O, and the byte behind it, as a SysRq key
// (drivers/tty/hvc/hvc_console.c), even in raw mode. So Ctrl-O never goes over a line:
// it is sent as escape and that byte with its flip bit changed, and escape itself too.
const (
	ctrlO  = 0x0f
	escape = 0x10
	flip   = 0x40
)

// appendEscaped appends p to b in the form that goes over a line.
func appendEscaped(b, p []byte) []byte {
	for _, c := range p {
		if c == ctrlO || c == escape {
			b = append(b, escape, c^flip)
			continue
		}
		b = append(b, c)
	}
	return b
}

// unescaper reads what appendEscaped has made. Text that was never escaped comes out
// as it is, if it has no escapes.
type unescaper struct {
	from    io.Reader
	escaped bool // the next byte is flipped
}

func (u *unescaper) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		n, err := u.from.Read(p)
		kept := 0
		for _, c := range p[:n] {
			switch {
			case u.escaped:
				u.escaped = false
				p[kept] = c ^ flip
				kept++
			case c == escape:
				u.escaped = true
			default:
				p[kept] = c
				kept++
			}
		}
		if kept > 0 || err != nil {
			return kept, err
		}
	}
}
