// Command mutate takes checks out, one at a time, and runs the tests that must fail then: a
// check that no test holds is one that somebody takes out by mistake. Mutants are in
// mutants.go. The tree is not touched: the changed file goes to the compiler as an overlay.
//
//	go run ./test/mutate            # all
//	go run ./test/mutate -only XSA  # those whose name contains it
//	go run ./test/mutate -part 2/8  # the second of eight parts
//
// It fails when fewer than 90 % are killed, or when one survives that is not said to.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// mutant is one change of the code, which one of the tests is to notice.
type mutant struct {
	name     string
	file     string // from the repository's root
	from, to string // from is there once
	tests    string // of the file's package, or of pkg, for go test -run
	pkg      string
	survives string // why none notices it; empty: one must
}

// enough is which part of the mutants must be killed.
const enough = 0.9

// patience is how long a mutant's tests take at most. One that makes them hang is killed.
const patience = 3 * time.Minute

func main() {
	only := flag.String("only", "", "those whose name contains it")
	part := flag.String("part", "1/1", "as 2/8: every eighth of them, from the second on")
	flag.Parse()
	if err := run(*only, *part); err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(1)
	}
}

func run(only, part string) error {
	var first, of int
	if n, err := fmt.Sscanf(part, "%d/%d", &first, &of); n != 2 || err != nil || first < 1 || first > of {
		return fmt.Errorf("-part %s: expected as 2/8", part)
	}
	dir, err := os.MkdirTemp("", "mutate")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	tried, killed := 0, 0
	var wrong []string
	for i, m := range mutants {
		if !strings.Contains(m.name, only) || i%of != first-1 {
			continue
		}
		began := time.Now()
		dead, err := m.try(dir)
		if err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		tried++
		word := "SURVIVES"
		switch {
		case dead:
			killed++
			word = "killed"
			if m.survives != "" {
				wrong = append(wrong, m.name+" is killed, and is said to survive")
			}
		case m.survives == "":
			wrong = append(wrong, m.name+" survives")
		default:
			word = "survives: " + m.survives
		}
		fmt.Printf("%-60s %4.0f s  %s\n", m.name, time.Since(began).Seconds(), word)
	}
	if tried == 0 {
		return fmt.Errorf("no mutant has %q in its name", only)
	}
	fmt.Printf("%d of %d killed\n", killed, tried)
	if len(wrong) > 0 {
		return errors.New(strings.Join(wrong, "; "))
	}
	if float64(killed) < enough*float64(tried) {
		return fmt.Errorf("fewer than %.0f %%", enough*100)
	}
	return nil
}

// try tells whether the mutant's tests fail.
func (m mutant) try(dir string) (killed bool, err error) {
	overlay, err := m.overlay(dir)
	if err != nil {
		return false, err
	}
	pkg := m.pkg
	if pkg == "" {
		pkg = filepath.Dir(m.file)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-overlay", overlay, "-timeout", patience.String(), "-run", m.tests, "./"+pkg)
	out, err := cmd.CombinedOutput()
	switch text := string(out); {
	case strings.Contains(text, "[build failed]") || strings.Contains(text, "[setup failed]"):
		return false, fmt.Errorf("it does not compile:\n%s", text)
	case strings.Contains(text, "no tests to run"):
		return false, fmt.Errorf("there is no test %s", m.tests)
	case err == nil:
		return false, nil
	}
	return true, nil
}

// overlay writes the changed file, and what tells the compiler of it.
func (m mutant) overlay(dir string) (path string, err error) {
	code, err := os.ReadFile(m.file)
	if err != nil {
		return "", fmt.Errorf("%w (it runs in the repository's root)", err)
	}
	if n := strings.Count(string(code), m.from); n != 1 {
		return "", fmt.Errorf("%q is %d times in %s", m.from, n, m.file)
	}
	changed := filepath.Join(dir, "mutant.go")
	if err := os.WriteFile(changed, []byte(strings.Replace(string(code), m.from, m.to, 1)), 0o644); err != nil {
		return "", err
	}
	original, err := filepath.Abs(m.file)
	if err != nil {
		return "", err
	}
	list, err := json.Marshal(map[string]map[string]string{"Replace": {original: changed}})
	if err != nil {
		return "", err
	}
	path = filepath.Join(dir, "overlay.json")
	return path, os.WriteFile(path, list, 0o644)
}
