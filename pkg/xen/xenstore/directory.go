package xenstore

import (
	"context"
	"errors"
	"fmt"
	"strconv"
)

// maxDirectory bounds what a directory read in parts may grow to, in bytes. A list of
// all domains that can be is less than half of it.
const maxDirectory = 1 << 20

// A directory whose names do not fit into one payload is answered with E2BIG, and is
// then read with XS_DIRECTORY_PART: the names with a NUL byte after each are one string
// of bytes, of which each reply has the part from an offset on, up to a whole name. A
// generation, which changes with the node, comes with each part. An empty name after
// the last one ends the list.

// AppendDirectoryPart appends the reply to a [TypeDirectoryPart] to b: the generation
// and a NUL byte, and as many of names from offset on as fit in [MaxPayload] bytes. An
// offset that is not where a name begins gives what is left of that name.
func AppendDirectoryPart(b []byte, generation uint64, names []string, offset uint64) []byte {
	start := len(b)
	b = append(strconv.AppendUint(b, generation, 10), 0)
	for _, name := range names {
		size := uint64(len(name)) + 1
		if offset >= size {
			offset -= size
			continue
		}
		name, offset = name[offset:], 0
		// One byte stays for the empty name at the end.
		if len(b)-start+len(name)+1 > MaxPayload-1 {
			return b
		}
		b = AppendString(b, name)
	}
	return append(b, 0)
}

// ParseDirectoryPart reads the reply to a [TypeDirectoryPart]. Part is the bytes that
// were asked for, without the empty name; the next offset is behind them. Last says
// that the list ends with them. Part belongs to payload.
func ParseDirectoryPart(payload []byte) (generation string, part []byte, last bool, err error) {
	generation, part, err = CutString(payload)
	if err != nil {
		return "", nil, false, err
	}
	if len(part) == 0 || part[len(part)-1] != 0 {
		return "", nil, false, fmt.Errorf("%w: directory part of %d bytes", ErrMalformed, len(part))
	}
	if len(part) == 1 || part[len(part)-2] == 0 {
		return generation, part[:len(part)-1], true, nil
	}
	return generation, part, false, nil
}

// directory lists the children of path. Where the list is too long for a server that
// cannot give it in parts the error is its E2BIG.
func (t *transaction) directory(ctx context.Context, path string) ([]string, error) {
	list, err := t.request(ctx, TypeDirectory, AppendString(nil, path))
	if errors.Is(err, ErrTooBig) {
		list, err = t.directoryInParts(ctx, path)
		if errors.Is(err, ErrNotSupported) {
			err = fmt.Errorf("%w, and in parts %w", ErrTooBig, err)
		}
	}
	if err != nil {
		return nil, err
	}
	return ParseStrings(list)
}

func (t *transaction) directoryInParts(ctx context.Context, path string) ([]byte, error) {
	var list []byte
	for {
		var done bool
		var err error
		if list, done, err = t.directoryOnce(ctx, path, list[:0]); done || err != nil {
			return list, err
		}
	}
}

// directoryOnce reads all parts into list. It is not done when the directory changed
// meanwhile: the parts of two generations do not fit together.
func (t *transaction) directoryOnce(ctx context.Context, path string, list []byte) ([]byte, bool, error) {
	var first string
	for {
		request := AppendString(AppendString(nil, path), strconv.Itoa(len(list)))
		payload, err := t.request(ctx, TypeDirectoryPart, request)
		if err != nil {
			return list, false, err
		}
		generation, part, last, err := ParseDirectoryPart(payload)
		if err != nil {
			return list, false, err
		}
		if len(list) == 0 {
			first = generation
		}
		if generation != first {
			return list, false, nil
		}
		list = append(list, part...)
		if last {
			return list, true, nil
		}
		if len(list) > maxDirectory {
			return list, false, fmt.Errorf("%w: directory of more than %d bytes", ErrMalformed, maxDirectory)
		}
	}
}
