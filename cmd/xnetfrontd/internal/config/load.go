package config

import (
	"slices"
	"strconv"
	"strings"
)

// Loaded is a configuration without a mistake, with the origin of each value.
type Loaded struct {
	Config
	Files []string // that were read; a later one goes before an earlier one

	origins map[string]Origin // of keys outside of [[vif]], by name; default if it has none
	vifs    []vifOrigins      // of each of Config.Vifs
	index   map[Selector]int  // of each of Config.Vifs
}

// vifOrigins are the origins of a vif's keys. That of "vif" is its first table, and that of
// "vif.devid" or "vif.mac" its last one.
type vifOrigins map[string]Origin

// Load reads, decodes and checks the file at path and its drop-ins: the files *.toml in
// [Folder], in the order of their names. A key of a later file goes before the same key of an
// earlier one; so do the keys of [[vif]] tables for the same vif.
//
// The error is [Problems], with all that were found. A problem at a place in a file begins
// with "path:line: ". If there is no file at all, errors.Is(err, fs.ErrNotExist) holds.
func Load(path string) (*Loaded, error) {
	r := readAll(path)
	problems := r.problems
	l := newLoaded(Default())
	for _, d := range r.docs {
		l.Files = append(l.Files, d.path)
		found := append(d.problems, l.merge(d)...)
		slices.SortStableFunc(found, func(a, b error) int { return lineOf(a) - lineOf(b) })
		problems = append(problems, found...)
	}
	if len(problems) > 0 {
		return nil, problems
	}
	for i := range l.Vifs { // "xnf%d" and "xnf0" are the same for vif 0
		l.Vifs[i].TAP = l.Vifs[i].fixedTAP()
	}
	if err := l.Check(); err != nil {
		return nil, err
	}
	return l, nil
}

// FromCommandLine is a configuration that flags describe. It is not checked yet.
func FromCommandLine(vif Vif) *Loaded {
	l := newLoaded(Default())
	o := vifOrigins{"vif": commandLine(), matchKey(vif.Match): commandLine()}
	plain := NewVif(vif.Match)
	for _, k := range vifKeys {
		if k.text(&vif) != k.text(&plain) {
			o[k.name] = commandLine()
		}
	}
	l.Vifs, l.vifs = []Vif{vif}, []vifOrigins{o}
	return l
}

func newLoaded(c Config) *Loaded {
	return &Loaded{Config: c, origins: map[string]Origin{}, index: map[Selector]int{}}
}

// Set takes over a string from the command line, for a key outside of [[vif]] tables, without
// a check. An unknown name sets nothing.
func (l *Loaded) Set(name, text string) {
	if k, ok := find(topKeys, name); ok && k.set(&l.Config, stringValue(text)) {
		l.origins[name] = commandLine()
	}
}

// merge takes over the content of a document, and returns its problems.
func (l *Loaded) merge(d *document) (problems Problems) {
	bad := func(p Problem) { problems = append(problems, &p) }
	for _, s := range d.settings {
		if k, ok := find(topKeys, s.key); ok && apply(k, &l.Config, s, bad) {
			l.origins[s.key] = s.where
		}
	}
	seen := map[Selector]bool{}
	for _, t := range d.vifs {
		match, where, ok := t.match(bad)
		if ok && seen[match] {
			bad(Problem{where, matchKey(match), match.String(), "each vif once, and this one is in an earlier [[vif]] table"})
			ok = false
		}
		if !ok { // its other keys may have problems, too
			vif := NewVif(SelectDevID(0))
			t.apply(&vif, vifOrigins{}, bad)
			continue
		}
		seen[match] = true
		i := l.table(match, t.where)
		l.vifs[i][matchKey(match)] = where
		t.apply(&l.Vifs[i], l.vifs[i], bad)
	}
	return problems
}

// apply sets the keys of the table in a vif, and notes their origins.
func (t *vifTable) apply(v *Vif, from vifOrigins, bad func(Problem)) {
	for _, s := range t.settings {
		if k, ok := find(vifKeys, s.key); ok && apply(k, v, s, bad) {
			from[s.key] = s.where
		}
	}
}

// apply sets a key in t if its value can be used.
func apply[T any](k key[T], t *T, s setting, bad func(Problem)) bool {
	next := *t
	if !k.set(&next, s.value) {
		bad(Problem{s.where, k.name, s.value.raw, k.want})
		return false
	}
	if p, is := k.problem(&next); is {
		p.Where = s.where
		bad(p)
		return false
	}
	*t = next
	return true
}

// table returns the index of the vif that a table selects. It adds a vif with every default if
// there is none.
func (l *Loaded) table(match Selector, where Origin) int {
	if i, ok := l.index[match]; ok {
		return i
	}
	l.Vifs = append(l.Vifs, NewVif(match))
	l.vifs = append(l.vifs, vifOrigins{"vif": where})
	l.index[match] = len(l.Vifs) - 1
	return l.index[match]
}

// match returns which vif a table selects, and the line that says so. It reports a problem if
// the table does not say it.
func (t *vifTable) match(bad func(Problem)) (match Selector, where Origin, ok bool) {
	var devid, mac *setting
	for i := range t.settings {
		switch s := &t.settings[i]; s.key {
		case keyDevID:
			devid = s
		case keyMAC:
			mac = s
		}
	}
	switch {
	case devid != nil && mac != nil:
		bad(Problem{mac.where, mac.key, mac.value.shown(), "either devid or mac in a [[vif]] table, not both"})
	case mac != nil:
		if hw, ok := parseMAC(mac.value.text); ok && mac.value.isString() {
			return SelectMAC(hw), mac.where, true
		}
		bad(Problem{mac.where, mac.key, mac.value.shown(), wantMAC})
	case devid != nil:
		if s, ok := devid.value.devid(); ok {
			return s, devid.where, true
		}
		bad(Problem{devid.where, devid.key, devid.value.unquoted(), wantDevID})
	default:
		bad(Problem{t.where, keyDevID, "", wantDevID + "; or mac with its address"})
	}
	return match, where, false
}

// devid reads a vif's number, or "*" for all. Quotes around a number do not matter.
func (v value) devid() (s Selector, ok bool) {
	if n, isInt := v.int(); isInt {
		return ParseSelector(strconv.Itoa(n))
	}
	s, ok = ParseSelector(v.text)
	return s, ok && v.isString() && s.by != byMAC
}

// Check checks what Load does not: values from the command line, and whether the tables
// contradict each other.
func (l *Loaded) Check() error {
	var problems Problems
	add := func(p Problem) { problems = append(problems, &p) }
	checkAll(topKeys, &l.Config, func(p Problem) {
		p.Where = l.origins[p.Key]
		add(p)
	})
	for i := range l.Vifs {
		checkAll(vifKeys, &l.Vifs[i], func(p Problem) {
			p.Where = l.vifs[i].of(p.Key)
			add(p)
		})
	}
	l.checkTAPs(add)
	if len(l.Vifs) == 0 && len(problems) == 0 {
		add(Problem{l.start(), "vif", "", wantVif})
	}
	return problems.orNil()
}

// checkTAPs reports vifs whose TAPs would have the same name.
func (l *Loaded) checkTAPs(bad func(Problem)) {
	first := map[string]int{}
	for i := range l.Vifs {
		v := &l.Vifs[i]
		name := v.fixedTAP()
		if strings.Contains(name, number) {
			continue // as many names as there are vifs
		}
		if other, taken := first[name]; taken {
			bad(Problem{l.vifs[i].of("vif.tap"), "vif.tap", printable(v.TAP),
				"each TAP name once, and this one is that of the [[vif]] table at " + l.vifs[other]["vif"].String()})
			continue
		}
		first[name] = i
	}
}

// start is the place of a problem that belongs to no line.
func (l *Loaded) start() Origin {
	if len(l.Files) == 0 {
		return commandLine()
	}
	return Origin{l.Files[0], 1}
}

// of is the origin of a key, or of the table without the key.
func (o vifOrigins) of(key string) Origin {
	if where, ok := o[key]; ok {
		return where
	}
	return o["vif"]
}
