package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// placeholder is what stands for a value in a message that a page quotes.
var placeholder = regexp.MustCompile(`\.\.\.|\b(FILE|LINE|KEY|VALUE)\b|"[^"]*"|[0-9][0-9a-z/]*`)

// fixedWords is how long a piece of a message must be to tell it from others.
const fixedWords = 8

// programText is the source code of the program and its packages, without tests.
func programText(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, dir := range []string{"cmd", "pkg", "internal"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
				return err
			}
			b, err := os.ReadFile(path)
			all.Write(b)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all.String()
}

// symptoms are what the first cells of a page's tables show as code, but for commands.
func symptoms(t *testing.T, path string) []string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	lines := strings.Split(string(b), "\n")
	for i, line := range lines[:len(lines)-1] {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(lines[i+1], "|---") {
			continue
		}
		cell, _, _ := strings.Cut(line[2:], " | ")
		for j, span := range strings.Split(cell, "`") {
			if j%2 == 1 && !strings.HasPrefix(span, "xnetfrontd ") {
				all = append(all, span)
			}
		}
	}
	return all
}

func TestTroubleshootQuotesWhatTheProgramSays(t *testing.T) {
	said := programText(t)
	quoted := symptoms(t, filepath.Join(root, "docs", "troubleshoot.md"))
	if len(quoted) < 30 {
		t.Fatalf("only %d messages are quoted: %q", len(quoted), quoted)
	}
	for _, q := range quoted {
		for _, words := range placeholder.Split(q, -1) {
			if words = strings.Trim(words, " :"); len(words) >= fixedWords && !strings.Contains(said, words) {
				t.Errorf("%q: the program never says %q", q, words)
			}
		}
	}
}
