package config

import (
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// lines knows where the keys of a document stand: go-toml forgets it once a value
// has been decoded, and a value out of range is found only then.
type lines struct {
	top    map[string]int   // by key, log.level
	header []int            // of each [[vif]]
	vif    []map[string]int // the keys in it, by key
}

// newLines indexes a document that is known to parse. Keys inside of inline tables
// have the line of the key outside.
func newLines(doc []byte) *lines {
	l := &lines{top: map[string]int{}}
	var p unstable.Parser
	p.Reset(doc)
	table := ""
	for p.NextExpression() {
		e := p.Expression()
		key, line := keyOf(&p, e)
		switch e.Kind {
		case unstable.ArrayTable, unstable.Table:
			table = key
			if key == "vif" {
				l.header = append(l.header, line)
				l.vif = append(l.vif, map[string]int{})
			}
		case unstable.KeyValue:
			if table != "" {
				key = table + "." + key
			}
			if n := len(l.vif); table == "vif" && n > 0 {
				l.vif[n-1][key] = line
				continue
			}
			l.top[key] = line
		}
	}
	return l
}

// keyOf returns an expression's dotted key and the line of its first part.
func keyOf(p *unstable.Parser, e *unstable.Node) (string, int) {
	var parts []string
	line := 1
	for it := e.Key(); it.Next(); {
		if n := it.Node(); len(parts) == 0 {
			line = p.Shape(n.Raw).Start.Line
		}
		parts = append(parts, string(it.Node().Data))
	}
	return strings.Join(parts, "."), line
}

// of returns the line of a problem: its key's, or the next one outside.
func (l *lines) of(p *Problem) int {
	if p.Vif >= 0 && p.Vif < len(l.header) {
		if line, ok := l.vif[p.Vif][p.Key]; ok {
			return line
		}
		return l.header[p.Vif]
	}
	for key := p.Key; ; {
		if line, ok := l.top[key]; ok {
			return line
		}
		i := strings.LastIndexByte(key, '.')
		if i < 0 {
			return 1
		}
		key = key[:i]
	}
}
