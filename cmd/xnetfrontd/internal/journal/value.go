package journal

import (
	"encoding/json"
	"strings"
	"time"

	"go.uber.org/zap/zapcore"
)

// field is a field of a log line, as text.
type field struct{ key, value string }

// values turns fields into text: a string as it is, a list as its elements with blanks
// in between, a structure as JSON.
func values(fields []zapcore.Field) []field {
	// An encoder for JSON knows all types of fields. One field at a time keeps their order.
	encoder := zapcore.NewJSONEncoder(zapcore.EncoderConfig{
		EncodeDuration: encodeDuration, EncodeTime: zapcore.RFC3339NanoTimeEncoder, SkipLineEnding: true,
	})
	var list []field
	for _, f := range fields {
		buf, err := encoder.EncodeEntry(zapcore.Entry{}, []zapcore.Field{f})
		if err != nil {
			list = append(list, field{f.Key, err.Error()})
			continue
		}
		var object map[string]json.RawMessage
		err = json.Unmarshal(buf.Bytes(), &object)
		buf.Free()
		if v, ok := object[f.Key]; err == nil && ok {
			list = append(list, field{f.Key, text(v)})
		}
	}
	return list
}

// encodeDuration rounds to milliseconds: less says nothing in a log.
func encodeDuration(d time.Duration, to zapcore.PrimitiveArrayEncoder) {
	if d > time.Millisecond {
		d = d.Round(time.Millisecond)
	}
	to.AppendString(d.String())
}

// text is a JSON value as text for people.
func text(v json.RawMessage) string {
	var s string
	if json.Unmarshal(v, &s) == nil {
		return s
	}
	var elements []json.RawMessage
	if json.Unmarshal(v, &elements) != nil {
		return string(v)
	}
	var texts []string
	for _, e := range elements {
		texts = append(texts, text(e))
	}
	return strings.Join(texts, " ")
}
