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
		"xen 4.20.4-1\nguests 7.3.4+deb13-amd64\ndom0 6.12.117+deb13-amd64 768\n": {Xen: "4.20.4-1", Dom0: "6.12.117+deb13-amd64", Guests: "7.3.4+deb13-amd64", Dom0MemMiB: 768},
		"guests 7.3.4\ndom0 6.12 768\n":                                           {},
		"guests 7.3.4\n":                                                          {},
		"guests 7.3.4\ndom0 6.12\n":                                               {},
		"guests 7.3.4\ndom0 6.12 x\n":                                             {},
		"":                                                                        {},
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

func TestTheLabsGroundsAreOfKnownParts(t *testing.T) {
	grounds, err := ReadGrounds("../grounds")
	if err != nil || len(grounds) < 2 {
		t.Fatalf("%d grounds, %v", len(grounds), err)
	}
	kernels, err := KnownKernels("../images")
	if err != nil {
		t.Fatal(err)
	}
	xens, err := KnownXens("../images")
	if err != nil {
		t.Fatal(err)
	}
	first := Ground{Name: "default", Parts: Parts{Guests: kernels[0], Dom0: kernels[0], Xen: xens[0]}, Store: StoreC, Type: TypePV}
	if grounds[0] != first {
		t.Errorf("the first ground is %+v, want what the lab boots unless told otherwise, %+v", grounds[0], first)
	}
	seen := map[string]bool{}
	for _, g := range grounds {
		known := slices.Contains(kernels, g.Guests) && slices.Contains(kernels, g.Dom0) && slices.Contains(xens, g.Xen) &&
			slices.Contains([]string{StoreC, StoreOCaml}, g.Store) && slices.Contains([]string{TypePV, TypePVH}, g.Type)
		if !known || seen[g.Name] {
			t.Errorf("%+v has a part that is not known, or its name twice", g)
		}
		seen[g.Name] = true
	}
}

func TestALineThatIsNoGroundIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "grounds")
	if err := os.WriteFile(path, []byte("default 6.12 6.12 4.20 xenstored\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadGrounds(path); err == nil || !strings.Contains(err.Error(), path+`: "default 6.12 6.12 4.20 xenstored": want a name`) {
		t.Errorf("error %v", err)
	}
}
