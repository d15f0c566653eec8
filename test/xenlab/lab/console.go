package lab

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
	"time"
)

// console looks for the end of a kernel in what it prints.
type console struct {
	log   io.Writer           // gets everything; nil is nothing
	crash func(report string) // called once, some time after the first line of a crash

	mu    sync.Mutex
	tail  []byte // the end of what was printed
	found bool
}

const (
	consoleTail = 8 << 10
	lineEnd     = 300 // of a line in a report
	// lastWords is how long a crash is given to print more than its first line.
	lastWords = 3 * time.Second
)

// crashes are the first lines of a kernel, Xen or init that gives up.
func crashes() *regexp.Regexp {
	return regexp.MustCompile(`(?m)Kernel panic - not syncing.*|Oops: .*|kernel BUG at .*|Panic on CPU \d+:.*|xenlab \w+: FATAL.*|xenlab \w+: no /lab/agent.*`)
}

func (c *console) Write(p []byte) (int, error) {
	if c.log != nil {
		if _, err := c.log.Write(p); err != nil {
			return 0, err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tail = append(c.tail, p...)
	if over := len(c.tail) - consoleTail; over > 0 {
		c.tail = append(c.tail[:0], c.tail[over:]...)
	}
	if !c.found && c.crash != nil && crashes().Match(c.tail) {
		c.found = true
		time.AfterFunc(lastWords, func() { c.crash(c.report()) })
	}
	return len(p), nil
}

// report is the crash's first line, and what follows it.
func (c *console) report() string {
	text := c.text()
	at := crashes().FindStringIndex(text)
	if at == nil {
		return strings.TrimSpace(text)
	}
	lines := strings.Split(strings.TrimSpace(text[at[0]:]), "\n")
	return fmt.Sprintf("%s\n%s", text[at[0]:at[1]], strings.Join(lines[min(1, len(lines)):min(len(lines), 12)], "\n"))
}

// text is the end of what was printed, without what no terminal would show.
func (c *console) text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(bytes.Map(func(r rune) rune {
		if r == '\n' || r >= ' ' && r <= '~' {
			return r
		}
		return -1
	}, c.tail))
}

// last is the last lines of the text, each with its end if it is long: a terminal that
// is not raw yet echoes what the host says to the agent.
func (c *console) last(lines int) string {
	all := strings.Split(strings.TrimSpace(c.text()), "\n")
	all = all[max(0, len(all)-lines):]
	for i, line := range all {
		all[i] = line[max(0, len(line)-lineEnd):]
	}
	return strings.Join(all, "\n")
}
