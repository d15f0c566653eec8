package tap

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// qdisc is one of a link's queueing disciplines (RTM_NEWQDISC of rtnetlink(7)).
type qdisc struct {
	handle, parent uint32
	kind           string
	QdiscStats
}

// QdiscStats is what waits in a queueing discipline, and what it has done since it is
// there.
type QdiscStats struct {
	Frames  uint32 `json:"frames"`  // that wait; a super-frame is one
	Bytes   uint32 `json:"bytes"`   // that wait, as the kernel counts them: with the headers of each segment
	Dropped uint32 `json:"dropped"` // frames
	Marked  uint32 `json:"marked"`  // frames with Congestion Experienced set, of fq_codel
}

// traffic is where a link's queueing disciplines are looked at and changed.
type traffic struct {
	index   int // of the link
	nl      *netlink.Handle
	sockets map[int]*nl.SocketHandle // of the link's namespace; nil: the thread is in it
}

// request is one to rtnetlink(7), about the link's disciplines.
func (t *traffic) request(kind, flags int, reply uint16, parent uint32, attrs ...*nl.RtAttr) ([][]byte, error) {
	r := nl.NewNetlinkRequest(kind, flags)
	r.Sockets = t.sockets
	r.AddData(&nl.TcMsg{Family: nl.FAMILY_ALL, Ifindex: int32(t.index), Parent: parent})
	for _, a := range attrs {
		r.AddData(a)
	}
	return r.Execute(unix.NETLINK_ROUTE, reply)
}

// qdiscs lists the link's disciplines. The netlink library has such a list, without what
// fq_codel has marked.
func (t *traffic) qdiscs() (list []qdisc, err error) {
	var messages [][]byte
	for range dumpTries {
		messages, err = t.request(unix.RTM_GETQDISC, unix.NLM_F_DUMP, unix.RTM_NEWQDISC, 0)
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("list queueing disciplines: %w", err)
	}
	for _, m := range messages {
		// A dump is of all links: the kernel looks at no index here (tc_dump_qdisc).
		head := nl.DeserializeTcMsg(m)
		if int(head.Ifindex) != t.index {
			continue
		}
		attrs, err := nl.ParseRouteAttr(m[head.Len():])
		if err != nil {
			return nil, fmt.Errorf("list queueing disciplines: %w", err)
		}
		q := qdisc{handle: head.Handle, parent: head.Parent}
		for _, a := range attrs {
			switch a.Attr.Type {
			case nl.TCA_KIND:
				q.kind = unix.ByteSliceToString(a.Value)
			case nl.TCA_STATS2:
				if err := q.parse(a.Value); err != nil {
					return nil, fmt.Errorf("list queueing disciplines: %w", err)
				}
			}
		}
		list = append(list, q)
	}
	return list, nil
}

// parse reads TCA_STATS2. Its parts are arrays of 32-bit numbers: gnet_stats_queue has
// frames, bytes, drops first (include/uapi/linux/gen_stats.h); fq_codel's own,
// tc_fq_codel_xstats, has type 0, maxpacket, drop_overlimit, ecn_mark
// (include/uapi/linux/pkt_sched.h).
func (q *qdisc) parse(stats []byte) error {
	attrs, err := nl.ParseRouteAttr(stats)
	if err != nil {
		return err
	}
	word := func(b []byte, i int) uint32 {
		if len(b) < 4*(i+1) {
			return 0
		}
		return nl.NativeEndian().Uint32(b[4*i:])
	}
	for _, a := range attrs {
		switch {
		case a.Attr.Type == nl.TCA_STATS_QUEUE:
			q.Frames, q.Bytes, q.Dropped = word(a.Value, 0), word(a.Value, 1), word(a.Value, 2)
		case a.Attr.Type == nl.TCA_STATS_APP && q.kind == kindFqCodel && word(a.Value, 0) == 0:
			q.Marked = word(a.Value, 3)
		}
	}
	return nil
}

const (
	kindMq      = "mq"
	kindHtb     = "htb"
	kindFqCodel = "fq_codel"
)

// setFqCodel puts fq_codel below parent, with the given target in microseconds. The
// netlink library's FqCodel has a Target, which it does not send.
func (t *traffic) setFqCodel(parent, target uint32) error {
	options := nl.NewRtAttr(nl.TCA_OPTIONS, nil)
	options.AddRtAttr(nl.TCA_FQ_CODEL_TARGET, nl.Uint32Attr(target))
	_, err := t.request(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_REPLACE|unix.NLM_F_ACK, 0, parent,
		nl.NewRtAttr(nl.TCA_KIND, nl.ZeroTerminated(kindFqCodel)), options)
	if err != nil {
		return fmt.Errorf("set %s: %w", kindFqCodel, err)
	}
	return nil
}
