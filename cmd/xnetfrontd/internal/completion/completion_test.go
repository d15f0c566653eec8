package completion_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/completion"
)

// cli is a command line with all that can be completed.
type cli struct {
	Version bool `short:"v"`
	Show    struct {
		Thing  string `arg:"" complete:"thing"`
		Kind   string `arg:"" enum:"round,square"`
		Color  string `short:"c" enum:"red,green" default:"red"`
		Like   string `complete:"thing"`
		File   string `short:"f"`
		Force  bool
		Secret string `hidden:""`
	} `cmd:""`
	Set struct {
		On  struct{} `cmd:""`
		Off struct{} `cmd:""`
	} `cmd:""`
	Attic struct{} `cmd:"" hidden:""`
}

// things are a Source that is sensitive to the line.
func things(l completion.Line) []string {
	if slices.Contains(l.Words, "--force") {
		return []string{"forced"}
	}
	return []string{"house", "horse", "tree"}
}

func candidates(t *testing.T, line, point string) string {
	t.Helper()
	parser, err := kong.New(new(cli))
	if err != nil {
		t.Fatal(err)
	}
	found := completion.Candidates(parser.Model.Node, completion.Parse(line, point), map[string]completion.Source{"thing": things})
	return strings.Join(found, " ")
}

func TestNextWordIsACommandAFlagOrAValue(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		{"x ", "set show"},
		{"x s", "set show"},
		{"x se", "set"},
		{"x at", ""}, // hidden
		{"x set ", "off on"},
		{"x set of", "off"},
		{"x -", "--help --version -h -v"},
		{"x show -", "--color --file --force --help --like --version -c -f -h -v"},
		{"x show --f", "--file --force"},
		{"x show --se", ""}, // hidden

		{"x show ", "horse house tree"},
		{"x show ho", "horse house"},
		{"x show house ", "round square"},
		{"x show house round ", ""},
		{"x show --force ", "forced"},
		{"x --version show ho", "horse house"},

		{"x show --color ", "green red"},
		{"x show -c g", "green"},
		{"x show --color=", "green red"},
		{"x show --color=r", "red"},
		{"x show --like t", "tree"},
		{"x show --file ", ""}, // the shell offers files
		{"x show --file", "--file"},
		{"x show --secret ", ""},

		{"x show --color red ho", "horse house"},
		{"x show --color=red house ", "round square"},
		{"x show -f set house r", "round"}, // the value of a flag is no command
		{"x show --unknown house r", "round"},
		{"x show -- -", ""}, // no flag comes after that
		{"x show -- house ", "round square"},

		{"", "set show"},
		{"x", "set show"},
		{"   ", "set show"},
		{"x \t show\tho", "horse house"},
	} {
		if got := candidates(t, c.line, ""); got != c.want {
			t.Errorf("%q: %q, want %q", c.line, got, c.want)
		}
	}
}

func TestLineEndsAtTheCursor(t *testing.T) {
	const line = "x show ho --force"
	for point, want := range map[string]string{
		"9": "horse house", "3": "set show", "17": "--force", "999": "--force", "-1": "--force", "": "--force", "here": "--force",
	} {
		if got := candidates(t, line, point); got != want {
			t.Errorf("cursor at %q: %q, want %q", point, got, want)
		}
	}
}

// Whatever is typed, there is an answer.
func FuzzCandidates(f *testing.F) {
	f.Add("x show --color=", "3")
	f.Add("x = -- -=", "")
	f.Fuzz(func(t *testing.T, line, point string) { candidates(t, line, point) })
}
