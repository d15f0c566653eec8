//go:build linux

package xen

import (
	"slices"
	"testing"
)

// A grant that was ended is given out again; one that is in use is not.
func TestGrantsThatDoNotComeBackAreLeftBehind(t *testing.T) {
	var l leftBehind
	l.found([]GrantRef{8, 9}) // nothing was given back
	l.add([]GrantRef{8, 9, 10, 11})
	l.found([]GrantRef{11, 10, 77}) // 77 was another's
	if n := l.len(); n != 2 {
		t.Errorf("%d are left behind, want 8 and 9", n)
	}
	l.add([]GrantRef{10}) // again
	l.found([]GrantRef{8})
	if n := l.len(); n != 2 {
		t.Errorf("%d are left behind, want 9 and 10", n)
	}
	l.found(slices.Repeat([]GrantRef{9, 10}, 2))
	if n := l.len(); n != 0 {
		t.Errorf("%d are left behind", n)
	}
}

func TestWhatIsLeftBehindIsCountedOverAdoptedDescriptorsToo(t *testing.T) {
	g := newFakeGntalloc(t, "1024\n")
	fd, err := g.Handle()
	if err != nil {
		t.Fatal(err)
	}
	adopted, err := g.Adopt(fd)
	if err != nil {
		t.Fatal(err)
	}
	defer adopted.Close()
	adopted.(*Gntalloc).left.add([]GrantRef{8, 9})
	if n := g.left.len(); n != 2 {
		t.Errorf("%d are left behind, want 2", n)
	}
}
