package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/lab"
)

type shellCmd struct {
	Debian bool `help:"Have a Debian with systemd in the domU, instead of the small one."`
	buildFlags
}

// shellDomU is the name of the guest that has the daemon.
const shellDomU = "u1"

func (c *shellCmd) Run(e *env) (err error) {
	if !onTerminal() {
		return usageError{errors.New("shell gives a prompt and needs a terminal")}
	}
	p, err := c.prepare(e)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	fmt.Fprintln(e.out, "booting Xen and dom0")
	_, cpus, _ := lab.Room(1, p.memMiB())
	l, err := p.boot(e.ctx, cpus)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	fmt.Fprintln(e.out, "booting a domU")
	config := lab.DomUConfig{Name: shellDomU, Vifs: []lab.VifConfig{{}}}
	if c.Debian {
		config.Image = lab.ImageDebian
	}
	d, err := l.CreateDomU(e.ctx, config)
	if err != nil {
		return err
	}
	if err := d.InstallDaemon(e.ctx); err != nil {
		return err
	}
	return prompt(e, l)
}

// onTerminal is whether a prompt can be given.
func onTerminal() bool {
	return term.IsTerminal(int(os.Stdin.Fd())) && term.IsTerminal(int(os.Stdout.Fd()))
}

const welcome = `This is dom0: xl list, xenstore-ls -f, tcpdump -Z root -i xenbr0. The bridge has 10.77.0.1 and fd77::1.
  domu [NAME]   a prompt in a domU, until exit; there, for example:
      xnetfrontd check --vif 0
      xnetfrontd run --vif 0 >/run/log 2>&1 &
      ip link set xnf0 up; ip addr add 10.77.0.2/24 dev xnf0; ping 10.77.0.1
      xnetfrontd status
  Ctrl-] ends the lab.
Logs: %s
`

const (
	// askDomU is what the command domu in dom0 writes, with a name behind it and endAsk: a
	// terminal ignores it, and this program, which sees it first, changes to that domU.
	askDomU = "\x1b]xenlab;"
	endAsk  = '\a'
	// domUScript waits for a line, which is sent when the domU's prompt has ended.
	domUScript = "#!/bin/sh\nprintf '\\033]xenlab;%s\\007' \"$1\"\nread -r line\n"
	keyEnd     = 0x1d // Ctrl-]
)

// prompt gives a prompt in dom0 until it ends or Ctrl-] is pressed.
func prompt(e *env, l *lab.Lab) (err error) {
	if err := l.Dom0().WriteFile(e.ctx, "/usr/bin/domu", []byte(domUScript), 0o755); err != nil {
		return err
	}
	fmt.Fprintf(e.out, welcome, l.RunDir())
	stdin := int(os.Stdin.Fd())
	before, err := term.MakeRaw(stdin)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, term.Restore(stdin, before)) }()
	ctx, cancel := context.WithCancel(e.ctx)
	defer cancel()
	s := &screen{out: e.out, asked: make(chan string, 1)}
	dom0, err := s.open(ctx, l.Dom0(), "dom0")
	if err != nil {
		return err
	}
	go s.keys(cancel)
	go s.sizes(ctx)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-dom0.Done():
			return nil
		case name := <-s.asked:
			if err := s.visit(ctx, l, name); err != nil {
				fmt.Fprintf(e.out, "%v\r\n", err)
			}
			s.show(dom0)
			dom0.Type([]byte("\n"))
		}
	}
}

// screen is the user's terminal, which shows one prompt at a time.
type screen struct {
	out   io.Writer
	asked chan string // names of domUs to change to

	mu   sync.Mutex
	now  *lab.Terminal
	part []byte // of a question that has not ended
}

// open opens a prompt in a guest and shows it.
func (s *screen) open(ctx context.Context, g *lab.Guest, name string) (*lab.Terminal, error) {
	rows, columns := s.size()
	t, err := g.OpenTerminal(ctx, lab.Command{
		Argv: []string{"/bin/sh", "-i"},
		Env:  map[string]string{"PS1": name + "# ", "TERM": os.Getenv("TERM"), "HOME": "/root"},
	}, rows, columns, s)
	if err == nil {
		s.show(t)
	}
	return t, err
}

// visit shows a domU's prompt until that ends.
func (s *screen) visit(ctx context.Context, l *lab.Lab, name string) error {
	if name == "" {
		name = shellDomU
	}
	for _, d := range l.DomUs() {
		if d.Name != name {
			continue
		}
		if d.Err() != nil { // it was restored, or has rebooted
			if err := d.Reconnect(ctx); err != nil {
				return err
			}
		}
		t, err := s.open(ctx, d.Guest, name)
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-t.Done():
		}
		return nil
	}
	return fmt.Errorf("there is no domU %q: xl list shows them", name)
}

func (s *screen) show(t *lab.Terminal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = t
}

// Write shows what a prompt writes, except for the question of domu.
func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := append(s.part, p...)
	s.part = nil
	for len(b) > 0 {
		at := bytes.Index(b, []byte(askDomU))
		if at < 0 {
			break
		}
		end := bytes.IndexByte(b[at:], endAsk)
		if end < 0 {
			s.part = bytes.Clone(b[at:])
			b = b[:at]
			break
		}
		select {
		case s.asked <- string(b[at+len(askDomU) : at+end]):
		default: // one at a time
		}
		b = append(bytes.Clone(b[:at]), b[at+end+1:]...)
	}
	if _, err := s.out.Write(b); err != nil {
		return 0, err
	}
	return len(p), nil
}

// keys hands on what is typed, until Ctrl-] or the end of the input.
func (s *screen) keys(end func()) {
	defer end()
	buf := make([]byte, 1024)
	for {
		n, err := os.Stdin.Read(buf)
		if err != nil || bytes.IndexByte(buf[:n], keyEnd) >= 0 {
			return
		}
		s.mu.Lock()
		t := s.now
		s.mu.Unlock()
		t.Type(buf[:n])
	}
}

// sizes tells the prompt that is shown how large the terminal has become.
func (s *screen) sizes(ctx context.Context) {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, unix.SIGWINCH)
	defer signal.Stop(changed)
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
			s.mu.Lock()
			t := s.now
			s.mu.Unlock()
			t.Resize(s.size())
		}
	}
}

// size is the terminal's, or the usual one if it does not know.
func (s *screen) size() (rows, columns int) {
	columns, rows, err := term.GetSize(int(os.Stdin.Fd()))
	if err != nil || rows == 0 || columns == 0 {
		return 24, 80
	}
	return rows, columns
}
