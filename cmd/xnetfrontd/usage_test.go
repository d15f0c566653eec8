package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/controlserver"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/failure"
	"github.com/xnetfrontd/xnetfrontd/internal/needs"
)

func TestBadCommandLineOrFileIsOneLineAndExitCode2(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string { return writeFile(t, filepath.Join(dir, name), text) }
	features := "sg, csum, csum_ipv6, gso_tcpv4, gso_tcpv6, split_channels"
	tapName := "an interface name: 1 to 15 printable bytes without '/', ':', '%' or spaces, the vif's number (up to 5 digits) put in for a %d"
	badKey := file("key.toml", "[[vif]]\ndevid = 0\ntpa = 'x'\n")
	badValue := file("value.toml", "\n[[vif]]\ndevid = 0\nqueues = 'four'\n")
	good := file("good.toml", "[[vif]]\ndevid = 0\n")
	for _, c := range []struct {
		name string
		args []string
		line string
	}{
		{"no command", nil, `expected one of "run", "check", "status", "top", "dump", ...; see xnetfrontd --help`},
		{"unknown command", []string{"start"}, "unexpected argument start; see xnetfrontd --help"},
		{"unknown flag", []string{"run", "--foo"}, "unknown flag --foo; see xnetfrontd --help"},
		{"not a number", []string{"run", "--vif", "eth0"}, `--vif: "eth0": expected a vif's number from 0 to 65535, its MAC address such as 00:16:3e:01:02:03, or "*" for all; see xnetfrontd --help`},
		{"vif out of range", []string{"run", "--vif", "70000"}, `--vif: "70000": expected a vif's number from 0 to 65535, its MAC address such as 00:16:3e:01:02:03, or "*" for all; see xnetfrontd --help`},
		{"one TAP for all vifs", []string{"run", "--vif", "*", "--tap", "wan"}, `command line: vif.tap = "wan": expected a name with %d for the vif's number, since the table is for every vif`},
		{"TAP name too long", []string{"run", "--vif", "0", "--tap", "sixteen-bytes-16"}, `command line: vif.tap = "sixteen-bytes-16" (16 bytes): expected ` + tapName},
		{"MTU too small", []string{"check", "--vif", "0", "--mtu", "20"}, "command line: vif.mtu = 20: expected 0 (what the toolstack says) or a whole number from 68 to 65517"},
		{"too many queues", []string{"run", "--vif", "0", "--queues", "100"}, "command line: vif.queues = 100: expected a whole number from 0 (one for each CPU) to 64"},
		{"unknown feature", []string{"run", "--vif", "0", "--disable", "tso"}, `command line: vif.disable = "tso": expected a list of feature names out of ` + features},
		{"log level", []string{"run", "--vif", "0", "--log-level", "loud"}, `command line: log.level = "loud": expected one of debug, info, warn, error`},
		{"log format", []string{"run", "--vif", "0", "--log-format", "xml"}, `command line: log.format = "xml": expected one of auto, console, json, journal`},
		{"control socket", []string{"run", "--vif", "0", "--control", "c.sock"}, `command line: control = "c.sock": expected an absolute path of at most 107 bytes, such as "/run/xnetfrontd/control.sock"`},
		{"TAP of no vif", []string{"run", "--tap", "x"}, "--tap, --queues, --mtu, --txqueuelen and --disable describe the vif of --vif: give that too, or put them into the configuration file"},
		{"file and vif", []string{"run", "--config", good, "--vif", "0"}, "--config and --vif exclude each other: the vif belongs into the file as a [[vif]] table"},
		{"no file", []string{"run", "--config", dir + "/none.toml"}, "read configuration: open " + dir + "/none.toml: no such file or directory"},
		{"rotation of nothing", []string{"capture", "0", "-w", "f", "-W", "3"}, "-W 3: a number of files needs -C, their size, or -G, their time"},
		{"rotation of a pipe", []string{"capture", "0", "-w", "-", "-C", "3"}, "-w -: the standard output is one file: -C and -G need a name"},
		{"rotation too fast", []string{"capture", "0", "-w", "f", "-G", "1ms"}, `--file-time: "1ms": expected a second or more, such as 90 or 10m; see xnetfrontd --help`},
		{"rotation after no time", []string{"capture", "0", "-w", "f", "-G", "0"}, `--file-time: "0": expected a second or more, such as 90 or 10m; see xnetfrontd --help`},
		{"rotation after an age", []string{"capture", "0", "-w", "f", "-G", "4000000000"}, `--file-time: "4000000000": expected a second or more, such as 90 or 10m; see xnetfrontd --help`},
		{"files below zero", []string{"capture", "0", "-w", "f", "--file-size=-1"}, `--file-size: "-1": expected a whole number from 1 to 1000000; see xnetfrontd --help`},
		{"files of nothing", []string{"capture", "0", "-w", "f", "-C", "0"}, `--file-size: "0": expected a whole number from 1 to 1000000; see xnetfrontd --help`},
		{"files of more than there is", []string{"capture", "0", "-w", "f", "-C", "99999999999999"}, `--file-size: "99999999999999": expected a whole number from 1 to 1000000; see xnetfrontd --help`},
		{"no files", []string{"capture", "0", "-w", "f", "-C", "1", "-W", "0"}, `--files: "0": expected a whole number from 1 to 1000000; see xnetfrontd --help`},
		{"wrong key", []string{"run", "--config", badKey}, badKey + ":3: unknown key vif.tpa: expected one of devid, mac, tap, keep, stop, report_addresses, queues, mtu, txqueuelen, shaping, violations, disable in [vif]"},
		{"wrong value", []string{"check", "--config", badValue}, badValue + ":4: vif.queues = 'four': expected a whole number from 0 (one for each CPU) to 64"},
		{"level over a good file", []string{"run", "--config", good, "--log-level", "x"}, `command line: log.level = "x": expected one of debug, info, warn, error`},
		{"top's interval", []string{"top", "--interval", "1ms"}, "--interval 1ms: expected 100ms or more"},
		{"top's interval without a unit", []string{"top", "--interval", "5"}, `--interval: expected duration but got "5": time: missing unit in duration "5"; see xnetfrontd --help`},
		{"top's count", []string{"top", "--count=-1"}, "--count -1: expected 1 or more, or 0 for no end"},
		{"embedded Xen's rate", []string{"embedded-xen", "--rate", "30Mb/s", dir}, `--rate "30Mb/s": expected bytes and microseconds, such as "125000,50000"`},
		{"dump of no vif", []string{"dump"}, `expected "<vif>"; see xnetfrontd --help`},
		{"kick of no vif", []string{"kick"}, `expected "<vif>"; see xnetfrontd --help`},
		{"dump of two", []string{"dump", "0", "1"}, "unexpected argument 1; see xnetfrontd --help"},
		{"capture of no vif", []string{"capture", "-w", "-"}, `expected "<vif>"; see xnetfrontd --help`},
		{"capture into nothing", []string{"capture", "0"}, "missing flags: --write=FILE; see xnetfrontd --help"},
		{"capture's direction", []string{"capture", "0", "-w", "-", "--direction", "up"}, `--direction must be one of "tx","rx","both" but got "up"; see xnetfrontd --help`},
		{"capture's queue", []string{"capture", "0", "-w", "-", "--queue", "64"}, "--queue 64: expected 0 to 63"},
		{"capture's length", []string{"capture", "0", "-w", "-", "-s", "65536"}, "--snaplen 65536: expected 1 to 65535 bytes, or 0 for whole frames"},
		{"capture's duration", []string{"capture", "0", "-w", "-", "--duration=-1s"}, "--duration -1s: expected up to a year, or 0 for no end"},
		{"capture's buffer", []string{"capture", "0", "-w", "-", "--buffer", "1"}, "--buffer 1: expected 256 to 65536 KiB"},
		{"capture's host", []string{"capture", "0", "-w", "-", "--host", "gate"}, `--host "gate": expected an address, or a network like 192.0.2.0/24`},
		{"capture's protocol", []string{"capture", "0", "-w", "-", "--proto", "quic"}, `--proto "quic": expected one of arp, ip, ip6, icmp, icmp6, tcp, udp`},
		{"capture's program", []string{"capture", "0", "-w", "-", "--bpf", file("e", "tcp port 80\n")}, "--bpf: expected what `tcpdump -ddd EXPRESSION` prints: a count, and a line of four numbers for each instruction"},
		{"capture's empty program", []string{"capture", "0", "-w", "-", "--bpf", file("n", "\n")}, "--bpf " + dir + "/n: it is empty: write what `tcpdump -ddd EXPRESSION` prints into it"},
		{"capture's endless program", []string{"capture", "0", "-w", "-", "--bpf", file("l", strings.Repeat("6 0 0 0\n", 1000))}, "--bpf " + dir + "/l: the program is longer than 3072 bytes: simplify the expression"},
		{"reload of one vif", []string{"reload", "0"}, "unexpected argument 0; see xnetfrontd --help"},
		{"demo size", []string{"demo", "--size", "1TB"}, `--size: size "1TB": expected a whole number of bytes, KiB, MiB or GiB; see xnetfrontd --help`},
		{"demo queues", []string{"demo", "--queues", "0"}, "--queues 0: expected 1 to 16"},
		{"demo nothing to copy", []string{"demo", "--size", "0"}, "--size 0: expected at least 1 byte"},
		{"demo's daemon's feature", []string{"demo", "--disable", "tso"}, `command line: vif.disable = "tso": expected a list of feature names out of ` + features},
		{"demo feature", []string{"demo", "--backend-without", "csum"}, `feature "csum": expected one of sg, csum_ipv6, gso_tcpv4, gso_tcpv6, split_channels`},
	} {
		t.Run(c.name, func(t *testing.T) {
			wantError(t, runProgram(t, program(c.args...)), failure.ExitUsage, c.line)
		})
	}
}

// commandsOfAClient are the commands that ask a daemon.
var commandsOfAClient = [][]string{{"status"}, {"status", "--json"}, {"top"}, {"top", "--plain", "0"}, {"dump", "0"}, {"kick", "0"}, {"retry", "0"}, {"reload"}}

func TestCommandsWithoutADaemonSaySo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.sock")
	for _, args := range commandsOfAClient {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			o := runProgram(t, program(append(args, "--control", path)...))
			wantError(t, o, failure.ExitRuntime, "control socket "+path+": not there; no daemon runs, or it has another path (--control)")
		})
	}
}

func TestCommandsWithoutPermissionSaySo(t *testing.T) {
	needs.Root(t)
	dir, err := os.MkdirTemp("/tmp", "control") // only root may use t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "c.sock")
	server, err := controlserver.New(path, servingDaemon{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	for _, args := range commandsOfAClient {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			cmd := program(append(args, "--control", path)...)
			// The test's program may be in a folder that others cannot enter.
			self, err := os.Open("/proc/self/exe")
			if err != nil {
				t.Fatal(err)
			}
			defer self.Close()
			cmd.Path, cmd.ExtraFiles = "/proc/self/fd/3", []*os.File{self}
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 4242, Gid: 4242}}
			wantError(t, runProgram(t, cmd), failure.ExitRuntime, "control socket "+path+": no permission; run as root or as a member of its group")
		})
	}
}
