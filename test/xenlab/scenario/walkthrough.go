package scenario

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/lab"
)

// Where a step of the walkthrough is typed. The words are the prompts of the transcript.
const (
	atGuest = "guest"
	atDom0  = "dom0"
)

// stepPatience is for how long a step is typed again that waits for something: ten times
// what it takes on a slow machine.
const stepPatience = 3 * time.Minute

// Step is one thing that the new user of the walkthrough does.
type Step struct {
	Say  string // what the transcript has before it, in Markdown
	At   string // atGuest or atDom0
	Run  string // what is typed, for a shell; it may be several lines
	Fail bool   // it must end with an exit code other than 0
	// Want and Not are what its output must have in it, and must not.
	Want, Not []string
	// Until has it typed again until its output is as wanted: what it shows takes time.
	Until bool
}

func walkthrough() Scenario {
	return Scenario{
		Name: "walkthrough",
		Proves: "what docs/walkthrough.md tells a new user, typed in a Debian with systemd: install the package, configure, start, look with every command, " +
			"find the cause of a broken configuration and of a broken backend in status and journal alone, upgrade under traffic, remove",
		Timeout: 10 * time.Minute,
		Takes:   90 * time.Second,
		Run: func(t *T) {
			first, second := buildDeb(t, firstVersion), buildDeb(t, secondVersion)
			u := t.DomU(lab.DomUConfig{
				Name: "guest", Image: lab.ImageDebian, Vifs: []lab.VifConfig{{MAC: "00:16:3e:01:02:03"}},
				Payload: map[string]string{"/root/" + debName(firstVersion): first, "/root/" + debName(secondVersion): second},
			})
			(&debian{t, u}).booted()
			// The image leaves documentation out, and with it the examples.
			shell(t, u.Guest, "echo 'path-include=/usr/share/doc/xnetfrontd/*' >/etc/dpkg/dpkg.cfg.d/zz-examples")
			w := &walk{t: t, u: u}
			w.begin()
			for _, part := range walkthroughParts() {
				for _, s := range part.steps {
					w.step(s)
				}
				if part.then != nil {
					part.then(w)
				}
			}
			path := filepath.Join(t.Dir(), "walkthrough.md")
			t.NoError(os.WriteFile(path, []byte(w.text.String()), 0o644), "write the transcript")
			t.Reportf("transcript: %s", path)
			noFatal(t)
		},
	}
}

func debName(version string) string { return "xnetfrontd_" + version + "_amd64.deb" }

// walk types the steps and writes the transcript.
type walk struct {
	t    *T
	u    *lab.DomU
	text strings.Builder
}

func (w *walk) begin() {
	w.text.WriteString("<!-- Made by `make walkthrough` out of test/xenlab/scenario/walkthrough_steps.go: change it there. -->\n")
	w.text.WriteString("# A new user's first hour\n\n" + walkthroughIntro + "\n")
}

func (w *walk) step(s Step) {
	t := w.t
	g := w.u.Guest
	if s.At == atDom0 {
		g = t.Dom0
	}
	for deadline := time.Now().Add(stepPatience); ; {
		out, ok := w.typed(g, s)
		problem := s.problem(out, ok)
		if problem == "" || !s.Until || time.Now().After(deadline) {
			if problem != "" {
				t.Errorf("%s# %s: %s: %s", s.At, s.Run, problem, out)
			}
			w.write(s, out)
			return
		}
	}
}

// typed runs a step and returns all that it printed, and whether its exit code is 0.
func (w *walk) typed(g *lab.Guest, s Step) (out string, ok bool) {
	const mark = "exit code "
	out, err := g.Run(w.t.Context(), "/bin/sh", "-c", fmt.Sprintf("exec 2>&1\n(\n%s\n)\necho \"%s$?\"", s.Run, mark))
	w.t.NoError(err, s.Run)
	at := strings.LastIndex(out, mark)
	w.t.Require(at >= 0, "%s: it ended without an exit code: %s", s.Run, out)
	w.t.Logf("%s# %s\n%s", s.At, s.Run, out)
	return out[:at], strings.TrimSpace(out[at:]) == mark+"0"
}

// problem says what is not as it should be.
func (s *Step) problem(out string, ok bool) string {
	if ok == s.Fail {
		return fmt.Sprintf("success is %t", ok)
	}
	for _, want := range s.Want {
		if !strings.Contains(out, want) {
			return fmt.Sprintf("there is no %q", want)
		}
	}
	for _, not := range s.Not {
		if strings.Contains(out, not) {
			return fmt.Sprintf("there is %q", not)
		}
	}
	return ""
}

// write adds a step to the transcript.
func (w *walk) write(s Step, out string) {
	if s.Say != "" {
		w.text.WriteString("\n" + s.Say + "\n")
	}
	w.text.WriteString("\n" + s.typing())
	for line := range strings.Lines(strings.TrimRight(out, "\n")) {
		w.text.WriteString(strings.TrimRight("    "+strings.TrimRight(line, " \r\n"), " ") + "\n")
	}
}

// typing is how the transcript shows what is typed.
func (s *Step) typing() string {
	var b strings.Builder
	prompt := "    " + s.At + "# "
	for line := range strings.Lines(s.Run) {
		b.WriteString(strings.TrimRight(prompt+line, "\n") + "\n")
		prompt = "    "
	}
	return b.String()
}
