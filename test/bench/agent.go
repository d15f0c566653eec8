package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"
)

// order is what an agent is asked to do, and answer what came of it: one line of
// JSON each, on the agent's standard input and output.
type order struct {
	Op   string        `json:"op"`
	Peer string        `json:"peer"` // address of the other namespace on the link
	For  time.Duration `json:"for"`
	// Flows are the TCP uploads of a load.
	Flows int `json:"flows"`
}

type answer struct {
	Value float64       `json:"value"`
	P99   float64       `json:"p99"`
	At    time.Duration `json:"at"` // on the agent's own clock
	Err   string        `json:"err"`
	// Figures are those of a load.
	Figures map[string]float64 `json:"figures"`
}

// agentRole is the argument that makes this program an agent.
const agentRole = "agent"

// agent is this program as a process in one of the namespaces: it serves the other
// one's traffic, and makes traffic when told to.
type agent struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func startAgent(s *space) (*agent, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	a := &agent{cmd: exec.Command(self, agentRole)}
	a.cmd.Stderr = os.Stderr
	if a.in, err = a.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := a.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	a.out = bufio.NewReader(out)
	if err := s.Start(a.cmd); err != nil {
		return nil, fmt.Errorf("start agent: %w", err)
	}
	if _, err = a.ask(order{Op: "hello"}); err != nil {
		a.stop()
		return nil, err
	}
	return a, nil
}

// ask gives an order and waits for its answer.
func (a *agent) ask(o order) (answer, error) {
	var r answer
	b, err := json.Marshal(o)
	if err != nil {
		return r, err
	}
	if _, err := a.in.Write(append(b, '\n')); err != nil {
		return r, fmt.Errorf("agent: %w", err)
	}
	line, err := a.out.ReadBytes('\n')
	if err != nil {
		return r, fmt.Errorf("agent: %w", err)
	}
	if err := json.Unmarshal(line, &r); err != nil {
		return r, fmt.Errorf("agent: %w", err)
	}
	if r.Err != "" {
		return r, fmt.Errorf("%s: %s", o.Op, r.Err)
	}
	return r, nil
}

// kill ends the agent at once, and with it an ask that another goroutine waits in.
func (a *agent) kill() {
	a.cmd.Process.Kill() // fails only when it is gone
}

// stop ends the agent and waits for it. It has nothing to lose.
func (a *agent) stop() {
	a.in.Close()
	a.kill()
	a.cmd.Wait()
}

// agentMain is the agent's side. It ends when its standard input does.
func agentMain() error {
	s, err := serve()
	if err != nil {
		return err
	}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var o order
		if err := json.Unmarshal(in.Bytes(), &o); err != nil {
			return err
		}
		r, err := s.do(o)
		if err != nil {
			r.Err = err.Error()
		}
		b, err := json.Marshal(r)
		if err != nil {
			return err
		}
		if _, err := os.Stdout.Write(append(b, '\n')); err != nil {
			return err
		}
	}
	return in.Err()
}
