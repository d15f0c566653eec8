package main

// mutants are the checks that face a backend, the holder's peers, and a state that another process
// has left.
var mutants = []mutant{
	{
		name: "XSA-376: more responses than requests", file: "pkg/xen/ring/front.go",
		from:  "if n > f.state.Published-f.state.RspCons {",
		to:    "if n > 1<<31 {",
		tests: "TestXSA376ResponseToWhatWasNotAsked", pkg: "pkg/netfront",
	},
	{
		name: "XSA-376: responses before they were published", file: "pkg/xen/ring/front.go",
		from:  "if n > f.state.Published-f.state.RspCons {",
		to:    "if n > f.size {",
		tests: "TestXSA376ResponseToWhatWasNotAsked", pkg: "pkg/netfront",
	},
	{
		name: "XSA-376: tx id in range", file: "pkg/busdma/pool.go",
		from:  "if uint(i) >= uint(len(p.maps)) {",
		to:    "if false {",
		tests: "TestXSA376ResponseToWhatWasNotAsked", pkg: "pkg/netfront",
	},
	{
		name: "XSA-376: tx id in flight", file: "pkg/netfront/txqueue.go",
		from:  "if m.State() != busdma.InFlight {",
		to:    "if false {",
		tests: "TestXSA376ResponseToWhatWasNotAsked",
	},
	{
		name: "XSA-376: tx NULL without an extra", file: "pkg/netfront/txqueue.go",
		from:  "if q.extras == 0 {",
		to:    "if false {",
		tests: "TestXSA376ResponseToWhatWasNotAsked",
	},
	{
		name: "XSA-376: rx frame without an end", file: "pkg/netfront/rxqueue.go",
		from:  "if waiting == q.ring.Size()-q.ring.Free() {",
		to:    "if false {",
		tests: "TestXSA376ResponseToWhatWasNotAsked",
	},
	{
		name: "XSA-376: rx extras without an end", file: "pkg/netfront/rxframe.go",
		from:  "if n == rxExtras {",
		to:    "if false {",
		tests: "TestXSA376ResponseToWhatWasNotAsked",
	},
	{
		name: "XSA-376: rx slot leaves its page", file: "pkg/netfront/rxframe.go",
		from:  "case int(r.Offset)+int(r.Status) > netif.PageSize:",
		to:    "case false:",
		tests: "TestXSA376SlotThatLeaves",
	},
	{
		name: "XSA-376: rx slot with an error", file: "pkg/netfront/rxframe.go",
		from:  "case r.Status < 0:",
		to:    "case false:",
		tests: "TestXSA376SlotThatLeaves",
	},
	{
		name: "XSA-376: rx frame shorter than a header", file: "pkg/netfront/rxframe.go",
		from:     "f.length < netif.MinFirst || ",
		to:       "",
		tests:    "TestXSA376SlotThatLeaves",
		survives: "DeriveRx refuses such a frame, too: two checks for the same",
	},
	{
		name: "XSA-376: rx slot read once", file: "pkg/netfront/rxframe.go",
		from: "		q.parts = append(q.parts, rxPart{",
		to: `		r = netif.ParseRxResponse(q.ring.Response(i))
		q.parts = append(q.parts, rxPart{`,
		tests: "TestXSA376SlotsThatChange",
	},
	{
		name: "XSA-391: spurious events are throttled", file: "pkg/netfront/writeback.go",
		from:  "(w.spurious > stormAfter && ready&readyTimeout == 0)",
		to:    "false",
		tests: "TestXSA391EventsForNothing",
	},
	{
		name: "XSA-391: the pause grows", file: "pkg/netfront/writeback.go",
		from:  "min(stormPause<<min(w.spurious-stormAfter, 10), stormPauseMax)",
		to:    "stormPause",
		tests: "TestXSA391EventsForNothing",
	},
	{
		name: "XSA-391: spurious events are counted", file: "pkg/netfront/writeback.go",
		from: `			w.spurious++
`,
		to:    "",
		tests: "TestXSA391EventsForNothing",
	},
	{
		name: "XSA-391: a broken queue stays masked", file: "pkg/netfront/worker.go",
		from:  "		return nextEnd, 0, err // and the ports stay masked: a broken backend cannot storm",
		to:    "		return nextEnd, 0, errors.Join(err, w.writeBack(event, true, ready))",
		tests: "TestXSA391BrokenQueue",
	},
	{
		name: "XSA-396: pages are kept over connections", file: "pkg/netfront/granted.go",
		from:  "	if i < len(g.pairs) {",
		to:    "	if i > 1<<20 {",
		tests: "TestXSA396|TestBackendThatKeepsItsMappings",
	},
	{
		name: "XSA-396: no page is used before its response", file: "pkg/netfront/txqueue.go",
		from: `		if err := q.release(m); err != nil {
			return err
		}
		crashPoint(crashTxRelease)`,
		to: `		for i := range q.slab.Pages() {
			if o, _ := q.pool.At(i); o.State() == busdma.InFlight {
				_ = q.release(o)
			}
		}
		_ = m`,
		tests: "TestTxNoPageIsReused|TestHostileBackendBreaksNoInvariant",
	},
	{
		name: "XSA-403: tx pages are read-only", file: "pkg/netfront/granted.go",
		from:  `{&p.tx, "tx", maps, false}`,
		to:    `{&p.tx, "tx", maps, true}`,
		tests: "TestXSA403|TestBackendCanReadTxPages",
	},
	{
		name: "XSA-403: pages are zeroed for the next connection", file: "pkg/netfront/granted.go",
		from:  "			clear(pages.Bytes())",
		to:    "			_ = pages",
		tests: "TestXSA403|TestPagesOfTheLastConnectionAreZeroed",
	},
	{
		name: "XSA-403: no more than the frame is copied", file: "pkg/netfront/txframe.go",
		from:  "frame[i*netif.PageSize:min((i+1)*netif.PageSize, len(frame))]",
		to:    "frame[i*netif.PageSize : min((i+1)*netif.PageSize, len(frame)+64) : len(frame)+64]",
		tests: "TestXSA403",
	},
	{
		name: "XSA-403: pages are given back when the domain changes", file: "pkg/netfront/granted.go",
		from:  "	case g.peer != a.domid:",
		to:    "	case false:",
		tests: "TestPagesOfOneDomain",
	},
	{
		name: "XSA-405: a buffer is posted after its frame", file: "pkg/netfront/rxqueue.go",
		from: `	if len(q.frames) > 0 {
		if err := q.write(); err != nil {
			return err
		}
	}
	crashPoint(crashRxWrite)
	return q.repost(first, taken)`,
		to: `	if err := q.repost(first, taken); err != nil || len(q.frames) == 0 {
		return err
	}
	return q.write()`,
		tests: "TestXSA405",
	},
	{
		name: "XSA-465: a vif that is gone is waited for", file: "pkg/netfront/connection.go",
		from:  "	if errors.Is(err, ErrNoVif) {",
		to:    "	if false {",
		tests: "TestXSA465",
	},
	{
		name: "rx frame of more slots than one has", file: "pkg/netfront/rxframe.go",
		from:  "case len(q.parts) == rxSlots:",
		to:    "case false:",
		tests: "TestHostileBackendBreaksNoInvariant|TestRxBadSlots",
	},
	{
		name: "rx frame longer than one is", file: "pkg/netfront/rxframe.go",
		from:  "|| f.length > netif.MaxTxSize ",
		to:    "",
		tests: "TestHostileBackendBreaksNoInvariant|TestRxBadSlots",
	},
	{
		name: "rx whole size that does not add up", file: "pkg/netfront/rxframe.go",
		from:  " || f.whole != 0 && f.whole != f.length",
		to:    "",
		tests: "TestFrameWhoseFirstSlot|TestHostileBackendBreaksNoInvariant",
	},
	{
		name: "rx buffers of a dropped frame go back", file: "pkg/netfront/rxqueue.go",
		from:  "	return q.repost(first, taken)",
		to:    "	if len(q.frames) == 0 {\n		return nil\n	}\n	return q.repost(first, taken)",
		tests: "TestHostileBackendBreaksNoInvariant|TestRx",
	},
	{
		name: "rx extra of an unknown type", file: "pkg/netfront/rxframe.go",
		from: `			if perr != nil {
				f.drop = cDropMalformed
			} else if`,
		to:    "			if perr == nil &&",
		tests: "TestRxBadSlots|TestBadFrames",
	},
	{
		name: "rx headers are private", file: "pkg/netfront/rxframe.go",
		from: `	q.iovec(head[:headFrame+n])
	q.rest(n)`,
		to: `	q.iovec(head[:headFrame])
	q.rest(0)`,
		tests: "TestHostileBackendBreaksNoInvariant|TestPageThatChanges",
	},
	{
		name: "rx headers are not read twice", file: "pkg/netfront/rxframe.go",
		from:     "skip := max(0, have-at)",
		to:       "skip := max(0, 0*have)",
		tests:    "TestHostileBackendBreaksNoInvariant|TestPageThatChanges|TestRx",
		survives: "what is read the second time is private, too, and looked at from the beginning again",
	},
	{
		name: "rx headers that do not fit", file: "pkg/netfront/rxframe.go",
		from: `	if err != nil {
		return cDropMalformed`,
		to: `	if err != nil && q == nil {
		return cDropMalformed`,
		tests: "TestHostileBackendBreaksNoInvariant|TestRxBadSlots",
	},
	{
		name: "segmentation of another protocol", file: "pkg/tap/derive.go",
		from:  "h.Proto != protoTCP || in.GSOType != h.gsoType() || ",
		to:    "",
		tests: "TestDeriveRxDropsSegmentation",
	},
	{
		name: "segments of no size", file: "pkg/tap/derive.go",
		from:  " || in.GSOSize < minGSOSize",
		to:    "",
		tests: "TestDeriveRxDropsSegmentation",
	},
	{
		name: "padding behind what is segmented", file: "pkg/tap/derive.go",
		from:  "v.GSOType != GSONone && h.End != frameLen",
		to:    "false",
		tests: "TestDeriveRxDropsSegmentation",
	},
	{
		name: "checksum where there is none", file: "pkg/tap/derive.go",
		from: `	if !ok {
		return VirtioHeader{}, 0, ErrNoChecksum`,
		to: `	if !ok && in.CsumBlank && in.DataValidated {
		return VirtioHeader{}, 0, ErrNoChecksum`,
		tests: "TestDeriveRxDropsABlank",
	},
	{
		name: "tx header that contradicts its frame", file: "pkg/tap/derive.go",
		from:  "if blank && int(v.CsumStart)+int(v.CsumOffset)+2 > frameLen {",
		to:    "if false {",
		tests: "TestCheckTxRefuses",
	},
	{
		name: "tx requests are published whole", file: "pkg/netfront/txqueue.go",
		from:  "if idle || q.wanted > 0 ||",
		to:    "if q.wanted > 0 ||",
		tests: "TestHostileBackendBreaksNoInvariant|TestTx",
	},
	{
		name: "tx frame too big for the backend", file: "pkg/netfront/txframe.go",
		from:  "	if len(f.frame) > q.maxFrame {",
		to:    "	if false {",
		tests: "TestHostileBackendBreaksNoInvariant|TestTx",
	},
	{
		name: "no request is put beyond the ring", file: "pkg/netfront/txqueue.go",
		from:  "q.pool.Free() >= n && int(q.ring.Free()) > n",
		to:    "q.pool.Free() >= n",
		tests: "TestHostileBackendBreaksNoInvariant|TestTx",
	},
	{
		name: "tx extras are counted down", file: "pkg/netfront/txqueue.go",
		from: `			q.extras--
`,
		to:    "",
		tests: "TestHostileBackendBreaksNoInvariant",
	},
	{
		name: "tx slot is put before its map is in flight", file: "pkg/netfront/txframe.go",
		from: `	q.put(&slot, r.ID)
	// After the put: a map in flight is always one that a put slot names.
	if err := q.tag.Publish(m); err != nil {
		return fmt.Errorf("publish tx map: %w", err)
	}`,
		to: `	if err := q.tag.Publish(m); err != nil {
		return fmt.Errorf("publish tx map: %w", err)
	}
	q.put(&slot, r.ID)`,
		tests:    "TestHostileBackendBreaksNoInvariant",
		survives: "it shows to a process that is killed between the two: test/handover, with its crash points",
	},
	{
		name: "domain of 15 bits", file: "pkg/netfront/xenbus.go",
		from:  "strconv.ParseUint(id, 10, 15)",
		to:    "strconv.ParseUint(id, 10, 64)",
		tests: "TestOpenSaysWhatIsWrong",
	},
	{
		name: "a state that is none", file: "pkg/xen/netif/xenbus.go",
		from:  "err != nil || n < 0 || n >= len(stateNames)",
		to:    "err != nil",
		tests: "TestStatesParse",
	},
	{
		name: "MTU from the store: not too small", file: "pkg/netfront/xenbus.go",
		from:  "mtu >= leastMTU && mtu <= maxMTU",
		to:    "mtu <= maxMTU",
		tests: "TestVifWhoseMTU|TestNonsenseOfTheToolstack|TestOpenSays",
	},
	{
		name: "MTU from the store: not too large", file: "pkg/netfront/xenbus.go",
		from:  "mtu >= leastMTU && mtu <= maxMTU",
		to:    "mtu >= leastMTU",
		tests: "TestVifWhoseMTU|TestNonsenseOfTheToolstack|TestMTU|TestOpenSays",
	},
	{
		name: "unicast address", file: "pkg/netfront/vifs.go",
		from:  " || mac[0]&1 != 0",
		to:    "",
		tests: "TestOpenSaysWhatIsWrong",
	},
	{
		name: "feature-rx-copy is there", file: "pkg/netfront/features.go",
		from:  "	if !o.rxCopy {",
		to:    "	if false {",
		tests: "TestBackendThatWouldFlipPages",
	},
	{
		name: "queues as configured, at most", file: "pkg/netfront/features.go",
		from:  "max(1, min(queues, o.maxQueues))",
		to:    "max(1, o.maxQueues)",
		tests: "TestNonsenseThatABackendOffers",
	},
	{
		name: "a number of queues", file: "pkg/netfront/features.go",
		from:     "perr == nil && n >= 1",
		to:       "perr == nil",
		tests:    "TestNonsenseThatABackendOffers",
		survives: "negotiate makes one of it: two checks for the same",
	},
	{
		name: "rate that cannot be", file: "pkg/netfront/shaping.go",
		from:  "wait > maxCreditWait",
		to:    "wait < 0",
		tests: "TestBackendCannotSwitchTheWatchdogOff",
	},
	{
		name: "no division by a rate of nothing", file: "pkg/netfront/shaping.go",
		from:  "err != nil || bytes == 0",
		to:    "err != nil",
		tests: "TestRatesAreRead",
	},
	{
		name: "back-off after violations", file: "pkg/netfront/device.go",
		from: `		backoff = max(backoff, d.set.Standing.floor())
`,
		to:    "",
		tests: "TestBackOff",
	},
	{
		name: "back-off doubles", file: "pkg/netfront/device.go",
		from:  "backoff = min(2*backoff, backoffMax)",
		to:    "backoff = min(backoff, backoffMax)",
		tests: "TestBackOff",
	},
	{
		name: "violations are counted", file: "pkg/netfront/standing.go",
		from: `	s.Violations++
`,
		to:    "",
		tests: "TestVifIsOffAfterTooMany",
	},
	{
		name: "off after too many", file: "pkg/netfront/standing.go",
		from:  "most > 0 && n >= most",
		to:    "false",
		tests: "TestVifIsOffAfterTooMany",
	},
	{
		name: "off when too many pages are left", file: "pkg/netfront/standing.go",
		from:  "left-d.forgiven > d.maxLeft",
		to:    "false",
		tests: "TestVifIsOffWhenBackendsKeep",
	},
	{
		name: "a backend that is bound anew for ever", file: "pkg/netfront/monitor.go",
		from:  "s.rebinds > maxRebinds",
		to:    "false",
		tests: "TestBackendThatFlaps",
	},
	{
		name: "worker that panics ends its connection", file: "pkg/netfront/panic.go",
		from:  "p := caught(recover()); p != nil",
		to:    "p := caught(nil); p != nil",
		tests: "Panic",
	},
	{
		name: "message longer than the protocol has", file: "pkg/xen/xenstore/wire.go",
		from:  "h.Length > MaxPayload",
		to:    "false",
		tests: "TestHeaderWithMorePayload",
	},
	{
		name: "holder: user of a client", file: "internal/hold/server.go",
		from:  "cred.Uid != 0 && int(cred.Uid) != os.Geteuid() && !slices",
		to:    "os.Geteuid() < 0 && !slices",
		tests: "TestForeignUsers|TestStrangers",
	},
	{
		name: "holder: places of strangers", file: "internal/hold/server.go",
		from:  "s.guests[stranger] >= maxStrangers && as == stranger",
		to:    "false",
		tests: "TestStrangers",
	},
	{
		name: "holder: places of clients", file: "internal/hold/server.go",
		from:  "case s.guests[served] >= MaxClients:",
		to:    "case false:",
		tests: "TestOneClientTooMany|TestStrangers",
	},
	{
		name: "holder: user of the holder", file: "internal/hold/client.go",
		from:  "if cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {",
		to:    "if false {",
		tests: "TestHolderOfAnotherUser",
	},
	{
		name: "holder: length of a message", file: "internal/hold/message.go",
		from:  "r.bad || len(r.rest) != 0",
		to:    "r.bad",
		tests: "TestGarbage",
	},
	{
		name: "holder: fields within a message", file: "internal/hold/message.go",
		from: `	if len(r.rest) < n {
`,
		to: `	if len(r.rest)+99 < n {
`,
		tests: "TestGarbage|TestLongest",
	},
	{
		name: "holder: as many descriptors as names", file: "internal/hold/message.go",
		from:  "	if len(fds) != len(m.names) {",
		to:    "	if len(fds) < len(m.names) {",
		tests: "TestGarbage",
	},
	{
		name: "holder: printable names", file: "internal/hold/bundle.go",
		from:  "if s[i] <= ' ' || s[i] > '~' {",
		to:    "if false {",
		tests: "TestGarbage|Test.*Put",
	},
	{
		name: "holder: names are one each", file: "internal/hold/bundle.go",
		from:  "		if seen[f.Name] {",
		to:    "		if false {",
		tests: "TestGarbage|Test.*Put|Test.*Bundle",
	},
	{
		name: "state: seals", file: "pkg/netfront/statefile.go",
		from:  "err != nil || seals&unix.F_SEAL_SHRINK == 0",
		to:    "err != nil",
		tests: "TestStateFileThatIsNone|TestStateOfAnother",
	},
	{
		name: "state: sum", file: "pkg/netfront/statefile.go",
		from:  "case h.Sum != f.sum():",
		to:    "case false:",
		tests: "TestEveryByte",
	},
	{
		name: "state: size against queues", file: "pkg/netfront/statefile.go",
		from:  "|| h.Size != uint64(len(f.mem)) || len(f.mem) != stateFileSize(int(h.Queues))",
		to:    "",
		tests: "TestStateFileWhoseSize",
	},
	{
		name: "state: layout", file: "pkg/netfront/statefile.go",
		from:  "h.Version != stateVersion || h.Layout != stateLayout()",
		to:    "false",
		tests: "TestEveryByte|TestStateOfAnother|TestStateFileThatIsNone",
	},
	{
		name: "state: frames in hand", file: "pkg/netfront/txstate.go",
		from:  "h.next > h.filled || h.filled > txBatch",
		to:    "false",
		tests: "TestStateOfAnother",
	},
	{
		name: "state: lengths of frames", file: "pkg/netfront/txstate.go",
		from:  "		if n > frameRoom {",
		to:    "		if false {",
		tests: "TestStateOfAnother",
	},
	{
		name: "state: rx maps in their places", file: "pkg/netfront/rxstate.go",
		from:  "uint32(id) >= maps || seen[id]",
		to:    "uint32(id) >= 256",
		tests: "TestStateOfAnother",
	},
	{
		name: "state: rx maps in range", file: "pkg/netfront/rxstate.go",
		from:  "uint32(id) >= maps || seen[id]",
		to:    "seen[id&255]",
		tests: "TestRxStateWithAMap",
	},
	{
		name: "state: ring against itself", file: "pkg/xen/ring/front.go",
		from:  "put > f.size || published > put || late > published",
		to:    "put > 1<<31 && published > put && late > published",
		tests: "TestRingWhoseWords",
	},
	{
		name: "state: maps of the pool", file: "pkg/busdma/state.go",
		from:  "		case state >= numStates:",
		to:    "		case false:",
		tests: "TestCorruptState",
	},
	{
		name: "state: number of maps", file: "pkg/busdma/pool.go",
		from:  "	if int(st.created) != slab.Pages() {",
		to:    "	if false {",
		tests: "TestCorruptState",
	},
	{
		name: "state: domain", file: "pkg/netfront/adopt.go",
		from:  " || h.Backend != uint32(b.domid)",
		to:    "",
		tests: "TestVifThatChanged|TestStateOfAnother|TestNextProcess",
	},
	{
		name: "state: restored since", file: "pkg/netfront/adopt.go",
		from:  "	if restored(b.store, markerPath(b.dir), l.nonce) {",
		to:    "	if false {",
		tests: "TestRestoredGuest",
	},
	{
		name: "state: rings in the store", file: "pkg/netfront/adopt.go",
		from:  "	if err := s.published(ctx, b.store, b.dir); err != nil {",
		to:    "	if err := s.published(ctx, b.store, b.dir); err != nil && s == nil {",
		tests: "TestVifThatChanged|TestStateOfAnother",
	},
	{
		name: "state: processes that died over it", file: "pkg/netfront/adopt.go",
		from:  "n >= maxAttempts",
		to:    "false",
		tests: "TestStateOfAnother|Attempts|TestNextProcess",
	},
	{
		name: "descriptors of the device", file: "pkg/xen/open.go",
		from:  "got.Mode&unix.S_IFMT != unix.S_IFCHR || got.Rdev != want.Rdev",
		to:    "false",
		tests: "TestOnlyDescriptors",
	},
}
