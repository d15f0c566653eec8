package tap

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// ErrElsewhere says that the link was moved into another network namespace, and that this
// process may not do there what was asked for.
var ErrElsewhere = errors.New("the link is in another network namespace")

// State is the link as it is now.
type State struct {
	Name  string
	Index int // in its namespace; 0: not known
	MAC   net.HardwareAddr
	MTU   int // 0: not known
	// QueueLen is how many frames each queue holds; 0: not known.
	QueueLen int
	Up       bool
	Stats    Stats
	// Namespace is empty while the link is in the network namespace in which it was made.
	// Else it is the other one's name, as in ip-netns(8), or net:[...] with its inode's
	// number, as lsns(8) and /proc/PID/ns/net have it.
	Namespace string
	// Known says that the namespace may be looked into: else Index, MTU, Up and Stats are
	// not known.
	Known bool
}

// State reads what the link is like. It fails with [ErrLinkGone] when there is none any more.
func (d *Device) State() (State, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l, err := d.find()
	if err != nil && !errors.Is(err, ErrElsewhere) {
		return State{}, fmt.Errorf("read link: %w", err)
	}
	s := State{Namespace: d.elsewhere}
	if l != nil {
		s.Name, s.Index, s.MAC, s.MTU, s.QueueLen, s.Stats, s.Known = l.name, l.index, l.mac, l.mtu, l.queueLen, l.stats, true
		s.Up = l.flags&unix.IFF_UP != 0
		return s, nil
	}
	if s.Name, _, err = queueInfo(d.keeper); err == nil {
		s.MAC, err = hardwareAddress(d.keeper)
	}
	return s, err
}

// findTries bounds how often a link is looked up anew that was renamed or moved meanwhile.
const findTries = 4

// find looks the link up where it is. Indices are given out again in time, and a link can be
// renamed and moved to another namespace, so its name, which the keeper knows, must be that
// of the link with the index. With [ErrElsewhere] d.elsewhere says where it is all the same.
func (d *Device) find() (*linkInfo, error) {
	if d.closed {
		return nil, ErrClosed
	}
	return d.look()
}

func (d *Device) look() (*linkInfo, error) {
	var err error
	for range findTries {
		var name string
		if name, _, err = queueInfo(d.keeper); err != nil {
			return nil, err
		}
		if d.elsewhere == "" && d.index != 0 {
			l, err := d.rt.linkByIndex(home, d.index)
			if err == nil && l.name == name {
				return l, nil
			}
			if err != nil && !errors.Is(err, errNoLink) {
				return nil, fmt.Errorf("look up link %q: %w", name, err)
			}
		}
		var l *linkInfo
		if l, err = d.locate(name); err == nil {
			d.index = l.index
			return l, nil
		}
		if !errors.Is(err, errNoLink) {
			return nil, err
		}
	}
	return nil, err
}

// locate finds out in which namespace the link is, and looks it up there.
func (d *Device) locate(name string) (*linkInfo, error) {
	at, err := d.where()
	if err != nil {
		if errors.Is(err, unix.EPERM) {
			if l, err := d.twin(name); err == nil {
				d.elsewhere = ""
				return l, nil
			}
			d.elsewhere = "not known"
			err = fmt.Errorf("%w: %w", ErrElsewhere, err)
		}
		return nil, fmt.Errorf("look up link %q: %w", name, err)
	}
	defer at.Close()
	id := home
	d.elsewhere = ""
	if !d.ns.handle.Equal(at) {
		d.elsewhere = describeNamespace(at)
		id, err = d.rt.namespaceID(int(at))
	}
	var l *linkInfo
	if err == nil {
		l, err = d.rt.linkByName(id, name)
	}
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return nil, fmt.Errorf("look up link %q: %w, %s: %w", name, ErrElsewhere, d.elsewhere, err)
	case err != nil:
		return nil, fmt.Errorf("look up link %q: %w", name, err)
	}
	return l, nil
}

// twin is the link at home that has the name and the MAC address of ours: which is ours, as
// far as a process can know that may not ask where it is.
func (d *Device) twin(name string) (*linkInfo, error) {
	mac, err := hardwareAddress(d.keeper)
	if err != nil {
		return nil, err
	}
	l, err := d.rt.linkByName(home, name)
	if err == nil && !bytes.Equal(l.mac, mac) {
		err = errNoLink
	}
	return l, err
}

// where is the network namespace that the link is in. The caller closes it.
func (d *Device) where() (at netns.NsHandle, err error) {
	err = d.privileged(func() error {
		fd, err := unix.IoctlRetInt(d.keeper, unix.TUNGETDEVNETNS)
		at = netns.NsHandle(fd)
		return err
	})
	if errors.Is(err, unix.EBADFD) {
		err = ErrLinkGone
	}
	if err != nil {
		return netns.None(), fmt.Errorf("get the link's network namespace: %w", err)
	}
	return at, nil
}

// named are where network namespaces have names: those of ip-netns(8) and of Docker. (Other
// container engines use the first.)
var named = []string{"/run/netns", "/run/docker/netns"}

// describeNamespace is what people call a namespace.
func describeNamespace(at netns.NsHandle) string {
	var want unix.Stat_t
	if err := unix.Fstat(int(at), &want); err != nil {
		return "not known"
	}
	for _, path := range namespaceFiles() {
		var st unix.Stat_t
		if unix.Stat(path, &st) == nil && st.Dev == want.Dev && st.Ino == want.Ino {
			return filepath.Base(path)
		}
	}
	return fmt.Sprintf("net:[%d]", want.Ino)
}

// namespaceFiles are the files of the namespaces that have a name.
func namespaceFiles() (paths []string) {
	for _, dir := range named {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue // none, or none that this process may see
		}
		for _, e := range entries {
			paths = append(paths, filepath.Join(dir, e.Name()))
		}
	}
	slices.Sort(paths)
	return paths
}

// change finds the link and calls set on it, with a netlink handle of its namespace. In
// another one than that in which the device was made this takes CAP_SYS_ADMIN, which a
// sandboxed process lacks: then it is [ErrElsewhere].
func (d *Device) change(what string, set func(*netlink.Handle, netlink.Link) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	l, err := d.find()
	if err != nil {
		return fmt.Errorf("set %s: %w", what, err)
	}
	link := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: l.index, Name: l.name, GSOMaxSize: l.gso}}
	if l.ns == home {
		err = d.privileged(func() error { return set(d.nl, link) })
	} else {
		err = d.inside(func() error {
			nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
			if err != nil {
				return err
			}
			defer nl.Close()
			return set(nl, link)
		})
	}
	if err != nil {
		return fmt.Errorf("set %s: %w", what, err)
	}
	return nil
}

// inside calls f with privileges on a thread that is in the link's namespace.
func (d *Device) inside(f func() error) error {
	at := d.ns
	if d.elsewhere != "" {
		h, err := d.where()
		if err != nil {
			return err
		}
		defer h.Close()
		at = namespace{handle: h}
	}
	err := at.run(func() error { return d.privileged(f) })
	if d.elsewhere != "" && errors.Is(err, errEnter) {
		return fmt.Errorf("%w, %s: %w", ErrElsewhere, d.elsewhere, err)
	}
	return err
}
