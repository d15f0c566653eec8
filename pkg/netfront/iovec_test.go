package netfront

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// unsafeBytes is what the kernel would read for v.
func unsafeBytes(v unix.Iovec) []byte { return unsafe.Slice(v.Base, int(v.Len)) }
