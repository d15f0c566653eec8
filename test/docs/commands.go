// Package docs reads the project's documentation, so that tests can hold it against what
// runs.
package docs

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Command is a command line that the documentation shows in a block of code.
type Command struct {
	Page string // path of the page, from the root of the sources
	Line int
	Text string // without a prompt, a comment, and the spaces that align things
}

func (c Command) String() string { return fmt.Sprintf("%s:%d: %s", c.Page, c.Line, c.Text) }

// programs are what a line of a block must begin with to be a command: blocks also have
// output, diagrams and configuration in them.
var programs = []string{
	"apt", "apt-get", "bin/xenlab", "cat", "cp", "curl", "dnf", "dpkg", "echo", "ethtool", "go", "ifconfig", "ip", "journalctl", "kill", "make",
	"mkdir", "modprobe", "networkctl", "nmcli", "ifup", "ifdown", "ping", "promtool", "prometheus", "rpm", "sed", "ssh", "sudo", "systemctl", "systemd-analyze", "tail", "tc", "tcpdump",
	"tshark", "capinfos", "udevadm", "usermod", "adduser", "wireshark", "xenlab", "xl", "xenstore-ls", "xnetfrontd",
}

// Pages are the pages of documentation under root that are for users: README.md and
// docs/*.md, but for the transcript docs/walkthrough.md, in which what is typed has other
// prompts. Drafts for other projects, in docs/kernel-bugs, have no commands.
func Pages(root string) ([]string, error) {
	pages, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		return nil, err
	}
	pages = slices.DeleteFunc(pages, func(p string) bool { return filepath.Base(p) == "walkthrough.md" })
	for i, p := range pages {
		if pages[i], err = filepath.Rel(root, p); err != nil {
			return nil, err
		}
	}
	return append([]string{"README.md"}, pages...), nil
}

// Commands returns the command lines in the blocks of code of a page: what is indented
// by four spaces, and what is fenced as sh or console.
func Commands(root, page string) ([]Command, error) {
	b, err := os.ReadFile(filepath.Join(root, page))
	if err != nil {
		return nil, err
	}
	var all []Command
	fence := "" // the language of the fenced block that this line is in, "-" for none
	n := 0
	for line := range strings.Lines(string(b)) {
		n++
		line = strings.TrimRight(line, "\n")
		if lang, ok := strings.CutPrefix(line, "```"); ok {
			switch {
			case fence != "":
				fence = ""
			case lang == "":
				fence = "-"
			default:
				fence = lang
			}
			continue
		}
		text, indented := strings.CutPrefix(line, "    ")
		if fence == "sh" || fence == "console" {
			text, indented = line, true
		} else if fence != "" {
			continue
		}
		if text = command(text); indented && text != "" {
			all = append(all, Command{page, n, text})
		}
	}
	return all, nil
}

// command is the command in a line of a block, "" if it has none.
func command(line string) string {
	line, _, _ = strings.Cut(line, "  #") // a comment beside it
	line = strings.TrimPrefix(strings.TrimPrefix(line, "# "), "$ ")
	words := strings.Fields(line)
	if len(words) < 2 || !slices.Contains(programs, words[0]) {
		return ""
	}
	return strings.Join(words, " ")
}

// Spans returns what a page shows as code within its text and begins with a program's
// name and a space.
func Spans(root, page, program string) ([]Command, error) {
	b, err := os.ReadFile(filepath.Join(root, page))
	if err != nil {
		return nil, err
	}
	var all []Command
	n := 0
	for line := range strings.Lines(string(b)) {
		n++
		for i, span := range strings.Split(line, "`") {
			if i%2 == 1 && strings.HasPrefix(span, program+" ") {
				all = append(all, Command{page, n, strings.Join(strings.Fields(strings.ReplaceAll(span, `\|`, "|")), " ")})
			}
		}
	}
	return all, nil
}
