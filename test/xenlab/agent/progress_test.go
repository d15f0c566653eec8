package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestATextIsAwaitedUntilItWasAppendedOftenEnough(t *testing.T) {
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	ended := make(chan error, 1)
	go func() {
		ended <- (&awaitTextCmd{File: log.Name(), Text: "ready", Times: 2}).Run(t.Context())
	}()
	for _, part := range []string{"ready\nsteady\nre", "ady\n"} {
		select {
		case err := <-ended:
			t.Fatalf("ended before %q was there: %v", part, err)
		default:
		}
		if _, err := log.WriteString(part); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestAWaitForATextEndsWithItsContextAndTellsWhatWasThere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte("ready\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := (&awaitTextCmd{File: path, Text: "ready", Times: 2}).Run(ctx)
	if err == nil || !strings.Contains(err.Error(), "1 times, wanted 2") {
		t.Errorf("error %v", err)
	}
}

func TestFramesOfAnInterfaceThatIsNotThereAreAnError(t *testing.T) {
	if err := (&awaitFramesCmd{Interface: "nowhere0", More: 1}).Run(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}
