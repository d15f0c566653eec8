package control

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// QueryStatus asks the daemon that listens at path. It waits at most for timeout.
func QueryStatus(path string, timeout time.Duration) (*Status, error) {
	conn, err := net.DialTimeout("unix", path, timeout)
	if err != nil {
		return nil, explainDial(path, err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return nil, fmt.Errorf("control socket %s: %w", path, err)
	}
	if err := json.NewEncoder(conn).Encode(Request{Version: Version, Op: OpStatus}); err != nil {
		return nil, fmt.Errorf("control socket %s: %w", path, err)
	}
	line, err := bufio.NewReader(conn).ReadBytes('\n')
	if err != nil {
		return nil, fmt.Errorf("control socket %s: no answer: %w", path, err)
	}
	var r Response
	if err := json.Unmarshal(line, &r); err != nil {
		return nil, fmt.Errorf("control socket %s: answer is not a line of JSON: %w", path, err)
	}
	switch {
	case r.Error != "":
		return nil, fmt.Errorf("control socket %s: %s", path, r.Error)
	case r.Version != Version:
		return nil, fmt.Errorf("control socket %s: the daemon speaks version %d, this program %d; use the program it was started from", path, r.Version, Version)
	case r.Status == nil:
		return nil, fmt.Errorf("control socket %s: answer without a status", path)
	}
	return r.Status, nil
}

func explainDial(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("control socket %s: not there; no daemon runs, or it has another path (--control)", path)
	case errors.Is(err, unix.ECONNREFUSED):
		return fmt.Errorf("control socket %s: nobody listens; the daemon that made it is gone", path)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("control socket %s: no permission; run as root or as a member of its group", path)
	}
	return fmt.Errorf("control socket: %w", err)
}
