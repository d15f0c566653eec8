package demo

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"sync/atomic"
	"time"
)

// transfer is the outcome of a copy over TCP.
type transfer struct {
	took           time.Duration
	sent, received [sha256.Size]byte
}

func (t transfer) equal() bool { return t.sent == t.received }

// copyBlock is the size of one write to the socket.
const copyBlock = 256 << 10

// copyTCP sends size random bytes from one side to the other side's address. Each end hashes
// its own copy of the bytes. copyTCP adds to received as bytes arrive.
func copyTCP(ctx context.Context, from, to *side, address net.IP, size int64, received *atomic.Int64) (transfer, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var ln net.Listener
	err := to.Do(func() (err error) {
		lc := net.ListenConfig{}
		lc.SetMultipathTCP(false)
		ln, err = lc.Listen(ctx, "tcp", net.JoinHostPort(address.String(), "0"))
		return err
	})
	if err != nil {
		return transfer{}, fmt.Errorf("listen on the %s: %w", to.name, err)
	}
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	defer ln.Close()

	type end struct {
		sum [sha256.Size]byte
		err error
	}
	receiver := make(chan end, 1)
	go func() {
		sum, err := receive(ctx, ln, size, received)
		if err != nil {
			cancel() // the sender would wait for ever
		}
		receiver <- end{sum, err}
	}()
	start := time.Now()
	sent, sendErr := send(ctx, from, ln.Addr().String(), size)
	if sendErr != nil {
		cancel()
	}
	got := <-receiver
	if err := errors.Join(sendErr, got.err); err != nil {
		return transfer{}, fmt.Errorf("copy from the %s to the %s: %w", from.name, to.name, err)
	}
	return transfer{took: time.Since(start), sent: sent, received: got.sum}, nil
}

func send(ctx context.Context, from *side, address string, size int64) (sum [sha256.Size]byte, err error) {
	var seed [32]byte
	if _, err := rand.Read(seed[:]); err != nil {
		return sum, fmt.Errorf("seed: %w", err)
	}
	var conn net.Conn
	err = from.Do(func() (err error) {
		d := net.Dialer{Timeout: 10 * time.Second}
		conn, err = d.DialContext(ctx, "tcp", address)
		return err
	})
	if err != nil {
		return sum, err
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	data, hash, block := mathrand.NewChaCha8(seed), sha256.New(), make([]byte, copyBlock)
	for left := size; left > 0; {
		b := block[:min(left, copyBlock)]
		data.Read(b) // never fails
		hash.Write(b)
		if _, err := conn.Write(b); err != nil {
			return sum, errors.Join(err, conn.Close())
		}
		left -= int64(len(b))
	}
	hash.Sum(sum[:0])
	return sum, conn.Close()
}

func receive(ctx context.Context, ln net.Listener, size int64, received *atomic.Int64) (sum [sha256.Size]byte, err error) {
	conn, err := ln.Accept()
	if err != nil {
		return sum, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	hash, block := sha256.New(), make([]byte, copyBlock)
	total := int64(0)
	for {
		n, err := conn.Read(block)
		hash.Write(block[:n])
		total += int64(n)
		received.Store(total)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return sum, err
		}
	}
	if total != size {
		return sum, fmt.Errorf("%d bytes were sent, %d arrived", size, total)
	}
	hash.Sum(sum[:0])
	return sum, nil
}
