package metrics

import (
	"github.com/prometheus/client_golang/prometheus"
)

// family is one metric: all its series have the same name, meaning and labels.
type family struct {
	desc *prometheus.Desc
	kind prometheus.ValueType // not for the histogram
}

// families are the metrics of the collector, with their help texts. docs/metrics.md has the
// same table.
type families struct {
	all []*prometheus.Desc

	build, started, handoverReady, grantLimit family
	eventsLateFor, eventsLate                 family

	vifInfo, vifPresent, vifServed, vifUp         family
	vifDisabled, vifOff, vifUring                 family
	vifState, vifStateSince, vifTakenOver         family
	vifConnects, vifDisconnects                   family
	vifFeature, vifQueues, vifMTU, vifGrants      family
	tapPackets, tapBytes, tapErrors, tapDrops     family
	packets, bytes, slots, batches                family
	notifications, events, eventsSpurious         family
	superFrames, bounced, csumSoftware, segmented family
	csumGuessed, gsoFixup, parked, announced      family
	drops, backendResponses                       family
	maps, ringSlots, oldestInFlight               family
	vifShaping, vifRateLimit, queueRate           family
	waitingBytes, waitingSeconds                  family
	qdiscDrops, qdiscMarks                        family
}

// Label names, in the order in which the values are given.
func vifLabels(more ...string) []string { return append([]string{"vif"}, more...) }
func queueLabels(more ...string) []string {
	return append([]string{"vif", "queue", "direction"}, more...)
}

func newFamilies() *families {
	f := &families{}
	add := func(kind prometheus.ValueType, name, help string, labels []string) family {
		d := prometheus.NewDesc("xnetfrontd_"+name, help, labels, nil)
		f.all = append(f.all, d)
		return family{d, kind}
	}
	gauge := func(name, help string, labels ...string) family {
		return add(prometheus.GaugeValue, name, help, labels)
	}
	counter := func(name, help string, labels ...string) family {
		return add(prometheus.CounterValue, name, help, labels)
	}
	f.build = gauge("build_info", "Always 1; the labels say which program this is.", "version", "goversion")
	f.defineVif(gauge, counter)
	f.defineQueue(gauge, counter)
	// A histogram's kind is its own.
	f.batches = gauge("queue_batch_slots", "Slots published at once. The sum is that of queue_slots_total: for rx without the first filling of a ring.", queueLabels()...)
	return f
}

// define makes a family and adds it to all.
type define func(name, help string, labels ...string) family

func (f *families) defineVif(gauge, counter define) {
	f.started = gauge("start_time_seconds", "When the daemon started, in seconds since the epoch.")
	f.handoverReady = gauge("handover_ready", "1 while the holder has everything that the next daemon needs to go on without an outage.")
	f.grantLimit = gauge("grant_limit_pages", "Pages that the guest may grant, all programs together (limit of xen_gntalloc).")
	f.eventsLateFor = gauge("xenstore_events_late_seconds", "For how long xenstore's events have not come, to any program of the guest; 0: they come in time.")
	f.eventsLate = counter("xenstore_events_late_total", "Times that they began not to come.")
	f.vifInfo = gauge("vif_info", "Always 1; the labels say what the vif is now.", vifLabels("tap", "mac", "backend", "backend_domid")...)
	f.vifPresent = gauge("vif_present", "1 while the guest has the vif, 0 while it is waited for.", vifLabels()...)
	f.vifServed = gauge("vif_served", "1 while the vif has its TAP and nothing keeps the daemon from serving it.", vifLabels()...)
	f.vifUp = gauge("vif_up", "1 while frontend and backend are both Connected, so that frames pass.", vifLabels()...)
	f.vifOff = gauge("vif_off", "1 while the vif is off: its backend broke the protocol too often, or keeps too many pages.", vifLabels()...)
	f.vifDisabled = gauge("vif_disabled", "1 while the toolstack has disabled the vif: the TAP has no carrier.", vifLabels()...)
	f.vifState = gauge("vif_state", "1 for the state that the side is in, 0 for each other state of xenbus.", vifLabels("side", "state")...)
	f.vifStateSince = gauge("vif_state_since_timestamp_seconds", "When the frontend came into its state, in seconds since the epoch.", vifLabels()...)
	f.vifTakenOver = gauge("vif_taken_over", "1 while the connection is one that an earlier daemon began and handed over.", vifLabels()...)
	f.vifConnects = counter("vif_connects_total", "Connections to a backend since the TAP was opened, rebinds of the backend among them.", vifLabels()...)
	f.vifDisconnects = counter("vif_disconnects_total", "Connections, and attempts at one, that ended, by cause.", vifLabels("cause")...)
	f.vifFeature = gauge("vif_feature", "1 for a feature that the last negotiation agreed on, else 0.", vifLabels("feature")...)
	f.vifQueues = gauge("vif_queues", "Queue pairs of the connection; 0 without one.", vifLabels()...)
	f.vifShaping = gauge("vif_shaping", "1 for how the guest's frames are held back in its queueing discipline, 0 for the other modes.", vifLabels("mode")...)
	f.vifRateLimit = gauge("vif_rate_limit_bytes_per_second", "The backend's own limit on what the guest sends through each queue; 0: none.", vifLabels()...)
	f.vifMTU = gauge("vif_mtu_bytes", "MTU of the TAP.", vifLabels()...)
	f.vifUring = gauge("vif_io_uring", "1 while frames go to and from the TAP with io_uring, 0 while each is a system call.", vifLabels()...)
	f.vifGrants = gauge("vif_grants_used_pages", "Pages that are granted to the backend, rings among them.", vifLabels()...)
	f.tapPackets = counter("tap_packets_total", "Frames that the kernel counted on the TAP; tx leaves the guest.", vifLabels("direction")...)
	f.tapBytes = counter("tap_bytes_total", "Bytes of these frames.", vifLabels("direction")...)
	f.tapErrors = counter("tap_errors_total", "Frames that the kernel counted as errors on the TAP.", vifLabels("direction")...)
	f.tapDrops = counter("tap_drops_total", "Frames that the kernel dropped on the TAP; tx: its queue was full, or no queue was attached.", vifLabels("direction")...)
}

func (f *families) defineQueue(gauge, counter define) {
	f.packets = counter("queue_packets_total", "Ethernet frames carried.", queueLabels()...)
	f.bytes = counter("queue_bytes_total", "Bytes of the Ethernet frames carried.", queueLabels()...)
	f.slots = counter("queue_slots_total", "Ring slots used for frames, extras among them.", queueLabels()...)
	f.notifications = counter("queue_notifications_total", "Publications of requests: events raised at the backend (sent), and those it did not ask for (suppressed).", queueLabels("result")...)
	f.events = counter("queue_events_total", "Events received from the backend; all are with rx when both directions share a channel.", queueLabels()...)
	f.eventsSpurious = counter("queue_events_spurious_total", "Events that found nothing to do.", queueLabels()...)
	f.superFrames = counter("queue_super_frames_total", "Frames carried as one with segmentation offload.", queueLabels()...)
	f.bounced = counter("queue_bounced_total", "Frames copied into granted pages; the others were read in place.", queueLabels()...)
	f.csumSoftware = counter("queue_checksums_software_total", "Checksums that the daemon finished, since they could not be offloaded.", queueLabels()...)
	f.segmented = counter("queue_segmented_total", "Super-frames that the daemon cut, since they could not be offloaded.", queueLabels()...)
	f.csumGuessed = counter("queue_checksums_from_validated_total", "Frames said to be valid that were handed in with a pseudo-header sum (rx).", queueLabels()...)
	f.gsoFixup = counter("queue_gso_fixups_total", "Super-frames that came without csum_blank, and were mended (rx).", queueLabels()...)
	f.parked = counter("queue_parked_total", "Times that the queue had to wait for free maps or slots (tx).", queueLabels()...)
	f.announced = counter("queue_announcements_total", "Frames made by the daemon to announce the guest's addresses (tx).", queueLabels()...)
	f.drops = counter("queue_drops_total", "Frames that the daemon dropped, by cause.", queueLabels("cause")...)
	f.backendResponses = counter("queue_backend_responses_total", "Responses in which the backend said that it did not carry the frame, by status (tx).", queueLabels("status")...)
	f.maps = gauge("queue_maps", "DMA maps (one granted page each) by state.", queueLabels("state")...)
	f.ringSlots = gauge("queue_ring_slots_in_use", "Requests on the ring without a response: frames with the backend (tx), buffers posted to it (rx).", queueLabels()...)
	f.queueRate = gauge("queue_rate_bytes_per_second", "To what the queue's frames are held back in the guest's queueing discipline; 0: not at all (tx).", queueLabels()...)
	f.waitingBytes = gauge("queue_waiting_bytes", "Bytes on their way from the guest that wait in its queueing discipline (qdisc) or with the backend (ring) (tx).", queueLabels("where")...)
	f.waitingSeconds = gauge("queue_waiting_seconds", "About how long they wait there, at what the queue carries; 0 while it carries nothing (tx).", queueLabels("where")...)
	f.qdiscDrops = counter("queue_qdisc_drops_total", "Frames that the guest's queueing discipline dropped since it is there (tx).", queueLabels()...)
	f.qdiscMarks = counter("queue_qdisc_marks_total", "Frames in which it set Congestion Experienced since it is there (tx).", queueLabels()...)
	f.oldestInFlight = gauge("queue_oldest_in_flight_seconds", "Age of the oldest request that the backend has not answered, to the second (tx).", queueLabels()...)
}
