package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A page that says what works names the test that shows it.
func TestPagesNameTestsThatThereAre(t *testing.T) {
	var all strings.Builder
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		all.Write(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile("`(Test[A-Z]\\w+)`")
	n := 0
	for _, path := range allPages(t) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range name.FindAllStringSubmatch(string(b), -1) {
			n++
			if !strings.Contains(all.String(), "func "+m[1]+"(") {
				t.Errorf("%s: there is no %s", path, m[1])
			}
		}
	}
	if n < 15 {
		t.Errorf("only %d tests are named", n)
	}
}
