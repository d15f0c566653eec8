package config

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

const shipped = "../../../../deploy/xnetfrontd.toml"

func readText(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestShippedFileHasEveryKeyWithItsDefault(t *testing.T) {
	// What is commented out begins right after its "#", an explanation after a space.
	text := regexp.MustCompile(`(?m)^#([a-z[])`).ReplaceAllString(readText(t, shipped), "$1")
	path := filepath.Join(t.TempDir(), "x.toml")
	write(t, path, text)
	l, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Vifs = []Vif{NewVif(SelectDevID(0))}
	if !reflect.DeepEqual(l.Config, want) {
		t.Errorf("the values shown are not the defaults:\n got %+v\nwant %+v", l.Config, want)
	}
	for _, k := range allKeys {
		_, inVif := l.vifs[0][k]
		_, outside := l.origins[k]
		// A table has either devid or mac.
		if !inVif && !outside && (k != keyMAC || !strings.Contains(text, "mac = \"")) {
			t.Errorf("%s is not in it", k)
		}
	}
}

// The pages have every key, with the program's default and its range.
func TestPagesHaveEveryKeyAndItsDefault(t *testing.T) {
	def := Default()
	vif := NewVif(SelectDevID(0))
	defaults := map[string]string{keyDevID: "", keyMAC: ""}
	for _, k := range topKeys {
		defaults[k.name] = k.text(&def)
	}
	for _, k := range vifKeys {
		defaults[k.name] = k.text(&vif)
	}
	defaults["vif.tap"] = quote("xnf%d")
	for _, page := range []struct{ path, format string }{
		{"../../../../docs/configuration.md", "| `%s` |"},
		{"../../../../docs/man/xnetfrontd.toml.5.md", "\n**%s**\n"},
	} {
		text := readText(t, page.path)
		for _, k := range allKeys {
			name := k[strings.LastIndexByte(k, '.')+1:]
			heading := strings.Replace(page.format, "%s", name, 1)
			_, entry, ok := strings.Cut(text, heading)
			if !ok {
				t.Errorf("%s: no entry %q for %s", page.path, heading, k)
				continue
			}
			if rows := strings.SplitN(entry, "\n", 8); defaults[k] != "" && !strings.Contains(strings.Join(rows[:len(rows)-1], "\n"), defaults[k]) {
				t.Errorf("%s: %s does not say its default %s", page.path, k, defaults[k])
			}
		}
		for _, name := range Features() {
			if !strings.Contains(text, name) {
				t.Errorf("%s: no feature %s", page.path, name)
			}
		}
	}
}

func TestExamplesInThePagesAreRight(t *testing.T) {
	page := readText(t, "../../../../docs/configuration.md")
	manual := readText(t, "../../../../docs/man/xnetfrontd.toml.5.md")
	examples := regexp.MustCompile("(?s)```toml\n(.*?)```").FindAllStringSubmatch(page, -1)
	examples = append(examples, regexp.MustCompile(`(?m)((?:^    .*\n|^\n)+)`).FindAllStringSubmatch(manual, -1)...)
	loaded := 0
	for _, e := range examples {
		if strings.TrimSpace(e[1]) == "" {
			continue
		}
		path := filepath.Join(t.TempDir(), "x.toml")
		write(t, path, e[1])
		if _, err := Load(path); err != nil {
			t.Errorf("%v:\n%s", err, e[1])
		}
		loaded++
	}
	if loaded < 7 {
		t.Errorf("only %d examples", loaded)
	}
}
