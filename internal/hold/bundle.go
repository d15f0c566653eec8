package hold

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// Errors of the holder, for errors.Is.
var (
	// ErrNotFound says that the holder has no such bundle.
	ErrNotFound = errors.New("the holder has no such bundle")
	// ErrRefused says that the holder did not do what it was asked to. It changed
	// nothing; the same call again has the same result.
	ErrRefused = errors.New("refused by the holder")
	// ErrVersion says that the holder speaks another version of the protocol.
	ErrVersion = errors.New("other version of the holder's protocol")
	// ErrUnavailable says that no holder answers. A [Keeper] has remembered the call
	// and makes up for it when there is a holder again.
	ErrUnavailable = errors.New("no holder answers")
)

// File is one descriptor of a bundle.
type File struct {
	Name string // 1 to MaxName bytes of printable ASCII, no space; unique in the bundle
	FD   int
}

// Bundle is what is put, replaced, fetched and dropped as one.
type Bundle struct {
	Key   string // 1 to MaxKey bytes of printable ASCII, no space, such as "vif/0/tap"
	Label string // whatever the daemon wants to know about it; up to MaxLabel bytes
	Files []File // up to MaxFiles

	// Parked is the identifier of a parked bundle, and empty for all others. It has the
	// form of a key, and is unique in the holder; see [NewParkID].
	Parked string
}

// Take gives the descriptor of that name to the caller, who closes it; [Bundle.Close]
// will not. It is false when the bundle has none of that name, or not any more.
func (b *Bundle) Take(name string) (fd int, ok bool) {
	i := slices.IndexFunc(b.Files, func(f File) bool { return f.Name == name })
	if i < 0 {
		return -1, false
	}
	fd = b.Files[i].FD
	b.Files = slices.Delete(b.Files, i, i+1)
	return fd, true
}

// Close closes the descriptors that were not taken. It is for bundles that Get
// returned: their descriptors are the caller's own.
func (b *Bundle) Close() error {
	var err error
	for _, f := range b.Files {
		if e := unix.Close(f.FD); e != nil {
			err = errors.Join(err, fmt.Errorf("close %s of %s: %w", f.Name, b.Key, e))
		}
	}
	b.Files = nil
	return err
}

// check says what is wrong with a bundle, descriptors aside.
func (b *Bundle) check() error {
	if err := checkText("key", b.Key, MaxKey); err != nil {
		return err
	}
	if b.Parked != "" {
		if err := checkText("identifier", b.Parked, MaxKey); err != nil {
			return err
		}
	}
	if len(b.Label) > MaxLabel {
		return fmt.Errorf("label of %s: %d bytes, at most %d are kept", b.Key, len(b.Label), MaxLabel)
	}
	if len(b.Files) > MaxFiles {
		return fmt.Errorf("bundle %s: %d descriptors, at most %d are kept", b.Key, len(b.Files), MaxFiles)
	}
	seen := make(map[string]bool, len(b.Files))
	for _, f := range b.Files {
		if err := checkText("name", f.Name, MaxName); err != nil {
			return fmt.Errorf("bundle %s: %w", b.Key, err)
		}
		if seen[f.Name] {
			return fmt.Errorf("bundle %s: two descriptors are named %s", b.Key, f.Name)
		}
		seen[f.Name] = true
	}
	return nil
}

// checkText keeps keys and names to what a log line and a file can show.
func checkText(what, s string, limit int) error {
	if s == "" || len(s) > limit {
		return fmt.Errorf("%s of %d bytes: expected 1 to %d", what, len(s), limit)
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return fmt.Errorf("%s %q: expected printable ASCII without spaces", what, s)
		}
	}
	return nil
}

// Entry is what a list says of a bundle.
type Entry struct {
	Key    string
	Label  string
	Parked string   // the identifier of a parked bundle, else empty
	Names  []string // of its descriptors
}
