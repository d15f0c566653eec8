package controlserver

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/xnetfrontd/xnetfrontd/pkg/control"
)

// ops are the ops of the protocol. A reader may only use those that change nothing and show no
// frames.
var ops = []struct {
	name   string
	reader bool
	vif    bool // it needs a vif
}{
	{name: control.OpStatus, reader: true},
	{name: control.OpDump, reader: true, vif: true},
	{name: control.OpKick, vif: true},
	{name: control.OpRetry, vif: true},
	{name: control.OpReload},
	{name: control.OpCapture, vif: true},
}

// parse makes a request of a line. It refuses fields that this version does not know: else the
// client would believe that they had an effect.
func parse(line []byte) (q control.Request, err error) {
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&q); err != nil {
		if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
			return q, fmt.Errorf("request has an unknown field %s", name)
		}
		return q, fmt.Errorf("request is not a line of JSON: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return q, errors.New("request is not a line of JSON: something follows the object")
	}
	return q, nil
}

// check refuses a request that is wrong in itself.
func check(q *control.Request, p peer) error {
	if q.Version != control.Version {
		return fmt.Errorf("request has version %d: this daemon speaks version %d", q.Version, control.Version)
	}
	for _, op := range ops {
		switch {
		case op.name != q.Op:
			continue
		case !op.reader && !p.writer:
			return fmt.Errorf("%s: only root and the daemon's own user may do that: you are %s", q.Op, p)
		case op.vif && q.Vif == "":
			return fmt.Errorf("%s: the request names no vif", q.Op)
		}
		return nil
	}
	return fmt.Errorf("unknown op %.40q: this daemon knows %s", q.Op, strings.Join(opNames(), ", "))
}

func opNames() []string {
	var names []string
	for _, op := range ops {
		names = append(names, op.name)
	}
	return names
}
