package journal

import (
	"strings"
	"unicode"
)

// message is the line that people see in plain `journalctl`:
//
//	vif 0: disconnected: backend-closed: the backend closed the vif; retry in 120ms (backend 3)
//
// It leaves out identifiers, structures and texts of several lines.
func message(msg string, fields []field) string {
	var subject, rest []string
	said := map[string]string{} // the fields with a place in the sentence
	for _, f := range fields {
		value := strings.ReplaceAll(f.value, "\n", "; ")
		switch f.key {
		case "vif", "queue":
			subject = append(subject, f.key+" "+value)
		case "cause", "error":
			said[f.key] = ": " + value
		case "retry_in":
			said[f.key] = "; retry in " + value
		case "left_out":
			said[f.key] = "; " + value + " such lines were left out, this is the last of them"
		case "age":
			said[f.key] = ", of " + value + " ago"
		case "message_id", "tap":
		default:
			if value != "" && !strings.Contains(f.value, "\n") && !strings.HasPrefix(value, "{") {
				rest = append(rest, strings.ReplaceAll(f.key, "_", " ")+" "+value)
			}
		}
	}
	text := msg + said["cause"] + said["error"] + said["retry_in"] + said["left_out"] + said["age"]
	if len(subject) > 0 {
		text = strings.Join(subject, " ") + ": " + text
	}
	if len(rest) > 0 {
		text += " (" + strings.Join(rest, ", ") + ")"
	}
	return strings.Map(printable, text)
}

// printable is r, or a blank if r would keep journalctl from showing the text.
func printable(r rune) rune {
	if unicode.IsControl(r) {
		return ' '
	}
	return r
}
