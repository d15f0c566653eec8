package scenario

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

const docsPath = "../../../docs/testing-on-xen.md"

func TestTheTableInTheDocsIsThatOfTheScenarios(t *testing.T) {
	b, err := os.ReadFile(docsPath)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "<!-- scenarios -->\n")
	got, _, ok := strings.Cut(rest, "<!-- end of scenarios -->")
	if !ok {
		t.Fatalf("%s has no table between its two comments", docsPath)
	}
	want := "\n| scenario | proves |\n|---|---|\n"
	for _, s := range All() {
		want += fmt.Sprintf("| `%s` | %s |\n", s.Name, s.Proves)
	}
	want += "\n"
	if got != want {
		t.Errorf("%s is not the table of the scenarios; it must be:\n%s", docsPath, want)
	}
}

func TestEveryScenarioHasAWordForANameAndSaysWhatItProves(t *testing.T) {
	names := map[string]bool{}
	for _, s := range All() {
		if s.Name == "" || strings.ContainsAny(s.Name, " ,\t|") || names[s.Name] {
			t.Errorf("name %q: want a word of its own", s.Name)
		}
		names[s.Name] = true
		if s.Run == nil || s.Proves == "" || strings.ContainsAny(s.Proves, "|\n") || strings.HasSuffix(s.Proves, ".") {
			t.Errorf("%s proves %q: want one sentence for a table, without its full stop", s.Name, s.Proves)
		}
	}
}
