package capturefile

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/xnetfrontd/xnetfrontd/pkg/netfront"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

// comment describes in one line the frame's way over the ring. Semicolons separate its parts.
func comment(f *netfront.CapturedFrame) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s queue %d", f.Direction, f.Queue)
	if n := len(f.Slots); n > 0 {
		word := "request"
		if f.Direction == netfront.Rx {
			word = "response"
		}
		fmt.Fprintf(&b, " %s %d", word, f.Slots[0].Index)
		if n > 1 {
			fmt.Fprintf(&b, "-%d", f.Slots[n-1].Index)
		}
	}
	if f.Lost != "" {
		fmt.Fprintf(&b, "; LOST here: %s", f.Lost)
	} else if f.Direction == netfront.Tx {
		b.WriteString("; " + outcome(f))
	}
	if f.Missed > 0 {
		fmt.Fprintf(&b, "; %d frames before it are missing in this capture", f.Missed)
	}
	if len(f.Slots) > 0 {
		b.WriteString(checksum(f))
	}
	for i := range f.Slots {
		s := &f.Slots[i]
		b.WriteString("; slot " + strconv.Itoa(int(s.Index&(f.RingSize-1))) + ": ")
		if s.IsExtra {
			b.WriteString(extra(s.Extra))
			continue
		}
		fmt.Fprintf(&b, "id %d offset %d ", s.ID, s.Offset)
		if f.Direction == netfront.Rx && s.Size < 0 {
			b.WriteString("status " + status(int16(s.Size)))
		} else {
			fmt.Fprintf(&b, "size %d", s.Size)
		}
		if s.Flags != 0 {
			b.WriteString(" flags " + flags(f.Direction, s.Flags))
		}
		if s.Answered && s.Status != netif.StatusOkay {
			b.WriteString(" status " + status(s.Status))
		}
	}
	return b.String()
}

// outcome is the result of a tx frame.
func outcome(f *netfront.CapturedFrame) string {
	answered, data := 0, 0
	worst := int16(netif.StatusOkay)
	for _, s := range f.Slots {
		if s.IsExtra {
			continue
		}
		data++
		if s.Answered {
			answered++
			if s.Status != netif.StatusOkay {
				worst = s.Status
			}
		}
	}
	switch {
	case answered == 0:
		return "no response yet"
	case answered < data:
		return fmt.Sprintf("%d of %d responses yet, %s", answered, data, status(worst))
	}
	return fmt.Sprintf("response %s after %v", status(worst), max(0, f.Answered.Sub(f.Time).Round(time.Microsecond)))
}

// checksum explains the frame's checksums, by its flags, to a reader who finds them wrong.
func checksum(f *netfront.CapturedFrame) string {
	blank, validated := uint16(netif.TxCsumBlank), uint16(netif.TxDataValidated)
	if f.Direction == netfront.Rx {
		blank, validated = netif.RxCsumBlank, netif.RxDataValidated
	}
	switch first := f.Slots[0].Flags; {
	case first&blank != 0:
		return "; checksum left to the receiver, a wrong one is no error"
	case first&validated != 0:
		return "; checksum vouched for, a wrong one does no harm"
	}
	return ""
}

// flags are those of a slot, by the names of xen/include/public/io/netif.h.
func flags(d netfront.Direction, v uint16) string {
	names := []string{"csum_blank", "data_validated", "more_data", "extra_info"}
	if d == netfront.Rx {
		names = []string{"data_validated", "csum_blank", "more_data", "extra_info", "gso_prefix"}
	}
	var set []string
	for i, n := range names {
		if v&(1<<i) != 0 {
			set = append(set, n)
		}
	}
	if rest := v >> len(names) << len(names); rest != 0 {
		set = append(set, fmt.Sprintf("%#x", rest))
	}
	return strings.Join(set, ",")
}

// status is the name of a response's status, or its number.
func status(v int16) string {
	switch v {
	case netif.StatusOkay:
		return "OKAY"
	case netif.StatusError:
		return "ERROR"
	case netif.StatusDropped:
		return "DROPPED"
	case netif.StatusNull:
		return "NULL"
	}
	return strconv.Itoa(int(v))
}

func extra(e netif.Extra) string {
	switch e.Type {
	case netif.ExtraGSO:
		size, typ := e.GSO()
		name := map[netif.GSOType]string{netif.GSOTCPv4: "tcpv4", netif.GSOTCPv6: "tcpv6"}[typ]
		if name == "" {
			name = fmt.Sprintf("type %d", typ)
		}
		return fmt.Sprintf("extra gso %s size %d", name, size)
	case netif.ExtraMcastAdd, netif.ExtraMcastDel:
		return fmt.Sprintf("extra mcast type %d %x", e.Type, e.Data)
	case netif.ExtraHash:
		typ, algorithm, value := e.Hash()
		return fmt.Sprintf("extra hash type %d algorithm %d %x", typ, algorithm, value)
	case netif.ExtraXDP:
		return fmt.Sprintf("extra xdp %x", e.Data)
	}
	return fmt.Sprintf("extra of unknown type %d, %x", e.Type, e.Data)
}
