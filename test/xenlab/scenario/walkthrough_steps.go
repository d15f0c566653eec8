package scenario

const walkthroughIntro = `The transcript of a Debian guest with systemd on a real Xen: what is typed, and what comes out. The guest has one vif,
which the kernel's driver has at first; domain 0 is 10.77.0.1 on its bridge.`

// walkPart is a part of the walkthrough, and what is tried after it that is not shown.
type walkPart struct {
	steps []Step
	then  func(*walk)
}

func walkthroughParts() []walkPart {
	return []walkPart{
		{steps: walkInstall()}, {steps: walkConfigure()}, {walkLook(), (*walk).documented},
		{steps: walkBreak()}, {steps: walkUpgrade()}, {steps: walkRemove()},
	}
}

// Walkthrough is what the new user types, in this order.
func Walkthrough() []Step {
	var all []Step
	for _, p := range walkthroughParts() {
		all = append(all, p.steps...)
	}
	return all
}

func walkInstall() []Step {
	return []Step{
		{
			Say: "## Install\n\nThe package changes nothing yet: no vif is configured, so the unit skips itself, and the kernel keeps the vif.",
			At:  atGuest, Run: "dpkg -i /root/" + debName(firstVersion), Want: []string{"Setting up xnetfrontd"},
		},
		{At: atGuest, Run: "systemctl status --no-pager xnetfrontd", Fail: true, Want: []string{"Active: inactive (dead)"}},
		{Say: "What would the daemon do with the vif? Nothing is touched by asking.", At: atGuest, Run: "xnetfrontd check --vif 0", Fail: true, Want: []string{"xnetfrontd prepare --vif 0"}},
	}
}

func walkConfigure() []Step {
	return []Step{
		{
			Say: "## Configure\n\nOne table for the vif, in a file of its own beside the package's. A mistake is found by line:",
			At:  atGuest, Run: "cat >/etc/xnetfrontd/xnetfrontd.toml.d/10-vif0.toml <<'END'\n[[vif]]\ndevid = 0\nqueue = 1\nEND\nxnetfrontd config check",
			Fail: true, Want: []string{"10-vif0.toml:3", "unknown key vif.queue"},
		},
		{At: atGuest, Run: "sed -i 's/queue = 1/queues = 1/' /etc/xnetfrontd/xnetfrontd.toml.d/10-vif0.toml\nxnetfrontd config check", Want: []string{"ok"}},
		{Say: "What is in force, and where each value comes from:", At: atGuest, Run: "xnetfrontd config show", Want: []string{"queues = 1", "10-vif0.toml:3", "# default"}},
		{
			Say: "The address is systemd-networkd's. The example keeps it while the vif has no carrier.",
			At:  atGuest, Run: "cp /usr/share/doc/xnetfrontd/examples/60-xnf.network /etc/systemd/network/\n" +
				"mkdir -p /etc/systemd/network/60-xnf.network.d\n" +
				"cat >/etc/systemd/network/60-xnf.network.d/address.conf <<'END'\n[Network]\nDHCP=no\nAddress=10.77.0.2/24\nEND",
		},
		{
			Say: "## Start\n\nWho comes in through this vif has the console at hand: what was `eth0` is `xnf0` now.",
			At:  atGuest, Run: "systemctl enable --now systemd-networkd xnetfrontd", Not: []string{"Failed", "failed"},
		},
		{At: atGuest, Run: "systemctl status --no-pager --lines=0 xnetfrontd", Want: []string{"Active: active (running)", "vif 0: TAP xnf0"}},
	}
}

func walkLook() []Step {
	return []Step{
		{Say: "## Look", At: atGuest, Run: "xnetfrontd status", Until: true, Want: []string{"vif 0 on xnf0: Connected"}},
		{At: atGuest, Run: "ip -brief addr show dev xnf0", Until: true, Want: []string{"10.77.0.2/24"}},
		{At: atGuest, Run: "ifconfig xnf0", Want: []string{"inet 10.77.0.2", "RUNNING"}},
		{At: atGuest, Run: "ping -c 3 10.77.0.1", Want: []string{" 0% packet loss"}},
		{Say: "What the queues do, twice; on a terminal it is redrawn every second:", At: atGuest, Run: "ping -q -i 0.2 -c 20 10.77.0.1 >/dev/null &\nxnetfrontd top --count 2\nwait", Want: []string{"tx", "rx"}},
		{Say: "The rings, as netback's `io_ring` in debugfs shows them from the other side:", At: atGuest, Run: "xnetfrontd dump 0 | head -n 20", Want: []string{"tx", "rx"}},
		{
			Say: "Frames, with what the rings say of each:",
			At:  atGuest, Run: "ping -q -i 0.2 -c 10 10.77.0.1 >/dev/null &\nxnetfrontd capture 0 --proto icmp --count 4 -w /tmp/vif0.pcapng\nwait\ntcpdump -n -r /tmp/vif0.pcapng",
			Want: []string{"4 frames captured", "ICMP echo request", "ICMP echo reply"},
		},
		{Say: "Figures for Prometheus:", At: atGuest, Run: "curl -s --unix-socket /run/xnetfrontd/metrics.sock http://localhost/metrics | grep -E '^xnetfrontd_(vif_up|grant_limit|queue_packets)'", Want: []string{`xnetfrontd_vif_up{vif="0"} 1`, `xnetfrontd_queue_packets_total{`}},
		{Say: "The journal:", At: atGuest, Run: "journalctl --no-pager -o cat -u xnetfrontd", Want: []string{"connected"}},
	}
}

func walkBreak() []Step {
	return []Step{
		{
			Say: "## Break the configuration\n\nA reload with a mistake says what it is, and changes nothing:",
			At:  atGuest, Run: "echo 'mtu = 9' >>/etc/xnetfrontd/xnetfrontd.toml.d/10-vif0.toml\nxnetfrontd reload", Fail: true, Want: []string{"10-vif0.toml:4", "vif.mtu = 9"},
		},
		{At: atGuest, Run: "ping -q -c 1 10.77.0.1 >/dev/null && sed -i '/mtu/d' /etc/xnetfrontd/xnetfrontd.toml.d/10-vif0.toml && systemctl reload xnetfrontd && echo reloaded", Want: []string{"reloaded"}},
		{
			Say: "## Break the backend\n\nIn domain 0, somebody takes the vif's backend away:",
			At:  atDom0, Run: "echo vif-$(xl domid guest)-0 >/sys/bus/xen-backend/drivers/vif/unbind",
		},
		{Say: "At three in the morning, in the guest: no answer. Why?", At: atGuest, Run: "ping -q -c 1 -W 2 10.77.0.1", Fail: true},
		{
			Say: "The backend's state still says *Connected*: nobody has told xenstore otherwise. But it answers no frame, and that shows.",
			At:  atGuest, Run: "xnetfrontd status | head -n 7", Until: true, Want: []string{"SLOW      the backend has had a frame of queue 0 for"},
		},
		{
			Say: "The journal says so, too, after half a minute, and explains it:",
			At:  atGuest, Run: "journalctl --no-pager -x -n 1 -u xnetfrontd", Until: true, Want: []string{"the backend does not answer a frame", "What to do:"},
		},
		{
			Say: "The cause is in domain 0, and there it is mended; the hotplug script puts the vif on its bridge again. The guest\n" +
				"has nothing to do: the TAP has kept its address.",
			At: atDom0, Run: "echo vif-$(xl domid guest)-0 >/sys/bus/xen-backend/drivers/vif/bind\n" +
				"vif=vif$(xl domid guest).0 /etc/xen/scripts/vif-lab online",
		},
		{At: atGuest, Run: "ping -c 1 10.77.0.1", Until: true, Want: []string{" 0% packet loss"}},
		{At: atGuest, Run: "journalctl --no-pager -o cat -n 2 -u xnetfrontd", Until: true, Want: []string{"the backend is back"}},
	}
}

func walkUpgrade() []Step {
	return []Step{
		{
			Say: "## Upgrade\n\nUnder traffic: the package asks the new program whether it can go on, and restarts the daemon.",
			At:  atGuest, Run: "touch /tmp/on\nwhile [ -e /tmp/on ]; do ping -c 1 -W 60 10.77.0.1 >/dev/null && echo answered || echo lost; sleep 0.2; done >/tmp/pings &\n" +
				"dpkg -i /root/" + debName(secondVersion) + "\nrm /tmp/on; wait; sort /tmp/pings | uniq -c",
			Want: []string{"can be taken over", " answered"}, Not: []string{"lost"},
		},
		{At: atGuest, Run: "xnetfrontd status", Want: []string{"xnetfrontd " + secondVersion, "taken over from an earlier process"}},
	}
}

func walkRemove() []Step {
	return []Step{
		{
			Say: "## Remove\n\nThe kernel's driver gets the vif back first:",
			At:  atGuest, Run: "systemctl disable --now xnetfrontd\nxnetfrontd release --vif 0", Want: []string{"the kernel's xen-netfront has it"},
		},
		{At: atGuest, Run: "dpkg --purge xnetfrontd", Want: []string{"Purging configuration files for xnetfrontd"}},
		{At: atGuest, Run: "ls /etc/xnetfrontd /run/xnetfrontd", Fail: true, Want: []string{"No such file"}},
	}
}
