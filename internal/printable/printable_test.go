package printable

import (
	"encoding/json"
	"testing"
	"unicode"
)

// evil is what terminals act on: ESC sequences, C1 in both forms, a bell, a backspace, a
// line that is written over, and text that runs the other way.
const evil = "a\x1b]0;title\x07\u009b2Jb\x9b2J\bc\rd\u202ee\x00f\x7fg"

func TestNothingHiddenIsLeftInText(t *testing.T) {
	for name, c := range map[string]struct{ got, want string }{
		"text":         {Text("one\ntwo: " + evil), "one\ntwo: a?]0;title??2Jb\ufffd2J?c?d?e?f?g"},
		"line":         {Line("one\ntwo\r\nthree\x1b[2J"), "one; two; three?[2J"},
		"plain":        {Text("vif 0 on xnf0: prüfe 10 %\n"), "vif 0 on xnf0: prüfe 10 %\n"},
		"nothing":      {Line("\n"), ""},
		"a tab":        {Line("a\tb"), "a?b"},
		"empty string": {Text(""), ""},
	} {
		if c.got != c.want {
			t.Errorf("%s: %q, want %q", name, c.got, c.want)
		}
	}
}

func TestJSONKeepsItsValueAndHidesNothing(t *testing.T) {
	in := map[string]string{evil: "\U000e0001" + evil, "plain": "prüfe <&>"}
	doc, err := json.MarshalIndent(in, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	clean := JSON(doc)
	for _, r := range string(clean) {
		if r != '\n' && r != '\t' && !unicode.IsPrint(r) {
			t.Errorf("%U is left in %s", r, clean)
		}
	}
	var was, is map[string]string
	if err := json.Unmarshal(doc, &was); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(clean, &is); err != nil {
		t.Fatalf("%v: %s", err, clean)
	}
	for k := range was {
		if was[k] != is[k] {
			t.Errorf("%q is %q, was %q", k, is[k], was[k])
		}
	}
}
