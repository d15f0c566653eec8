package docs

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// phrases are what a text has, and has not, by which a licence is known. No other
// licence is linked into the program without a decision.
var phrases = map[string]struct{ has, hasNot string }{
	"Apache-2.0":   {"Apache License Version 2.0", "Mozilla"},
	"BSD-2-Clause": {"Redistribution and use in source and binary forms", "either the name"},
	"BSD-3-Clause": {"either the name", "Mozilla"},
	"MIT":          {"Permission is hereby granted, free of charge", "advertising materials"},
	"MPL-2.0":      {"Mozilla Public License, version 2.0", "Apache License"},
}

func TestListOfLicencesIsThatOfTheLinkedModules(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "deploy", "packages", "licences"))
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		path, licence, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok || listed[path] != "" {
			t.Errorf("%q is no line of a module and its licence, or its second one", line)
		}
		listed[path] = licence
	}
	cmd := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{.Path}} {{.Dir}}{{end}}", "./cmd/xnetfrontd")
	cmd.Dir, cmd.Env = root, append(os.Environ(), "GOOS=linux")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	linked := map[string]bool{"std": true}
	for line := range strings.Lines(string(out)) {
		path, dir, _ := strings.Cut(strings.TrimSpace(line), " ")
		if path == "" || linked[path] {
			continue
		}
		linked[path] = true
		want, known := phrases[listed[path]]
		if !known {
			t.Errorf("%s is listed with licence %q, which is none of those that are known", path, listed[path])
			continue
		}
		if got := licenceText(t, dir); !strings.Contains(got, want.has) || strings.Contains(got, want.hasNot) {
			t.Errorf("the licence of %s does not read like %s: %.200s", path, listed[path], got)
		}
	}
	for _, path := range slices.Sorted(maps.Keys(listed)) {
		if !linked[path] {
			t.Errorf("%s is listed and not linked", path)
		}
	}
}

// licenceText is what a module says of its licence, with one space between words.
func licenceText(t *testing.T, dir string) string {
	t.Helper()
	var all []byte
	for _, name := range []string{"LICENSE*", "LICENCE*", "COPYING*"} {
		paths, err := filepath.Glob(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, b...)
		}
	}
	return strings.Join(strings.Fields(string(all)), " ")
}
