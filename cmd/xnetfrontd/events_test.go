package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/xnetfrontd/xnetfrontd/internal/needs"
)

// eventSources are the files with the constants of events.
var eventSources = []string{
	"internal/daemon/events.go", "internal/logging/events.go", "../../pkg/netfront/events.go", "../../internal/hold/events.go",
	"internal/journal/entry.go", "internal/metrics/events.go",
}

// events returns the names of the constants of events, by value.
func events(t *testing.T) map[string]string {
	t.Helper()
	names := map[string]string{}
	for _, path := range eventSources {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for node := range ast.Preorder(file) {
			spec, ok := node.(*ast.ValueSpec)
			if !ok || len(spec.Values) != 1 || !strings.HasPrefix(strings.ToLower(spec.Names[0].Name), "event") {
				continue
			}
			literal, ok := spec.Values[0].(*ast.BasicLit)
			if !ok {
				t.Fatalf("%s: %s is no text", path, spec.Names[0])
			}
			id, err := strconv.Unquote(literal.Value)
			if err != nil {
				t.Fatal(err)
			}
			if other, twice := names[id]; twice {
				t.Errorf("%s and %s are the same event", spec.Names[0], other)
			}
			names[id] = spec.Names[0].Name
		}
	}
	return names
}

var (
	messageID  = regexp.MustCompile(`^[0-9a-f]{32}$`)
	tableRow   = regexp.MustCompile("(?m)^\\| [^|]+ \\| `([0-9a-f]+)` \\| (error|warning|info) \\| [^|]* \\| [^|]+ \\|$")
	catalogRow = regexp.MustCompile(`(?m)^-- ([0-9a-f]+)$`)
)

// ids returns what re finds in a file, each once.
func ids(t *testing.T, path string, re *regexp.Regexp) []string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, m := range re.FindAllStringSubmatch(string(text), -1) {
		if slices.Contains(list, m[1]) {
			t.Errorf("%s has %s twice", path, m[1])
		}
		list = append(list, m[1])
	}
	slices.Sort(list)
	return list
}

func TestEachEventIsInTheDocumentAndInTheCatalog(t *testing.T) {
	names := events(t)
	want := slices.Sorted(maps.Keys(names))
	for _, id := range want {
		if !messageID.MatchString(id) {
			t.Errorf("%s is %q, want 32 hexadecimal digits", names[id], id)
		}
	}
	for path, re := range map[string]*regexp.Regexp{
		"../../docs/log.md": tableRow, "../../deploy/catalog/xnetfrontd.catalog": catalogRow,
	} {
		got := ids(t, path, re)
		for _, id := range want {
			if !slices.Contains(got, id) {
				t.Errorf("%s lacks %s, %s", path, names[id], id)
			}
		}
		for _, id := range got {
			if names[id] == "" {
				t.Errorf("%s has %s, which is no event", path, id)
			}
		}
	}
}

// The levels that a call of the logger can have, as the document names them.
var levels = map[string]string{"Info": "info", "Warn": "warning", "Error": "error"}

func TestEachEventIsLoggedWithItsDocumentedPriority(t *testing.T) {
	documented := map[string]string{}
	text, err := os.ReadFile("../../docs/log.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range tableRow.FindAllStringSubmatch(string(text), -1) {
		documented[m[1]] = m[2]
	}
	byName := map[string]string{}
	for id, name := range events(t) {
		byName[name] = documented[id]
	}
	logs := 0
	for _, dir := range []string{"internal/daemon", "internal/heldvif", "internal/logging", "../../pkg/netfront", "../../internal/hold"} {
		paths, err := filepath.Glob(dir + "/*.go")
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			for node := range ast.Preorder(file) {
				name, level := logged(node)
				if name == "" {
					continue
				}
				if logs++; level != byName[name] {
					t.Errorf("%s logs %s as %s, documented is %s", path, name, level, byName[name])
				}
			}
		}
	}
	if logs < len(byName)/2 {
		t.Errorf("only %d calls of the logger were found", logs)
	}
}

// logged returns the event of a call of the logger, and its level.
func logged(node ast.Node) (name, level string) {
	call, ok := node.(*ast.CallExpr)
	if !ok {
		return "", ""
	}
	method, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || levels[method.Sel.Name] == "" {
		return "", ""
	}
	for _, arg := range call.Args {
		f, ok := arg.(*ast.CallExpr)
		if !ok || strings.ToLower(lastName(f.Fun)) != "event" {
			continue
		}
		if name := lastName(f.Args[0]); strings.HasPrefix(strings.ToLower(name), "event") {
			return name, levels[method.Sel.Name]
		}
	}
	return "", ""
}

// lastName is a name without the package that it is of.
func lastName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	}
	return ""
}

func TestJournalctlReadsTheCatalog(t *testing.T) {
	needs.Program(t, "journalctl")
	catalog, err := os.ReadFile("../../deploy/catalog/xnetfrontd.catalog")
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	for _, dir := range []string{"/usr/lib/systemd/catalog", "/var/lib/systemd/catalog"} {
		if err := os.MkdirAll(root+dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	writeFile(t, root+"/usr/lib/systemd/catalog/xnetfrontd.catalog", string(catalog))
	if out, err := exec.Command("journalctl", "--root="+root, "--update-catalog").CombinedOutput(); err != nil || len(out) != 0 {
		t.Fatalf("update: %v: %s", err, out)
	}
	for id, name := range events(t) {
		out, err := exec.Command("journalctl", "--root="+root, "--dump-catalog", id).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "Subject: ") {
			t.Errorf("%s is not explained: %v: %s", name, err, out)
		}
	}
}
