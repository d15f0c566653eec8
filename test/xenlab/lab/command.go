package lab

import (
	"fmt"
	"strings"
)

// Command is what StartCommand executes.
type Command struct {
	Argv []string          // Argv[0] is looked up in the guest's PATH
	Env  map[string]string // added to the agent's environment
	Dir  string            // the agent's own if empty
	// Stdin is written to the command, whose input ends with it. Nil is no input.
	Stdin []byte
	// Detached leaves the command running when the connection to the guest ends, as
	// it does with a save and a restore. Its output goes to this file in the guest,
	// and to Stdout and Stderr of Process never. Without it the command's process
	// group is killed with the connection, or with the context.
	Detached string

	notify bool // report READY=1, see Process.ready
}

// Result is how a command ended.
type Result struct {
	Code   int    // exit code; -1 if a signal ended it
	Signal string // name of that signal, such as "SIGKILL", or empty
	Stdout string
	Stderr string
}

// ExitError says that a command ran and failed.
type ExitError struct {
	Guest string
	Argv  []string
	Result
}

func (e *ExitError) Error() string {
	how := fmt.Sprintf("exit code %d", e.Code)
	if e.Signal != "" {
		how = e.Signal
	}
	why := strings.TrimSpace(e.Stderr)
	if why == "" {
		why = strings.TrimSpace(e.Stdout)
	}
	if why == "" {
		why = "it wrote nothing"
	}
	return fmt.Sprintf("%s: %s: %s: %s", e.Guest, strings.Join(e.Argv, " "), how, why)
}
