package docs

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func run(t *testing.T, dir, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

// What is not ready for a release is refused in one line, before anything is built.
func TestReleaseThatIsNotReadyIsRefused(t *testing.T) {
	dir := t.TempDir()
	script, err := os.ReadFile(filepath.Join(root, "tools", "release.sh"))
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write("tools/release.sh", string(script))
	write("CHANGELOG.md", "# Changes\n\n## Unreleased\n\n- a change\n")
	git := func(args ...string) {
		t.Helper()
		run(t, dir, "git", append([]string{"-c", "user.name=test", "-c", "user.email=test@example.org"}, args...)...)
	}
	git("init", "-q")
	git("add", ".")
	git("commit", "-q", "-m", "begin")
	refused := func(version, want string) {
		t.Helper()
		out, err := exec.Command(filepath.Join(dir, "tools", "release.sh"), version).CombinedOutput()
		if err == nil || !strings.Contains(string(out), want) || strings.Count(string(out), "\n") != 1 {
			t.Errorf("%q: %v, %q; want one line with %q", version, err, out, want)
		}
	}
	refused("", `"" is no version`)
	refused("1.2.3", `"1.2.3" is no version`)
	refused("v1.2.3", "no tag v1.2.3")
	git("tag", "v1.2.3")
	refused("v1.2.3", `nothing under "## 1.2.3"`)
	write("CHANGELOG.md", "# Changes\n\n## 1.2.3\n\n- a change\n")
	refused("v1.2.3", "not committed")
	git("commit", "-q", "-a", "-m", "name the release")
	refused("v1.2.3", "no tag v1.2.3")
}

// A public host runs what anybody can run.
func TestWorkflowsRunTargetsThatThereAre(t *testing.T) {
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(root, ".github", "workflows", "*.yml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no workflows: %v", err)
	}
	calls := 0
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`run: .*\bmake ([a-z-]+)`).FindAllStringSubmatch(string(text), -1) {
			calls++
			if !strings.Contains(string(makefile), "\n"+m[1]+":") {
				t.Errorf("%s: there is no target %s", f, m[1])
			}
		}
		for _, m := range regexp.MustCompile(`uses: (\S+)`).FindAllStringSubmatch(string(text), -1) {
			if !regexp.MustCompile(`@[0-9a-f]{40}$`).MatchString(m[1]) {
				t.Errorf("%s: %s is not pinned to a commit", f, m[1])
			}
		}
	}
	if calls == 0 {
		t.Error("the workflows call no target")
	}
}
