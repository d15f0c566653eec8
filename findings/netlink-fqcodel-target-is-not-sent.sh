#!/bin/sh
# github.com/vishvananda/netlink v1.3.1: FqCodel has a field Target, which QdiscList fills
# in, and QdiscAdd, QdiscReplace and QdiscChange leave out of their request. The kernel
# then has its default, 5 ms, and nobody reports an error. One would expect that a field
# which can be read can be set, as Interval can, the next one.
#
# The script makes the request that QdiscAdd sends, with the library's own function, and
# lists the attributes in its options (TCA_FQ_CODEL_* of linux/pkt_sched.h: TARGET is 1,
# LIMIT 2, INTERVAL 3, ECN 4). Seen:
#
#     ecn=0
#     limit=1000
#     interval=200000
here="$(cd "$(dirname "$0")" && pwd)"
. "$here/common.sh"
touch empty.s # the compiler wants one beside a function without a body
cat >main.go <<'GO'
package main

import (
	"encoding/binary"
	"fmt"
	"log"
	_ "unsafe"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
)

//go:linkname qdiscPayload github.com/vishvananda/netlink.qdiscPayload
func qdiscPayload(req *nl.NetlinkRequest, qdisc netlink.Qdisc) error

var names = map[uint16]string{1: "target", 2: "limit", 3: "interval", 4: "ecn"}

func main() {
	q := netlink.NewFqCodel(netlink.QdiscAttrs{LinkIndex: 1, Parent: netlink.HANDLE_ROOT})
	q.Target, q.Interval, q.Limit, q.ECN = 20_000, 200_000, 1000, 0
	req := nl.NewNetlinkRequest(0, 0)
	if err := qdiscPayload(req, q); err != nil {
		log.Fatal(err)
	}
	for _, part := range req.Data {
		attr, ok := part.(*nl.RtAttr)
		if !ok || attr.Type != nl.TCA_OPTIONS {
			continue
		}
		options, err := nl.ParseRouteAttr(attr.Serialize()[4:])
		if err != nil {
			log.Fatal(err)
		}
		for _, o := range options {
			fmt.Printf("%s=%d\n", names[o.Attr.Type], binary.NativeEndian.Uint32(o.Value))
		}
	}
}
GO
cat >go.mod <<'MOD'
module finding

go 1.26.0

require (
	github.com/vishvananda/netlink v1.3.1
	github.com/vishvananda/netns v0.0.5
	golang.org/x/sys v0.49.0
)
MOD
cat >go.sum <<'SUM'
github.com/vishvananda/netlink v1.3.1 h1:3AEMt62VKqz90r0tmNhog0r/PpWKmrEShJU0wJW6bV0=
github.com/vishvananda/netlink v1.3.1/go.mod h1:ARtKouGSTGchR8aMwmkzC0qiNPrrWO5JS/XMVl45+b4=
github.com/vishvananda/netns v0.0.5 h1:DfiHV+j8bA32MFM7bfEunvT8IAqQ/NzSJHtcmW5zdEY=
github.com/vishvananda/netns v0.0.5/go.mod h1:SpkAiCQRtJ6TvvxPnOSyH3BMl6unz3xZlaprSwhNNJM=
golang.org/x/sys v0.49.0 h1:XbzkgYJHdqh/8m2Uu0W/dQv8nktxx4BFHp1M0gROTXA=
golang.org/x/sys v0.49.0/go.mod h1:hNLxWAXmnKAxqDtdwIYC4bM9oQPEecfsnNMuSxOs3og=
golang.org/x/sys v0.2.0/go.mod h1:oPkhp1MJrh7nUepCBck5+mAzfO9JrbApNNgaTdGDITg=
golang.org/x/sys v0.10.0/go.mod h1:oPkhp1MJrh7nUepCBck5+mAzfO9JrbApNNgaTdGDITg=
SUM
build
expect 'ecn=0
limit=1000
interval=200000' "netlink v1.3.1 does not send FqCodel.Target" ./program
