package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	namedFunc = regexp.MustCompile("`(\\w+)` in `(\\w[\\w.-]*/[\\w/.-]+\\.go)`")
	namedTest = regexp.MustCompile("`Test[A-Z]\\w+`")
)

// A page that says which function checks something names one that there is, where it is.
func TestPagesNameFunctionsThatThereAre(t *testing.T) {
	for _, path := range allPages(t) {
		page, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range namedFunc.FindAllStringSubmatch(string(page), -1) {
			code, err := os.ReadFile(filepath.Join(root, m[2]))
			if err != nil {
				t.Errorf("%s: %v", path, err)
				continue
			}
			if !regexp.MustCompile(`(?m)^func (\([^)]*\) )?` + m[1] + `[(\[]`).Match(code) {
				t.Errorf("%s: there is no %s in %s", path, m[1], m[2])
			}
		}
	}
}

// Each line of the threat model has a check and a test: TestPagesNameTestsThatThereAre
// looks for the latter.
func TestEachLineOfTheThreatModelHasACheckAndATest(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root, "docs", "security.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, model, ok := strings.Cut(string(page), "\n## Threat model\n")
	if !ok {
		t.Fatal("docs/security.md has no threat model")
	}
	model, _, _ = strings.Cut(model, "\n## ")
	lines := 0
	for line := range strings.Lines(model) {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| what |") {
			continue
		}
		lines++
		cells := strings.Split(strings.Trim(line, "| \n"), " | ")
		if n := len(cells); !namedFunc.MatchString(cells[n-2]) || !namedTest.MatchString(cells[n-1]) {
			t.Errorf("no check with its file, or no test: %s", line)
		}
	}
	if lines < 20 {
		t.Errorf("only %d lines", lines)
	}
}
