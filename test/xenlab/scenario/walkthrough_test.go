package scenario

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/xnetfrontd/xnetfrontd/test/docs"
)

func TestTheWalkthroughInTheDocsIsOfTheseSteps(t *testing.T) {
	b, err := os.ReadFile("../../../docs/walkthrough.md")
	if err != nil {
		t.Fatal(err)
	}
	rest := string(b)
	for _, s := range Walkthrough() {
		for _, part := range []string{s.Say, s.typing()} {
			_, after, ok := strings.Cut(rest, part)
			if !ok {
				t.Fatalf("docs/walkthrough.md does not have, in its place:\n%s\nmake walkthrough makes it anew", part)
			}
			rest = after
		}
	}
}

const root = "../../.."

func TestEachCommandOfTheDocumentationIsRun(t *testing.T) {
	pages, err := docs.Pages(root)
	if err != nil {
		t.Fatal(err)
	}
	unused := elsewhere()
	for _, page := range pages {
		if slices.Contains(guestPages(), page) {
			continue
		}
		shown, err := docs.Commands(root, page)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range shown {
			if _, ok := elsewhere()[c.Text]; !ok {
				t.Errorf("%s: nothing runs it", c)
			}
			delete(unused, c.Text)
		}
	}
	for c := range unused {
		t.Errorf("no page shows %q any more", c)
	}
	for c, p := range elsewhere() {
		if p.file == "" {
			continue
		}
		if b, err := os.ReadFile(root + "/" + p.file); err != nil || !strings.Contains(string(b), p.text) {
			t.Errorf("%s: %s does not run it: there is no %q, %v", c, p.file, p.text, err)
		}
	}
}
