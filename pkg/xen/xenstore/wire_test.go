package xenstore

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
)

func TestHeaderLayoutIsThatOfXsdSockmsg(t *testing.T) {
	h := Header{Type: TypeWrite, Request: 0x01020304, Transaction: 0x05060708, Length: 0x0a0b}
	want := []byte{
		0x0b, 0, 0, 0,
		0x04, 0x03, 0x02, 0x01,
		0x08, 0x07, 0x06, 0x05,
		0x0b, 0x0a, 0, 0,
	}
	if got := h.Append([]byte{}); !bytes.Equal(got, want) {
		t.Errorf("header % x, want % x", got, want)
	}
	if got, err := ParseHeader(want); err != nil || got != h {
		t.Errorf("parsed %+v, %v; want %+v", got, err, h)
	}
}

func TestHeaderWithMorePayloadThanAllowedIsRefused(t *testing.T) {
	for _, n := range []uint32{MaxPayload + 1, 1 << 31, 1<<32 - 1} {
		if _, err := ParseHeader(Header{Length: n}.Append(nil)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%d bytes of payload: %v", n, err)
		}
	}
	if _, err := ParseHeader(Header{Length: MaxPayload}.Append(nil)); err != nil {
		t.Errorf("%d bytes of payload: %v", MaxPayload, err)
	}
	if _, err := ParseHeader(make([]byte, HeaderSize-1)); !errors.Is(err, ErrMalformed) {
		t.Errorf("short header: %v", err)
	}
}

func TestMessageSurvivesShortReadsAndTellsWhereItWasCut(t *testing.T) {
	whole := AppendMessage(nil, Header{Type: TypeRead, Request: 7}, []byte("path\x00"))
	for n := range len(whole) + 1 {
		h, payload, err := ReadMessage(iotest.OneByteReader(bytes.NewReader(whole[:n])))
		switch {
		case n == 0 && err != io.EOF, n > 0 && n < len(whole) && err != io.ErrUnexpectedEOF:
			t.Errorf("message cut at %d: %v", n, err)
		case n == len(whole) && (err != nil || h.Request != 7 || h.Length != 5 || string(payload) != "path\x00"):
			t.Errorf("whole message: %+v %q %v", h, payload, err)
		}
	}
}

func TestMessageTypesHaveTheNumbersOfXsWire(t *testing.T) {
	// In the order of enum xsd_sockmsg_type; 20 is a hole.
	want := []MessageType{
		TypeControl, TypeDirectory, TypeRead, TypeGetPermissions, TypeWatch, TypeUnwatch,
		TypeTransactionStart, TypeTransactionEnd, TypeIntroduce, TypeRelease,
		TypeGetDomainPath, TypeWrite, TypeMkdir, TypeRemove, TypeSetPermissions,
		TypeWatchEvent, TypeError, TypeIsDomainIntroduced, TypeResume, TypeSetTarget, 20,
		TypeResetWatches, TypeDirectoryPart, TypeGetFeature, TypeSetFeature,
		TypeGetQuota, TypeSetQuota,
	}
	for i, typ := range want {
		if int(typ) != i {
			t.Errorf("%v is %d, want %d", typ, typ, i)
		}
	}
	for typ, name := range map[MessageType]string{
		TypeRemove: "RM", TypeDirectoryPart: "DIRECTORY_PART", 20: "type 20", 1<<32 - 1: "type 4294967295",
	} {
		if typ.String() != name {
			t.Errorf("name %q, want %q", typ, name)
		}
	}
}

func TestStringsWithoutTheirNulAreRefused(t *testing.T) {
	for payload, want := range map[string][]string{"": {}, "\x00": {""}, "a\x00\x00bc\x00": {"a", "", "bc"}} {
		got, err := ParseStrings([]byte(payload))
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %q, %v", payload, got, err)
		}
		if back := AppendStrings(nil, got); string(back) != payload {
			t.Errorf("%q came back as %q", payload, back)
		}
	}
	for _, payload := range []string{"a", "a\x00b"} {
		if _, err := ParseStrings([]byte(payload)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %v", payload, err)
		}
	}
}

func TestPermissionsHaveTheLettersOfTheWire(t *testing.T) {
	perms := []Permission{{Domain: 0}, {Domain: 5, Read: true}, {Domain: 7, Write: true}, {Domain: 65535, Read: true, Write: true}}
	const wire = "n0\x00r5\x00w7\x00b65535\x00"
	if got := AppendPermissions(nil, perms); string(got) != wire {
		t.Errorf("%q, want %q", got, wire)
	}
	if got, err := ParsePermissions([]byte(wire)); err != nil || !reflect.DeepEqual(got, perms) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"", "\x00", "x5\x00", "r\x00", "r-1\x00", "r65536\x00", "r5", "5\x00", "r5x\x00", "n0\x00q\x00"} {
		if got, err := ParsePermissions([]byte(bad)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %v, %v", bad, got, err)
		}
	}
}

func TestEveryErrorOfXsWireHasASentinel(t *testing.T) {
	sentinels := map[string]error{
		"EINVAL": ErrInvalid, "EACCES": ErrPermission, "EEXIST": ErrExists, "EISDIR": ErrIsDirectory,
		"ENOENT": ErrNotFound, "ENOMEM": ErrNoMemory, "ENOSPC": ErrNoSpace, "EIO": ErrIO,
		"ENOTEMPTY": ErrNotEmpty, "ENOSYS": ErrNotSupported, "EROFS": ErrReadOnly, "EBUSY": ErrBusy,
		"EAGAIN": ErrAgain, "EISCONN": ErrConnected, "E2BIG": ErrTooBig, "EPERM": ErrNotPermitted,
		"EQUOTA": ErrQuota,
	}
	if len(sentinels) != len(wireErrors) {
		t.Errorf("%d errors here, %d there", len(sentinels), len(wireErrors))
	}
	for name, want := range sentinels {
		if got := ParseError([]byte(name + "\x00")); !errors.Is(got, want) {
			t.Errorf("%s is %v", name, got)
		}
		wrapped := &Error{Op: opRead, Path: "/a", Err: want}
		if got := AppendError(nil, wrapped); string(got) != name+"\x00" {
			t.Errorf("%v is sent as %q", want, got)
		}
	}
	for _, payload := range []string{"", "\x00", "EFOO\x00", "enoent\x00", "\xff\n\x00", strings.Repeat("E", MaxPayload)} {
		if err := ParseError([]byte(payload)); !errors.Is(err, ErrUnknown) || strings.ContainsAny(err.Error(), "\n\x00") || len(err.Error()) > 400 {
			t.Errorf("%q is %v", payload, err)
		}
	}
	if got := AppendError(nil, io.EOF); string(got) != "EIO\x00" {
		t.Errorf("another error is sent as %q", got)
	}
}

func TestOnlyErrorsOfTheProtocolAreAnswersOfWrite(t *testing.T) {
	if err, ok := refusal(fmt.Errorf("write: %w", syscall.ENOSPC)); !ok || err != ErrNoSpace {
		t.Errorf("ENOSPC is %v, %v", err, ok)
	}
	for _, err := range []error{syscall.EPIPE, syscall.ECONNRESET, io.ErrClosedPipe} {
		if answer, ok := refusal(err); ok {
			t.Errorf("%v is taken for the answer %v", err, answer)
		}
	}
}

func TestTransactionIdsAreDecimalAndNotZero(t *testing.T) {
	for _, id := range []uint32{1, 1<<32 - 1} {
		if got, err := ParseTransaction(AppendTransaction(nil, id)); err != nil || got != id {
			t.Errorf("%d: %d, %v", id, got, err)
		}
	}
	for _, bad := range []string{"", "1", "0\x00", "x\x00", "-1\x00", "4294967296\x00", "1\x002\x00"} {
		if id, err := ParseTransaction([]byte(bad)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %d, %v", bad, id, err)
		}
	}
}

func TestWatchEventsMayHaveMoreThanPathAndToken(t *testing.T) {
	payload := append(AppendWatchEvent(nil, "/a/b", "12"), "1\x00"...)
	if path, token, err := ParseWatchEvent(payload); err != nil || path != "/a/b" || token != "12" {
		t.Errorf("%q, %q, %v", path, token, err)
	}
	for _, bad := range []string{"", "/a", "/a\x00", "/a\x0012"} {
		if _, _, err := ParseWatchEvent([]byte(bad)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestDirectoryInPartsIsTheWholeDirectory(t *testing.T) {
	lists := [][]string{}
	for _, count := range []int{0, 1, 2, 5, 500, 3000} {
		var names []string
		for i := range count {
			names = append(names, fmt.Sprint("node-", i*i))
		}
		lists = append(lists, names)
	}
	// Names that leave just enough room for the end of the list, or just not.
	for size := MaxPayload/2 - 8; size < MaxPayload/2; size++ {
		name := strings.Repeat("x", size)
		lists = append(lists, []string{name, name}, []string{name, name + "x"})
	}
	for _, names := range lists {
		count := len(names)
		var list []byte
		for last := false; !last; {
			payload := AppendDirectoryPart(nil, 77, names, uint64(len(list)))
			if len(payload) > MaxPayload {
				t.Fatalf("%d names: part of %d bytes", count, len(payload))
			}
			generation, part, end, err := ParseDirectoryPart(payload)
			if err != nil || generation != "77" {
				t.Fatalf("%d names: generation %q, %v", count, generation, err)
			}
			list, last = append(list, part...), end
		}
		if got, err := ParseStrings(list); err != nil || !slices.Equal(got, names) {
			t.Errorf("%d names: got %d, %v", count, len(got), err)
		}
	}
	for _, bad := range []string{"", "1", "1\x00", "1\x00a"} {
		if _, _, _, err := ParseDirectoryPart([]byte(bad)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestPathsThatTheServerWouldRefuseAreFoundHere(t *testing.T) {
	long := strings.Repeat("a", MaxRelativePath)
	for _, path := range []string{
		"/", "a", "/a", "device/vif/0/state", "/local/domain/12/device/vif/0", "a-b_c@D9",
		long, "/" + strings.Repeat("a", MaxAbsolutePath-1),
	} {
		if err := CheckPath(path); err != nil {
			t.Errorf("%.40q: %v", path, err)
		}
	}
	for _, path := range []string{
		"", "//", "/a/", "a/", "/a//b", "a b", "/a\x00b", "a\x00", "ä", "a.b", "a:b", "a\n", "@releaseDomain",
		long + "a", "/" + strings.Repeat("a", MaxAbsolutePath),
	} {
		if err := CheckPath(path); !errors.Is(err, ErrInvalid) {
			t.Errorf("%.40q: %v", path, err)
		}
	}
	if err := CheckWatchPath("@releaseDomain"); err != nil {
		t.Errorf("special watch: %v", err)
	}
}
