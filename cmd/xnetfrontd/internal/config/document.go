package config

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// document is the content of one file, in its order, with the place of each value. The checks
// come later. go-toml's own decoder stops at the first value of a wrong type, and does not
// keep the lines of the others.
type document struct {
	path     string
	settings []setting // outside of [[vif]]
	vifs     []vifTable
	problems Problems
}

// setting is one key and its value.
type setting struct {
	key   string // vif.mtu
	value value
	where Origin
}

// vifTable is a [[vif]] table of one file.
type vifTable struct {
	where    Origin
	settings []setting
}

// value is a TOML value: its text, without quotes if it is a string, or its elements.
type value struct {
	kind unstable.Kind
	text string
	list []value
	raw  string // as it was written, on one line
}

func stringValue(text string) value {
	return value{kind: unstable.String, text: text, raw: printable(text)}
}

func (v value) isString() bool  { return v.kind == unstable.String }
func (v value) isInteger() bool { return v.kind == unstable.Integer }
func (v value) isList() bool    { return v.kind == unstable.Array }

// shown is the value as an error shows it.
func (v value) shown() string {
	if v.isString() {
		return printable(v.text)
	}
	return v.raw
}

// unquoted is shown, without the quotes of a string.
func (v value) unquoted() string {
	if v.isString() && v.text != "" {
		return shortened(v.text)
	}
	return v.raw
}

// parse reads a file's text. If that is no TOML, it reports this problem alone.
func parse(path string, text []byte) *document {
	d := &document{path: path}
	if line, err := syntax(text); err != nil {
		d.problems = Problems{&complaint{Origin{path, line}, err.Error()}}
		return d
	}
	r := &reader{document: d}
	r.parser.Reset(text)
	for r.parser.NextExpression() {
		r.expression(r.parser.Expression())
	}
	if err := r.parser.Error(); err != nil { // syntax has let it pass
		d.problems = append(d.problems, fmt.Errorf("%s: not TOML: %s", plain(path), plain(err.Error())))
	}
	return d
}

// syntax reports an error of the text as TOML, and its line. It also finds a key that is there
// twice.
func syntax(text []byte) (line int, err error) {
	if bytes.HasPrefix(text, []byte("\xef\xbb\xbf")) {
		return 1, errors.New("not TOML: it begins with a byte order mark: save it as UTF-8 without one")
	}
	for i, row := range bytes.Split(text, []byte("\n")) {
		if !utf8.Valid(row) {
			return i + 1, fmt.Errorf("not TOML: it is not UTF-8: %s", printable(string(row)))
		}
	}
	err = toml.Unmarshal(text, &struct{}{})
	var e *toml.DecodeError
	if !errors.As(err, &e) {
		return 1, err
	}
	line, _ = e.Position()
	return line, fmt.Errorf("not TOML: %s", plain(strings.TrimPrefix(e.Error(), "toml: ")))
}

// reader goes through the expressions of a document.
type reader struct {
	*document
	parser unstable.Parser
	table  []string // in which the reader is
	skip   bool     // there is no such table
}

func (r *reader) expression(e *unstable.Node) {
	path, where := r.key(e.Key())
	if e.Kind == unstable.KeyValue {
		if !r.skip {
			r.keyValue(append(slices.Clone(r.table), path...), where, e.Value())
		}
		return
	}
	r.table, r.skip = path, true
	array, name := e.Kind == unstable.ArrayTable, dotted(path)
	switch {
	case name == "vif" && array:
		r.vifs = append(r.vifs, vifTable{where: where})
		r.skip = false
	case name == "vif":
		r.problem(Problem{where, name, "[vif]", wantVif})
	case wantTable(name) != "" && array:
		r.problem(Problem{where, name, "[[" + name + "]]", wantTable(name)})
	case wantTable(name) != "":
		r.skip = false
	case slices.Contains(allKeys, name):
		r.problem(Problem{where, name, "[" + name + "]", "a value and not a table"})
	default:
		r.unknown(where, path)
	}
}

// keyValue takes over a key, and the keys of an inline table.
func (r *reader) keyValue(path []string, where Origin, node *unstable.Node) {
	v := r.value(node)
	name := dotted(path)
	switch {
	case v.kind == unstable.InlineTable && wantTable(name) != "":
		r.inline(path, node)
	case name == "vif" && v.isList() && !slices.ContainsFunc(v.list, func(e value) bool { return e.kind != unstable.InlineTable }):
		for it := node.Children(); it.Next(); {
			r.vifs = append(r.vifs, vifTable{where: where})
			r.inline(path, it.Node())
		}
	case name == "vif":
		r.problem(Problem{where, name, v.raw, wantVif})
	case wantTable(name) != "":
		r.problem(Problem{where, name, v.raw, wantTable(name)})
	case !slices.Contains(allKeys, name):
		r.unknown(where, path)
	case path[0] == "vif" && len(r.vifs) == 0: // vif.mtu = 1500 at the top
		r.problem(Problem{where, name, v.raw, "it in a [[vif]] table"})
	case path[0] == "vif":
		last := &r.vifs[len(r.vifs)-1]
		last.settings = append(last.settings, setting{name, v, where})
	default:
		r.settings = append(r.settings, setting{name, v, where})
	}
}

func (r *reader) inline(path []string, table *unstable.Node) {
	for it := table.Children(); it.Next(); {
		key, where := r.key(it.Node().Key())
		r.keyValue(append(slices.Clone(path), key...), where, it.Node().Value())
	}
}

// key returns the parts of a key, and where the first of them stands.
func (r *reader) key(it unstable.Iterator) (path []string, where Origin) {
	for it.Next() {
		if n := it.Node(); path == nil {
			where = Origin{r.path, r.parser.Shape(n.Raw).Start.Line}
		}
		path = append(path, string(it.Node().Data))
	}
	return path, where
}

// value copies a node's value, since the parser writes over it.
func (r *reader) value(n *unstable.Node) value {
	v := value{kind: n.Kind, text: string(n.Data)}
	switch n.Kind {
	case unstable.InlineTable:
		v.raw = "{...}"
	case unstable.Array:
		var raws []string
		for it := n.Children(); it.Next(); {
			e := r.value(it.Node())
			v.list, raws = append(v.list, e), append(raws, e.raw)
		}
		v.raw = shortened("[" + strings.Join(raws, ", ") + "]")
	default:
		v.raw = shortened(string(r.parser.Raw(n.Raw)))
	}
	return v
}

// shortened is the text of a value, short enough for a line.
func shortened(text string) string {
	if len(text) > maxShown {
		return printable(text)
	}
	return plain(text)
}

func (r *reader) problem(p Problem) { r.problems = append(r.problems, &p) }

// unknown reports a key that does not exist, by the table that has it.
func (r *reader) unknown(where Origin, path []string) {
	table, place := "", "at the top level"
	if len(path) > 1 && (wantTable(path[0]) != "" || path[0] == "vif") {
		table, place = path[0], "in ["+path[0]+"]"
	}
	text := fmt.Sprintf("unknown key %s: expected one of %s %s", shortened(dotted(path)), strings.Join(keysOf(table), ", "), place)
	r.problems = append(r.problems, &complaint{where, text})
}

// dotted is a key as [setting] has it. Quotes keep a part with a dot from looking like two.
func dotted(path []string) string {
	parts := slices.Clone(path)
	for i, p := range parts {
		if p == "" || strings.Contains(p, ".") {
			parts[i] = quote(p)
		}
	}
	return strings.Join(parts, ".")
}
