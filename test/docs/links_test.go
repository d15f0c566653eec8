package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const root = "../.."

// link is a link of Markdown; what is between its parentheses has no spaces here.
var link = regexp.MustCompile(`\]\(([^()\s]+)\)`)

// notInAnchor is what GitHub leaves out of the name of a heading.
var notInAnchor = regexp.MustCompile(`[^\p{L}\p{N} _-]`)

// page is a page of Markdown: where its links lead, and the names of its headings.
type page struct {
	links   []string
	anchors map[string]bool
}

func readPage(t *testing.T, path string) page {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	p := page{anchors: map[string]bool{}}
	fenced := false
	for line := range strings.Lines(string(b)) {
		line = strings.TrimRight(line, "\n")
		if strings.HasPrefix(line, "```") {
			fenced = !fenced
		}
		if fenced || strings.HasPrefix(line, "    ") {
			continue
		}
		if title := strings.TrimLeft(line, "#"); title != line && strings.HasPrefix(title, " ") {
			name := notInAnchor.ReplaceAllString(strings.ToLower(strings.TrimSpace(title)), "")
			p.anchors[strings.ReplaceAll(name, " ", "-")] = true
		}
		for _, l := range link.FindAllStringSubmatch(line, -1) {
			if !strings.Contains(l[1], "://") {
				p.links = append(p.links, l[1])
			}
		}
	}
	return p
}

// allPages returns every page of Markdown in the sources, as paths from here.
func allPages(t *testing.T) []string {
	t.Helper()
	var pages []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "bin" || d.Name() == "dist" || d.Name() == "bench-results"):
			return filepath.SkipDir
		case filepath.Ext(path) == ".md":
			pages = append(pages, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return pages
}

func TestEachLinkOfTheDocumentationLeadsSomewhere(t *testing.T) {
	for _, path := range allPages(t) {
		for _, l := range readPage(t, path).links {
			file, anchor, _ := strings.Cut(l, "#")
			target := path
			if file != "" {
				target = filepath.Join(filepath.Dir(path), file)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s links to %s: %v", path, l, err)
			} else if anchor != "" && !readPage(t, target).anchors[anchor] {
				t.Errorf("%s links to %s: there is no such heading", path, l)
			}
		}
	}
}

func TestAReaderOfTheREADMEGetsToEachPage(t *testing.T) {
	start := filepath.Join(root, "README.md")
	found := map[string]bool{start: true}
	for queue := []string{start}; len(queue) > 0; queue = queue[1:] {
		for _, l := range readPage(t, queue[0]).links {
			file, _, _ := strings.Cut(l, "#")
			target := filepath.Join(filepath.Dir(queue[0]), file)
			if filepath.Ext(target) == ".md" && !found[target] {
				found[target] = true
				queue = append(queue, target)
			}
		}
	}
	pages, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pages {
		if !found[p] {
			t.Errorf("no link leads to %s", p)
		}
	}
}
