package config

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// shownKey is one key for the output. Its value is valid TOML and JSON.
type shownKey struct {
	name string // mtu
	text string
	from Origin
}

// shownTable is a table, or the keys outside of all tables.
type shownTable struct {
	name string // log; empty: outside of all
	from Origin // of a [[vif]] table
	keys []shownKey
}

// tables are all tables with all keys, even those that the files leave out.
func (l *Loaded) tables() []shownTable {
	var all []shownTable
	for _, k := range topKeys {
		table, name, nested := strings.Cut(k.name, ".")
		if !nested {
			table, name = "", table
		}
		if len(all) == 0 || all[len(all)-1].name != table {
			all = append(all, shownTable{name: table})
		}
		last := &all[len(all)-1]
		last.keys = append(last.keys, shownKey{name, k.text(&l.Config), l.origins[k.name]})
	}
	for i := range l.Vifs {
		all = append(all, l.vifTable(i))
	}
	return all
}

func (l *Loaded) vifTable(i int) shownTable {
	v, from := &l.Vifs[i], l.vifs[i]
	short := func(name string) string { return strings.TrimPrefix(name, "vif.") }
	selector := quote(v.Match.String())
	if _, ok := v.Match.DevID(); ok {
		selector = v.Match.String()
	}
	t := shownTable{name: "vif", from: from["vif"]}
	t.keys = append(t.keys, shownKey{short(matchKey(v.Match)), selector, from[matchKey(v.Match)]})
	for _, k := range vifKeys {
		t.keys = append(t.keys, shownKey{short(k.name), k.text(v), from[k.name]})
	}
	return t
}

// WriteTOML writes the configuration as a file with every key, and a comment with the origin
// behind each. The file, read again, gives the same configuration.
func (l *Loaded) WriteTOML(w io.Writer) error {
	var b strings.Builder
	if len(l.Files) > 0 {
		b.WriteString("# In the order in which they count:\n")
		for _, f := range l.Files {
			fmt.Fprintf(&b, "# %s\n", plain(f))
		}
		b.WriteByte('\n')
	}
	for _, t := range l.tables() {
		switch t.name {
		case "":
		case "vif":
			fmt.Fprintf(&b, "\n[[vif]] # %s\n", t.from)
		default:
			fmt.Fprintf(&b, "\n[%s]\n", t.name)
		}
		for _, k := range t.keys {
			fmt.Fprintf(&b, "%s = %s # %s\n", k.name, k.text, k.from)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// asJSON is the configuration as [Loaded.WriteJSON] writes it.
type asJSON struct {
	Files []string             `json:"files"`
	Keys  map[string]jsonKey   `json:"keys"` // those outside of [[vif]], log.level
	Vif   []map[string]jsonKey `json:"vif"`
}

type jsonKey struct {
	Value json.RawMessage `json:"value"` // a string, a number or a list of strings
	From  string          `json:"from"`  // default, command line, or path:line
}

// WriteJSON writes the same as one JSON object.
func (l *Loaded) WriteJSON(w io.Writer) error {
	all := asJSON{Files: append([]string{}, l.Files...), Keys: map[string]jsonKey{}}
	for _, t := range l.tables() {
		prefix, keys := "", all.Keys
		if t.name == "vif" {
			keys = map[string]jsonKey{}
			all.Vif = append(all.Vif, keys)
		} else if t.name != "" {
			prefix = t.name + "."
		}
		for _, k := range t.keys {
			keys[prefix+k.name] = jsonKey{json.RawMessage(k.text), k.from.String()}
		}
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(all)
}
