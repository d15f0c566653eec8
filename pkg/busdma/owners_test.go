package busdma_test

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/xnetfrontd/xnetfrontd/internal/heapgrants"

	"github.com/xnetfrontd/xnetfrontd/pkg/busdma"
)

// transmit sends frames through a queue of its own to a peer in a goroutine of its
// own, as a netfront's queue and its backend do. The channels are their ring.
func transmit(g *heapgrants.Grants, seed byte, frames int) error {
	tag, err := busdma.NewTag(g, busdma.TagConfig{Peer: peer, ReadOnly: true, MaxSegments: 4})
	if err != nil {
		return err
	}
	slab, err := tag.AllocSlab(32)
	if err != nil {
		return err
	}
	pool, err := busdma.NewPool(tag, slab, nil)
	if err != nil {
		return err
	}
	const size = 9000
	type request struct {
		segs [3]busdma.Segment
		seed byte
		run  []busdma.Map // not read by the peer: stands for the id
	}
	requests, responses := make(chan request, 8), make(chan request, 8)
	verdict := make(chan error, 1)
	go func() {
		defer close(responses)
		var wrong error
		for r := range requests {
			var got []byte
			for _, s := range r.segs {
				page, err := g.MapForeign(peer, s.Ref, false)
				if err != nil {
					wrong = err
					continue
				}
				got = append(got, page[s.Offset:s.Offset+s.Len]...)
				if err := g.UnmapForeign(s.Ref); err != nil {
					wrong = err
				}
			}
			if !bytes.Equal(got, pattern(size, r.seed)) {
				wrong = fmt.Errorf("frame %d arrived as another", r.seed)
			}
			responses <- r
		}
		verdict <- wrong
	}()
	reap := func(r request) error {
		for i := range r.run {
			if err := tag.Unload(&r.run[i]); err != nil {
				return err
			}
		}
		return pool.PutRun(r.run)
	}
	for sent := 0; sent < frames; {
		run, ok := pool.TakeRun(3)
		if !ok || len(requests) == cap(requests) {
			if ok {
				if err := pool.PutRun(run); err != nil {
					return err
				}
			}
			if err := reap(<-responses); err != nil {
				return err
			}
			continue
		}
		r := request{seed: seed + byte(sent), run: run}
		if _, err := tag.LoadRun(run, pattern(size, r.seed), r.segs[:0]); err != nil {
			return err
		}
		for i := range run {
			if err := tag.Sync(&run[i], busdma.PreWrite); err != nil {
				return err
			}
			if err := tag.Publish(&run[i]); err != nil {
				return err
			}
		}
		requests <- r
		sent++
	}
	close(requests)
	for r := range responses {
		if err := reap(r); err != nil {
			return err
		}
	}
	if err := <-verdict; err != nil {
		return err
	}
	if err := pool.Check(); err != nil {
		return err
	}
	if pool.Free() != 32 {
		return fmt.Errorf("%d maps came back", pool.Free())
	}
	if err := pool.Destroy(); err != nil {
		return err
	}
	if err := slab.Free(); err != nil {
		return err
	}
	return tag.Destroy()
}

// With -race: two owners and their peers run over the same Grants, without a lock
// anywhere in busdma.
func TestTwoOwnersDoNotRace(t *testing.T) {
	g := heapgrants.New(t)
	var wg sync.WaitGroup
	for i := range 2 {
		wg.Go(func() {
			if err := transmit(g, byte(i*100), 500); err != nil {
				t.Errorf("owner %d: %v", i, err)
			}
		})
	}
	wg.Wait()
}

// reach adds every piece of memory that v leads to. Where the hypervisor's interface
// begins it stops: Grants are everybody's.
func reach(v reflect.Value, seen map[uintptr]string, path string) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Slice:
		if v.IsNil() || v.Kind() == reflect.Slice && v.Cap() == 0 {
			return
		}
		if _, ok := seen[v.Pointer()]; ok && v.Kind() == reflect.Pointer {
			return
		}
		seen[v.Pointer()] = path
		if v.Kind() == reflect.Pointer {
			reach(v.Elem(), seen, path)
			return
		}
		if k := v.Type().Elem().Kind(); k == reflect.Struct {
			for i := range v.Len() {
				reach(v.Index(i), seen, fmt.Sprintf("%s[%d]", path, i))
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			reach(v.Field(i), seen, path+"."+v.Type().Field(i).Name)
		}
	}
}

func TestTwoQueuesShareNoMemory(t *testing.T) {
	g := heapgrants.New(t)
	var reached [2]map[uintptr]string
	for i := range reached {
		q := newQueue(t, g, 4, busdma.TagConfig{MaxSegments: 4})
		run := q.takeRun(t, 2)
		_, err := q.tag.LoadRun(run, make([]byte, 5000), nil)
		ok(t, err)
		q.takeRun(t, 2)
		_ = q.pool.LoadFunc(make([]byte, 10), func(*busdma.Map, []busdma.Segment, error) {})
		reached[i] = make(map[uintptr]string)
		reach(reflect.ValueOf(q.pool), reached[i], "pool")
	}
	if len(reached[0]) < 15 {
		t.Fatalf("only %d pieces of memory found: %v", len(reached[0]), reached[0])
	}
	for at, path := range reached[0] {
		if other, ok := reached[1][at]; ok {
			t.Errorf("%s of one queue is %s of the other", path, other)
		}
	}
}

// One owner needs none of these, and two would not be helped by them.
func TestThereIsNoLock(t *testing.T) {
	files, err := filepath.Glob("*.go")
	ok(t, err)
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		ok(t, err)
		ast.Inspect(parsed, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.ImportSpec:
				if path := strings.Trim(n.Path.Value, `"`); path == "sync" || path == "sync/atomic" {
					t.Errorf("%s imports %s", file, path)
				}
			case *ast.ChanType, *ast.GoStmt:
				t.Errorf("%s has a %T", file, n)
			}
			return true
		})
	}
}
