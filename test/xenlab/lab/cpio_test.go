package lab

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// unpack reads an archive as the kernel does (init/initramfs.c): entry by entry, each
// at a multiple of four bytes; zeros between archives are skipped.
func unpack(t *testing.T, b []byte) map[string]string {
	t.Helper()
	got := map[string]string{}
	for at := 0; at < len(b); {
		if b[at] == 0 {
			at++
			continue
		}
		if at%4 != 0 || !bytes.HasPrefix(b[at:], []byte("070701")) {
			t.Fatalf("no header at %d: %q", at, b[at:min(at+16, len(b))])
		}
		field := func(i int) int {
			v, err := strconv.ParseUint(string(b[at+6+8*i:at+14+8*i]), 16, 32)
			if err != nil {
				t.Fatal(err)
			}
			return int(v)
		}
		mode, size, nameSize := field(1), field(6), field(11)
		name := strings.TrimSuffix(string(b[at+110:at+110+nameSize]), "\x00")
		body := (at + 110 + nameSize + 3) &^ 3
		if name != "TRAILER!!!" {
			if _, ok := got[filepath.Dir(name)]; !ok && filepath.Dir(name) != "." {
				t.Errorf("%s comes before its folder", name)
			}
			got[name] = fmt.Sprintf("%o %s", mode, b[body:body+size])
		}
		at = (body + size + 3) &^ 3
	}
	return got
}

func file(t *testing.T, content string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTheKernelFindsEveryFileOfTwoArchivesBehindEachOther(t *testing.T) {
	first, second := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
	if err := writeCPIOFile(first, map[string]string{"/lab/agent": file(t, "12345", 0o755), "lab/deep/er/x": file(t, "", 0o600)}); err != nil {
		t.Fatal(err)
	}
	if err := writeCPIOFile(second, map[string]string{"/lab/agent": file(t, "newer", 0o700)}); err != nil {
		t.Fatal(err)
	}
	var both bytes.Buffer
	if err := concatenate(&both, file(t, "\x00\x00\x00", 0o600), first, second); err != nil {
		t.Fatal(err)
	}
	got := unpack(t, both.Bytes())
	for name, want := range map[string]string{
		"lab": "40755 ", "lab/agent": "100700 newer", "lab/deep": "40755 ", "lab/deep/er": "40755 ", "lab/deep/er/x": "100600 ",
	} {
		if got[name] != want {
			t.Errorf("%s is %q, want %q", name, got[name], want)
		}
		delete(got, name)
	}
	if len(got) != 0 {
		t.Errorf("and there is %v", got)
	}
}

func TestAMissingPayloadIsNamed(t *testing.T) {
	err := writeCPIO(&bytes.Buffer{}, map[string]string{"/in/guest": "/no/such/file"})
	if err == nil || !strings.Contains(err.Error(), "/no/such/file as /in/guest") {
		t.Errorf("error %v", err)
	}
}
