package vifowner

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestCommandStuckInTheKernelIsLeftBehind(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	release := filepath.Join(dir, "fifo")
	// cat waits in open(2) for a writer.
	if err := runApart(ctx, "sh", "-c", "mkfifo "+release+" && cat "+release); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v, want the deadline", err)
	}
	for range 1000 {
		if f, err := os.OpenFile(release, os.O_WRONLY, 0); err == nil {
			f.Close()
			return
		}
		time.Sleep(time.Millisecond) // sh has not made it yet
	}
	t.Error("the command was never there")
}
