package config

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// file is the TOML document. Pointers tell what was left out.
type file struct {
	Control *string `toml:"control"`
	Log     struct {
		Level  *string `toml:"level"`
		Format *string `toml:"format"`
	} `toml:"log"`
	Metrics struct {
		Socket *string `toml:"socket"`
		Listen *string `toml:"listen"`
	} `toml:"metrics"`
	Vif []fileVif `toml:"vif"`
}

type fileVif struct {
	DevID      *devid   `toml:"devid"`
	MAC        *string  `toml:"mac"`
	TAP        *string  `toml:"tap"`
	Keep       *string  `toml:"keep"`
	Queues     int      `toml:"queues"`
	MTU        int      `toml:"mtu"`
	TxQueueLen int      `toml:"txqueuelen"`
	Disable    []string `toml:"disable"`
}

// devid is the text of a value that is a number or a string. What it may be is
// checked later, where an error can name its line.
type devid string

func (d *devid) UnmarshalText(text []byte) error {
	*d = devid(text)
	return nil
}

// Keys of each table, in the order in which they are explained to the user.
var tableKeys = map[string]string{
	"":        "control, log, metrics, vif",
	"log":     "level, format",
	"metrics": "socket, listen",
	"vif":     "devid, mac, tap, keep, queues, mtu, txqueuelen, disable",
}

// Load reads, decodes and checks the file at path. The error of a file that can be
// read but not used begins with "path:line: ".
func Load(path string) (Config, error) {
	doc, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("read configuration: %w", err)
	}
	cfg, line, err := decode(doc)
	if err != nil {
		return Config{}, fmt.Errorf("%s:%d: %w", path, line, err)
	}
	return cfg, nil
}

// decode returns the line to which an error belongs.
func decode(doc []byte) (Config, int, error) {
	var f file
	dec := toml.NewDecoder(bytes.NewReader(doc)).DisallowUnknownFields()
	if err := dec.Decode(&f); err != nil {
		line, err := explain(doc, err)
		return Config{}, line, err
	}
	cfg := Default()
	set(&cfg.Control, f.Control)
	set(&cfg.Log.Level, f.Log.Level)
	set(&cfg.Log.Format, f.Log.Format)
	set(&cfg.Metrics.Socket, f.Metrics.Socket)
	set(&cfg.Metrics.Listen, f.Metrics.Listen)
	for i, v := range f.Vif {
		vif, err := v.table()
		if err != nil {
			err.Vif = i
			return Config{}, newLines(doc).of(err), err
		}
		cfg.Vifs = append(cfg.Vifs, vif)
	}
	if err := cfg.Validate(); err != nil {
		var p *Problem
		if errors.As(err, &p) {
			return Config{}, newLines(doc).of(p), err
		}
		return Config{}, 1, err
	}
	return cfg, 0, nil
}

// table turns one [[vif]] table into what it stands for. What concerns it alone and
// needs its text is checked here, the rest by Validate. Vif is not set in the problem.
func (f *fileVif) table() (Vif, *Problem) {
	match, p := f.match()
	if p != nil {
		return Vif{}, p
	}
	v := NewVif(match)
	set(&v.TAP, f.TAP)
	v.Queues, v.MTU, v.TxQueueLen, v.Disable = f.Queues, f.MTU, f.TxQueueLen, f.Disable
	if f.Keep != nil {
		var err error
		v.Keep, err = time.ParseDuration(*f.Keep)
		if *f.Keep == "forever" {
			v.Keep = Forever
		} else if err != nil || v.Keep < 0 {
			return v, &Problem{Key: "vif.keep", Value: fmt.Sprintf("%q", *f.Keep), Want: expected["vif.keep"]}
		}
	}
	return v, nil
}

func (f *fileVif) match() (Selector, *Problem) {
	switch {
	case f.DevID != nil && f.MAC != nil:
		return Selector{}, &Problem{Key: "vif.mac", Value: fmt.Sprintf("%q", *f.MAC), Want: "either devid or mac in a [[vif]] table, not both"}
	case f.MAC != nil:
		if mac, ok := parseMAC(*f.MAC); ok {
			return SelectMAC(mac), nil
		}
		return Selector{}, &Problem{Key: "vif.mac", Value: fmt.Sprintf("%q", *f.MAC), Want: expected["vif.mac"]}
	case f.DevID == nil:
		return Selector{}, &Problem{Key: "vif.devid", Want: expected["vif.devid"] + "; or mac with its address"}
	}
	text := string(*f.DevID)
	if s, ok := ParseSelector(text); ok && s.by != byMAC {
		return s, nil
	}
	return Selector{}, &Problem{Key: "vif.devid", Value: text, Want: expected["vif.devid"]}
}

func set(dst *string, src *string) {
	if src != nil {
		*dst = *src
	}
}

// explain turns the decoder's error into ours, which says what is expected at the
// key instead of which Go type did not fit.
func explain(doc []byte, err error) (int, error) {
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) && len(strict.Errors) > 0 {
		e := &strict.Errors[0]
		line, _ := e.Position()
		return line, unknownKey(e.Key())
	}
	var e *toml.DecodeError
	if !errors.As(err, &e) {
		return 1, err
	}
	line, column := e.Position()
	if want, ok := expected[strings.Join(e.Key(), ".")]; ok && !strings.Contains(e.Error(), "already defined") {
		return line, &Problem{Vif: -1, Key: strings.Join(e.Key(), "."), Value: valueAt(doc, line, column), Want: want}
	}
	return line, fmt.Errorf("not TOML: %s", strings.TrimPrefix(e.Error(), "toml: "))
}

func unknownKey(key toml.Key) error {
	name, table := strings.Join(key, "."), ""
	if len(key) > 1 && tableKeys[key[0]] != "" {
		table = key[0]
	}
	where := "at the top level"
	if table != "" {
		where = "in [" + table + "]"
	}
	return fmt.Errorf("unknown key %s: expected one of %s %s", name, tableKeys[table], where)
}

// valueAt is the text that stands at a position, to the end of the line or to a
// comment.
func valueAt(doc []byte, line, column int) string {
	rows := strings.Split(string(doc), "\n")
	if line < 1 || line > len(rows) || column < 1 || column > len(rows[line-1]) {
		return "?"
	}
	text, _, _ := strings.Cut(rows[line-1][column-1:], " #")
	return strings.TrimSpace(text)
}
