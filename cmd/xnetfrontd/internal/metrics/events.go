package metrics

import (
	"strings"

	"go.uber.org/zap"
)

// Events of a log line's field message_id: what the journal has as MESSAGE_ID, and what
// docs/log.md and the journal's catalog (deploy/catalog) explain. They are random 128-bit
// numbers (systemd-id128 new), and never change.
const (
	// EventMetricsNotServed: A socket for the metrics could not be opened, or has failed. The
	// vifs are served all the same. Fields: XNF_ERROR, XNF_RETRY_IN.
	EventMetricsNotServed = "893a066a75914ad5aa407c41919208d9"
)

// notServed are the fields of a line with that event.
func notServed(err error, more ...zap.Field) []zap.Field {
	return append(more, zap.String("error", strings.ReplaceAll(err.Error(), "\n", "; ")), zap.String("message_id", EventMetricsNotServed))
}
