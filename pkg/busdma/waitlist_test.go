package busdma

import "testing"

// A list that is never empty never begins anew by itself.
func TestWaitListThatIsNeverEmptyDoesNotGrow(t *testing.T) {
	for _, length := range []int{1, 7, 100} {
		var l waitList
		pushed, popped := 0, 0
		for ; pushed < length; pushed++ {
			l.push(waiter{buf: make([]byte, pushed)})
		}
		for range 10 * length {
			l.push(waiter{buf: make([]byte, pushed)})
			pushed++
			if w := l.pop(); len(w.buf) != popped {
				t.Fatalf("length %d: load %d instead of %d", length, len(w.buf), popped)
			}
			popped++
			if l.len() != length {
				t.Fatalf("%d loads wait, want %d", l.len(), length)
			}
		}
		if most := 4*length + 4; cap(l.list) > most {
			t.Errorf("room for %d loads where %d wait", cap(l.list), length)
		}
		// What is done must not be kept alive.
		for i, w := range l.list[:cap(l.list)] {
			if waiting := i >= l.first && i < len(l.list); (w.buf != nil) != waiting {
				t.Errorf("place %d: holds a buffer %t, waits %t", i, w.buf != nil, waiting)
			}
		}
	}
}
