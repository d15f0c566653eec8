package control_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/xnetfrontd/xnetfrontd/pkg/control"
)

func readPage(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../../docs/control-socket.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestProgramInTheDocumentationCompiles(t *testing.T) {
	_, rest, ok := strings.Cut(readPage(t), "```go\n")
	source, _, closed := strings.Cut(rest, "```")
	if !ok || !closed {
		t.Fatal("the page has no program")
	}
	file := filepath.Join(t.TempDir(), "main.go")
	if err := os.WriteFile(file, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	// Here, so that the package is that of this module.
	if out, err := exec.Command("go", "vet", file).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// fieldNames adds the names that a type has in JSON, and those of what is in it.
func fieldNames(t reflect.Type, names map[string]bool, seen map[reflect.Type]bool) {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		fieldNames(t.Elem(), names, seen)
	case reflect.Struct:
		if seen[t] {
			return
		}
		seen[t] = true
		for i := range t.NumField() {
			f := t.Field(i)
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if f.IsExported() && name != "-" {
				names[name] = true
				fieldNames(f.Type, names, seen)
			}
		}
	}
}

func TestFieldsInTheDocumentationAreThoseOfTheTypes(t *testing.T) {
	names := map[string]bool{}
	fieldNames(reflect.TypeFor[control.Response](), names, map[reflect.Type]bool{})
	_, rest, _ := strings.Cut(readPage(t), "## Fields of note")
	section, _, _ := strings.Cut(rest, "## Limits")
	code := regexp.MustCompile("`([^`]+)`")
	n := 0
	for row := range strings.Lines(section) {
		if !strings.HasPrefix(row, "| `") {
			continue
		}
		for _, m := range code.FindAllStringSubmatch(row, -1) {
			for part := range strings.SplitSeq(m[1], ".") {
				n++
				if name := strings.TrimSuffix(part, "[]"); !names[name] {
					t.Errorf("no field %q: %s", name, row)
				}
			}
		}
	}
	if n < 40 {
		t.Errorf("only %d names are in the tables", n)
	}
}

func TestExamplesInTheDocumentationAreRequestsAndResponses(t *testing.T) {
	n := 0
	for line := range strings.Lines(readPage(t)) {
		request, isRequest := strings.CutPrefix(line, "    → ")
		response, isResponse := strings.CutPrefix(line, "    ← ")
		var err error
		switch {
		case isRequest:
			err = json.Unmarshal([]byte(request), new(control.Request))
		case isResponse:
			err = json.Unmarshal([]byte(strings.Replace(response, "[...]", "[]", 1)), new(control.Response))
		default:
			continue
		}
		n++
		if err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
	if n < 4 {
		t.Errorf("only %d examples", n)
	}
}

// A monitoring tool imports the client, and not the driver with its kernel interfaces.
func TestClientNeedsNeitherTheDriverNorOtherModules(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	const pkg = "github.com/xnetfrontd/xnetfrontd/pkg/"
	if got := strings.Fields(string(out)); !slices.Equal(got, []string{pkg + "xen/ring", pkg + "control"}) {
		t.Errorf("it needs %q", got)
	}
}
