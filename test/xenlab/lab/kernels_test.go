package lab

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestTheFirstKernelOfTheTableIsTheDefaultAndCommentsAreNone(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "kernels"), []byte("# name suite\n\n6.12 trixie 768\n  7.x trixie-backports 1024\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := KnownKernels(dir)
	if want := []string{"6.12", "7.x"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

func TestTheLabsTableHasAKernelSuiteAndMemoryInEachLine(t *testing.T) {
	lines, err := fieldsOf("../images/kernels")
	if err != nil || len(lines) == 0 {
		t.Fatalf("%d lines, %v", len(lines), err)
	}
	seen := map[string]bool{}
	for _, fields := range lines {
		if len(fields) != 3 || seen[fields[0]] {
			t.Errorf("%q: want one line a name, with a suite and dom0's MiB", fields)
			continue
		}
		seen[fields[0]] = true
	}
}

func TestImagesSayWhatTheyHave(t *testing.T) {
	for content, want := range map[string]Built{
		"guests 7.3.4+deb13-amd64\ndom0 6.12.117+deb13-amd64 768\n": {Dom0: "6.12.117+deb13-amd64", Guests: "7.3.4+deb13-amd64", Dom0MemMiB: 768},
		"guests 7.3.4\n":              {},
		"guests 7.3.4\ndom0 6.12\n":   {},
		"guests 7.3.4\ndom0 6.12 x\n": {},
		"":                            {},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "kernels"), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		got, err := ReadBuilt(dir)
		if want == (Built{}) {
			if err == nil || !strings.Contains(err.Error(), dir) {
				t.Errorf("%q: %+v, error %v", content, got, err)
			}
			continue
		}
		if err != nil || got != want {
			t.Errorf("%q: %+v, %v, want %+v", content, got, err, want)
		}
	}
	if _, err := ReadBuilt(t.TempDir()); err == nil || !strings.Contains(err.Error(), "build them anew") {
		t.Errorf("images from before: error %v", err)
	}
}
