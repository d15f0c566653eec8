package netfront

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

// stateLog is a store that notes which states a vif's frontend gets.
type stateLog struct {
	xen.Store
	wrote []string
}

func (l *stateLog) Write(ctx context.Context, path, value string) error {
	if strings.HasSuffix(path, "/state") {
		l.wrote = append(l.wrote, value)
	}
	return l.Store.Write(ctx, path, value)
}

// rewindFrom rewinds a vif whose ends have these states, and returns the states that the
// frontend got. Once it has got a state, the backend follows as follow says, if it does.
func rewindFrom(t *testing.T, frontend, backend string, follow map[string]string) []string {
	t.Helper()
	server, err := xensim.New(xensim.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	domain0, err := server.Connect(0)
	if err != nil {
		t.Fatal(err)
	}
	defer domain0.Close()
	conn, err := server.Connect(guestDom)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	cfg := xensim.VifConfig{Frontend: guestDom, MAC: net.HardwareAddr{0, 0x16, 0x3e, 0, 0, 1}}
	if err := xensim.AttachVif(t.Context(), domain0.Store(), cfg); err != nil {
		t.Fatal(err)
	}
	front, back := xensim.FrontendPath(guestDom, 0)+"/state", xensim.BackendPath(0, guestDom, 0)+"/state"
	if err := errors.Join(domain0.Store().Write(t.Context(), front, frontend), domain0.Store().Write(t.Context(), back, backend)); err != nil {
		t.Fatal(err)
	}
	watch, err := domain0.Store().Watch(t.Context(), front)
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close()
	if backend != "5" { // Closing: it has yet to see the state that is there
		<-watch.Events()
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-ctx.Done():
				return
			case <-watch.Events():
			}
			if state, err := domain0.Store().Read(ctx, front); err == nil && follow[state] != "" {
				if err := domain0.Store().Write(ctx, back, follow[state]); err != nil && ctx.Err() == nil {
					t.Error(err)
				}
			}
		}
	}()
	log := &stateLog{Store: conn.Guest().Store}
	windows := 0
	err = Rewind(t.Context(), log, 0, func(do func() error) error {
		windows++
		before := len(log.wrote)
		err := do()
		if got := log.wrote[before:]; !slices.Equal(got, []string{"1"}) {
			t.Errorf("in the window the frontend gets %q, want Initialising alone", got)
		}
		return err
	})
	stop()
	<-done
	if err != nil || windows != 1 {
		t.Errorf("%v, %d windows", err, windows)
	}
	return log.wrote
}

func TestVifThatIsClosedIsNotClosedAgain(t *testing.T) {
	for _, c := range []struct {
		name              string
		frontend, backend string
		follow            map[string]string
		want              []string
	}{
		{"new", "1", "2", nil, []string{"1"}},
		{"reset, and the backend has not seen it yet", "1", "6", nil, []string{"1"}},
		{"closed", "6", "6", nil, []string{"1"}},
		{"closed, and the backend follows", "6", "5", map[string]string{"6": "6"}, []string{"1"}},
		{"left connected", "4", "4", map[string]string{"5": "5", "6": "6"}, []string{"5", "6", "1"}},
		{"closed, and the backend has begun again", "6", "2", map[string]string{"5": "5", "6": "6"}, []string{"5", "6", "1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := rewindFrom(t, c.frontend, c.backend, c.follow); !slices.Equal(got, c.want) {
				t.Errorf("the frontend gets %q, want %q", got, c.want)
			}
		})
	}
}

func TestRewindSaysThatTheGuestsKernelDoesNotLook(t *testing.T) {
	server, err := xensim.New(xensim.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	conn, err := server.Connect(guestDom)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(t.Context())
	b := &bus{store: conn.Guest().Store, address: address{dir: "device/vif/0"}}
	cancel()
	err = b.awaitKernel(ctx)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
