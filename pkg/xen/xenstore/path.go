package xenstore

import (
	"fmt"
	"strings"
)

// CheckPath tells whether path can name a node: ASCII letters and digits and - / _ @
// only, not beginning with @, no empty element, no slash at the end except in "/",
// and at most [MaxAbsolutePath] bytes, or [MaxRelativePath] if it does not begin with
// a slash. The error is an [ErrInvalid] with the reason.
func CheckPath(path string) error {
	if strings.HasPrefix(path, "@") {
		return fmt.Errorf("%w: special name instead of a path", ErrInvalid)
	}
	return CheckWatchPath(path)
}

// CheckWatchPath is [CheckPath] for what can be watched and can have permissions:
// nodes, and special names such as @introduceDomain and @releaseDomain.
func CheckWatchPath(path string) error {
	if path == "" {
		return fmt.Errorf("%w: empty path", ErrInvalid)
	}
	most := MaxRelativePath
	if path[0] == '/' {
		most = MaxAbsolutePath
	}
	if len(path) > most {
		return fmt.Errorf("%w: path of %d bytes, at most %d", ErrInvalid, len(path), most)
	}
	for i := range len(path) {
		if !pathByte(path[i]) {
			return fmt.Errorf("%w: character %q in path", ErrInvalid, path[i])
		}
	}
	if path == "/" {
		return nil
	}
	if strings.HasSuffix(path, "/") || strings.Contains(path, "//") {
		return fmt.Errorf("%w: empty element in path", ErrInvalid)
	}
	return nil
}

func pathByte(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	return c == '-' || c == '/' || c == '_' || c == '@'
}
