package tap

import (
	"encoding/binary"
	"testing"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// tagOutgoing gives every frame that Linux sends through a link the VLAN tag 5, beside
// the frame, as a VLAN link above it would do (and without needing the kernel to have
// such links). The TAP puts it into the frame on the way to the reader.
func tagOutgoing(t *testing.T, ifindex int) {
	t.Helper()
	fd := loadTagger(t)
	defer unix.Close(fd) // the filter holds it
	attrs := netlink.QdiscAttrs{LinkIndex: ifindex, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}
	if err := netlink.QdiscAdd(&netlink.GenericQdisc{QdiscAttrs: attrs, QdiscType: "clsact"}); err != nil {
		t.Fatalf("add clsact: %v", err)
	}
	filter := &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: ifindex, Parent: netlink.HANDLE_MIN_EGRESS, Protocol: unix.ETH_P_ALL, Priority: 1,
		},
		Fd: fd, Name: "tag", DirectAction: true,
	}
	if err := netlink.FilterAdd(filter); err != nil {
		t.Fatalf("add filter: %v", err)
	}
}

// loadTagger loads: bpf_skb_vlan_push(skb, 802.1Q, 5); return TC_ACT_OK.
func loadTagger(t *testing.T) int {
	t.Helper()
	const (
		mov, call, exit = 0xb7, 0x85, 0x95
		vlanPush        = 18 // enum bpf_func_id
		progLoad        = 5  // BPF_PROG_LOAD
		schedCls        = 3  // BPF_PROG_TYPE_SCHED_CLS
	)
	insn := func(op, dst byte, imm int32) []byte {
		return binary.NativeEndian.AppendUint32([]byte{op, dst, 0, 0}, uint32(imm))
	}
	var code []byte
	for _, i := range [][]byte{insn(mov, 2, 0x0081), insn(mov, 3, 5), insn(call, 0, vlanPush), insn(mov, 0, 0), insn(exit, 0, 0)} {
		code = append(code, i...)
	}
	license := []byte("BSD\x00")
	attr := struct {
		kind, insns         uint32
		code, license       unsafe.Pointer
		_, _                uint32
		_                   uint64
		_, _                uint32
		name                [16]byte
		_, _, _, _, _, _, _ uint32
	}{kind: schedCls, insns: uint32(len(code) / 8), code: unsafe.Pointer(&code[0]), license: unsafe.Pointer(&license[0])}
	for {
		fd, _, errno := unix.Syscall(unix.SYS_BPF, progLoad, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
		switch errno {
		case 0:
			return int(fd)
		case unix.EAGAIN: // the verifier gives up when a signal comes, as the Go runtime's do
		default:
			t.Fatalf("load BPF program: %v", errno)
		}
	}
}
