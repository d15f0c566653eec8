package controlserver

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/xnetfrontd/xnetfrontd/pkg/control"
)

func FuzzParseTakesOnlyWhatItCanSayAgain(f *testing.F) {
	for _, s := range []string{
		`{"version":1,"op":"status"}`, `{"version":1,"op":"capture","vif":"0","snaplen":64,"queues":[0,1],"direction":"tx"}`,
		"", "null", "{}", "[1]", `{"version":-1}`, `{"op":"\ud800"}`, `{"version":1,"op":"status"}x`, `{"vif":1}`, "\x00",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		q, err := parse(line)
		if err != nil {
			return
		}
		b, err := json.Marshal(q)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		again, err := parse(b)
		if len(again.Queues) == 0 {
			again.Queues, q.Queues = nil, nil
		}
		if err != nil || !reflect.DeepEqual(again, q) {
			t.Errorf("%q: %+v became %+v, %v", line, q, again, err)
		}
		if check(&q, peer{uid: 1}) == nil && q.Op != control.OpStatus && q.Op != control.OpDump {
			t.Errorf("%q: a reader may %s", line, q.Op)
		}
	})
}

func TestOnlyRootAndTheDaemonsOwnUserMayWrite(t *testing.T) {
	for _, c := range []struct {
		name      string
		own, peer uint32
		writer    bool
	}{
		{"root", 998, 0, true},
		{"own user", 998, 998, true},
		{"group member", 998, 1000, false},
		{"unmapped user", 998, 65534, false},
		{"unmapped user and a daemon that is nobody", 65534, 65534, false},
		{"root's daemon, user", 0, 1000, false},
	} {
		u := users{own: c.own, overflow: 65534}
		p := u.peer(c.peer)
		for _, op := range []string{control.OpKick, control.OpRetry, control.OpReload, control.OpCapture} {
			q := control.Request{Version: 1, Op: op, CaptureRequest: control.CaptureRequest{Vif: "0"}}
			if err := check(&q, p); (err == nil) != c.writer {
				t.Errorf("%s, %s: %v", c.name, op, err)
			}
		}
		for _, op := range []string{control.OpStatus, control.OpDump} {
			q := control.Request{Version: 1, Op: op, CaptureRequest: control.CaptureRequest{Vif: "0"}}
			if err := check(&q, p); err != nil {
				t.Errorf("%s, %s: %v", c.name, op, err)
			}
		}
	}
}

func TestRefusalNamesTheUser(t *testing.T) {
	u := users{own: 998, overflow: 65534}
	q := control.Request{Version: 1, Op: control.OpReload}
	for uid, want := range map[uint32]string{
		1000:  "reload: only root and the daemon's own user may do that: you are uid 1000",
		65534: "reload: only root and the daemon's own user may do that: you are a user that the daemon's user namespace does not know (it sees uid 65534)",
	} {
		if err := check(&q, u.peer(uid)); err == nil || err.Error() != want {
			t.Errorf("uid %d: %v, want %s", uid, err, want)
		}
	}
}
