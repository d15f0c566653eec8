package controlserver

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/xnetfrontd/xnetfrontd/pkg/control"
)

// connOf makes a connection of a descriptor.
func connOf(t *testing.T, fd int) *net.UnixConn {
	t.Helper()
	f := os.NewFile(uintptr(fd), "socketpair")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.UnixConn)
}

func startCapture(t *testing.T, l limits, capture func(context.Context, io.Writer) error) (control.Client, *Server) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c.sock")
	return control.Client{Path: path, Timeout: time.Minute}, start(t, path, &daemon{capture: capture}, l)
}

func TestCaptureArrivesByteForByteAndOutlastsTheRequestsLimits(t *testing.T) {
	l := defaultLimits()
	l.request = 50 * time.Millisecond
	data := bytes.Repeat([]byte("frame"), 1<<18) // many sockets' worth
	goOn := make(chan struct{})
	c, _ := startCapture(t, l, func(ctx context.Context, w io.Writer) error {
		if _, err := w.Write([]byte("header")); err != nil {
			return err
		}
		<-goOn
		_, err := w.Write(data)
		return err
	})
	s, err := c.Capture(t.Context(), control.CaptureRequest{Vif: "0"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	time.Sleep(2 * l.request) // the client must be silent for long
	close(goOn)
	got, err := io.ReadAll(s)
	if err != nil || !bytes.Equal(got, append([]byte("header"), data...)) {
		t.Errorf("%d bytes, %v; want %d", len(got), err, len(data)+6)
	}
}

func TestCaptureIsRefusedWithAReasonBeforeTheStreamBegins(t *testing.T) {
	c, _ := startCapture(t, defaultLimits(), func(context.Context, io.Writer) error { return errors.New("no such filter") })
	_, err := c.Capture(t.Context(), control.CaptureRequest{Vif: "0"})
	refused(t, err, "no such filter")
	_, err = c.Capture(t.Context(), control.CaptureRequest{Vif: "7"})
	refused(t, err, errNoVif.Error())
}

func TestCaptureThatNobodyReadsEnds(t *testing.T) {
	l := defaultLimits()
	l.stall = 50 * time.Millisecond
	ended := make(chan error, 1)
	c, _ := startCapture(t, l, func(ctx context.Context, w io.Writer) error {
		for {
			if _, err := w.Write(make([]byte, 1<<20)); err != nil {
				ended <- err
				return err
			}
		}
	})
	s, err := c.Capture(t.Context(), control.CaptureRequest{Vif: "0"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v", err)
	}
	if _, err := query(c.Path); err != nil {
		t.Error(err)
	}
}

func TestCaptureEndsWhenItsClientGoesThoughNoFrameComes(t *testing.T) {
	ended := make(chan struct{}, 3)
	c, _ := startCapture(t, patient(), func(ctx context.Context, w io.Writer) error {
		defer func() { ended <- struct{}{} }() // a client can be gone before the header
		if _, err := w.Write([]byte("header")); err != nil {
			return err
		}
		<-ctx.Done()
		return nil
	})
	s, err := c.Capture(t.Context(), control.CaptureRequest{Vif: "0"})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	<-ended

	ctx, cancel := context.WithCancel(t.Context())
	s, err = c.Capture(ctx, control.CaptureRequest{Vif: "0"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	cancel()
	if _, err := io.ReadAll(s); !errors.Is(err, context.Canceled) {
		t.Errorf("read after the end of its context: %v", err)
	}
	s.Close()
	<-ended

	talker := dial(t, c.Path)
	ask(t, talker, "{\"version\":1,\"op\":\"capture\",\"vif\":\"0\"}\n")
	if _, err := talker.Write([]byte("{\"version\":1,\"op\":\"status\"}\n")); err != nil {
		t.Fatal(err)
	}
	<-ended
}

func TestCloseEndsACapture(t *testing.T) {
	needNumber(t)
	path := filepath.Join(t.TempDir(), "c.sock")
	written := make(chan struct{})
	s, err := newServer(path, &daemon{capture: func(ctx context.Context, w io.Writer) error {
		if _, err := w.Write([]byte("header")); err != nil {
			return err
		}
		close(written)
		<-ctx.Done()
		return nil
	}}, patient())
	if err != nil {
		t.Fatal(err)
	}
	c := control.Client{Path: path, Timeout: time.Minute}
	stream, err := c.Capture(t.Context(), control.CaptureRequest{Vif: "0"})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	<-written
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if got, err := io.ReadAll(stream); err != nil || string(got) != "header" {
		t.Errorf("%q, %v", got, err)
	}
}
