package journal

import (
	"encoding/binary"
	"strconv"
	"strings"

	"go.uber.org/zap/zapcore"
)

// EventLost is the MESSAGE_ID of the entry that counts the entries lost before it. Priority:
// warning. Fields: XNF_LOST, XNF_ERROR.
const EventLost = "b41fee3936b04002aac45f363cb477ec"

const (
	identifier = "xnetfrontd"
	facility   = "3" // daemon
)

// Priorities of syslog(3).
const (
	priorityCritical = "2"
	priorityError    = "3"
	priorityWarning  = "4"
	priorityInfo     = "6"
	priorityDebug    = "7"
)

func priority(l zapcore.Level) string {
	switch {
	case l < zapcore.InfoLevel:
		return priorityDebug
	case l == zapcore.InfoLevel:
		return priorityInfo
	case l == zapcore.WarnLevel:
		return priorityWarning
	case l == zapcore.ErrorLevel:
		return priorityError
	}
	return priorityCritical
}

// newEntry begins an entry with the fields that every entry has.
func newEntry(priority, message string) []byte {
	b := appendField(nil, "MESSAGE", message)
	b = appendField(b, "PRIORITY", priority)
	b = appendField(b, "SYSLOG_IDENTIFIER", identifier)
	return appendField(b, "SYSLOG_FACILITY", facility)
}

// lostEntry is the entry that says that n entries did not get to the journal, the last one for
// this reason.
func lostEntry(n int, reason error) []byte {
	lines := "lines were"
	if n == 1 {
		lines = "line was"
	}
	b := newEntry(priorityWarning, strconv.Itoa(n)+" log "+lines+" lost: journald did not take them: "+reason.Error())
	b = appendField(b, "MESSAGE_ID", EventLost)
	b = appendField(b, "XNF_LOST", strconv.Itoa(n))
	return appendField(b, "XNF_ERROR", reason.Error())
}

// appendField adds a field in journald's format: NAME=value on a line, or, for a value
// of several lines, NAME, a line feed, the length (64 bits, little-endian), the value.
func appendField(b []byte, name, value string) []byte {
	b = append(b, name...)
	if !strings.ContainsRune(value, '\n') {
		b = append(b, '=')
	} else {
		b = append(b, '\n')
		b = binary.LittleEndian.AppendUint64(b, uint64(len(value)))
	}
	b = append(b, value...)
	return append(b, '\n')
}

// maxName is the longest name that journald takes for a field.
const maxName = 64

// fieldName is the name in the journal of a field of a log line.
func fieldName(key string) string {
	switch key {
	case "vif", "queue", "backend", "cause", "tap", "message_id":
		return strings.ToUpper(key)
	}
	name := "XNF_" + strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, key)
	return name[:min(len(name), maxName)]
}
