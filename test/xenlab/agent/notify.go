package main

import (
	"bytes"
	"errors"
	"net"
	"os"
	"path/filepath"
)

// notifySocket hears what a command says to its service manager, see sd_notify(3).
type notifySocket struct {
	path  string
	conn  *net.UnixConn
	ready chan struct{} // closed at READY=1
}

func newNotifySocket() (*notifySocket, error) {
	dir, err := os.MkdirTemp("", "agent-notify-")
	if err != nil {
		return nil, err
	}
	n := &notifySocket{path: filepath.Join(dir, "socket"), ready: make(chan struct{})}
	if n.conn, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: n.path, Net: "unixgram"}); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	go n.listen()
	return n, nil
}

// listen reads until the socket is closed.
func (n *notifySocket) listen() {
	buf := make([]byte, 4096)
	for ready := false; ; {
		size, err := n.conn.Read(buf)
		if err != nil {
			return
		}
		if !ready && bytes.Contains(buf[:size], []byte("READY=1")) {
			ready = true
			close(n.ready)
		}
	}
}

func (n *notifySocket) close() {
	_ = n.conn.Close() // it was only read
	_ = os.RemoveAll(filepath.Dir(n.path))
}
