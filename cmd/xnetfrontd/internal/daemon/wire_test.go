package daemon

import (
	"encoding/json"
	"reflect"
	"strconv"
	"testing"
	"time"

	"github.com/xnetfrontd/xnetfrontd/pkg/netfront"
)

// fill gives each field below v a value that no other field has, and lists and maps two
// elements.
func fill(v reflect.Value, next *int) {
	*next++
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), next)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Unix(int64(*next), 0).UTC()))
			return
		}
		for i := range v.NumField() {
			fill(v.Field(i), next)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			fill(v.Index(i), next)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range 2 {
			key, elem := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			fill(key, next)
			fill(elem, next)
			v.SetMapIndex(key, elem)
		}
	case reflect.String:
		v.SetString("text " + strconv.Itoa(*next))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(int64(*next))
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uint:
		v.SetUint(uint64(*next))
	case reflect.Float32, reflect.Float64:
		v.SetFloat(float64(*next) + 0.5)
	default:
		panic("no value for a " + v.Kind().String())
	}
}

// wantSameJSON checks that two values are the same bytes as JSON.
func wantSameJSON(t *testing.T, name string, driver, wire any) {
	t.Helper()
	want, err := json.Marshal(driver)
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(wire)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("%s: the driver has\n%s\nthe control socket\n%s", name, want, got)
	}
}

func TestWireTypesCarryAllOfTheDrivers(t *testing.T) {
	var n int
	var status netfront.Status
	wantSameJSON(t, "an empty status", status, wireDevice(&status))
	fill(reflect.ValueOf(&status).Elem(), &n)
	wantSameJSON(t, "a status", status, wireDevice(&status))

	var dump netfront.Dump
	wantSameJSON(t, "an empty dump", dump, wireDump(&dump))
	dump.Queues = make([]netfront.QueueDump, 1)
	wantSameJSON(t, "a dump without rings", dump, wireDump(&dump))
	fill(reflect.ValueOf(&dump).Elem(), &n)
	wantSameJSON(t, "a dump", dump, wireDump(&dump))
}

// The comparison above cannot see an exported field that is not in JSON.
func TestEveryFieldOfTheDriversStatusIsInItsJSON(t *testing.T) {
	seen := map[reflect.Type]bool{}
	var check func(typ reflect.Type)
	check = func(typ reflect.Type) {
		switch typ.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Map:
			check(typ.Elem())
		case reflect.Struct:
			if seen[typ] || typ == reflect.TypeFor[time.Time]() {
				return
			}
			seen[typ] = true
			for i := range typ.NumField() {
				f := typ.Field(i)
				if !f.IsExported() || f.Tag.Get("json") == "-" {
					t.Errorf("%s.%s is not in JSON", typ, f.Name)
				}
				check(f.Type)
			}
		}
	}
	check(reflect.TypeFor[netfront.Status]())
	check(reflect.TypeFor[netfront.Dump]())
	if len(seen) < 10 {
		t.Errorf("only %d types were seen", len(seen))
	}
}
