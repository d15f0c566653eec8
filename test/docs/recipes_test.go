package docs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A page says what was seen, where in the kernel, and what helps. How to bring it about
// again is for the kernel's maintainers alone.
func TestPagesAboutFaultsOfKernelsHaveNoProgramsAndNoCommands(t *testing.T) {
	pages, err := filepath.Glob("../../docs/kernel-bugs/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatalf("%d pages: %v", len(pages), err)
	}
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if strings.HasPrefix(line, "    ") || strings.HasPrefix(line, "\t") || strings.HasPrefix(line, "```") {
				t.Errorf("%s has a block of code: %s", filepath.Base(page), strings.TrimSpace(line))
			}
		}
	}
}
