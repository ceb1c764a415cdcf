package queue

import (
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/triward/triward/agent/wire"
)

// Item is a message. What it holds is shared and must not be changed.
type Item struct {
	Position Position // index and item: its identity
	Topic    Topic
	Sender   string // id of the agent, or source, that sent it; "" of alerts
	LogTime  int64  // of its entry, milliseconds since 1970 by the leader's clock
	T        int64  // its own time, nanoseconds since 1970
	// Unverified says that no node knows any more whether all of the entry was applied: it may be a repeat.
	Unverified bool

	Series *Series // of a metric
	Value  float64

	Stream wire.Labels   // of a line or an event
	Line   *wire.LogLine // of a line or an event
	Alert  *AlertMessage // of an alert
}

// Series is the series of a metric.
type Series struct {
	ID     uint64
	Labels wire.Labels // nil when the cluster has forgotten it
	json   []byte      // `"agent_id":..,` and the part of data that does not change
}

// AlertMessage is a record of the history of alerts, as alerting committed it.
type AlertMessage struct {
	Notification bool
	Name, Agent  string
	Labels       map[string]string
	What         string
	Raw          json.RawMessage
}

// agentOf is who a message is of: the agent's id, or what a sender without one calls itself.
func agentOf(ls wire.Labels) string {
	for _, name := range [...]string{"agent", "agent_id", "host"} {
		if v := ls.Get(name); v != "" {
			return v
		}
	}
	return ""
}

// isOf reports whether a message is of an agent, named by its id, its host or as it calls itself.
func isOf(agent, sender string, ls wire.Labels) bool {
	return sender == agent || ls.Get("agent") == agent || ls.Get("agent_id") == agent || ls.Get("host") == agent
}

// AppendJSON appends the message to dst in the form that senders of JSON lists use (type, agent_id, timestamp, data)
// with our own members beside it. Texts longer than clip bytes are cut when clip is positive.
func (it *Item) AppendJSON(dst []byte, clip int) []byte {
	dst = append(dst, `{"index":`...)
	dst = strconv.AppendUint(dst, it.Position.Index, 10)
	dst = append(dst, `,"item":`...)
	dst = strconv.AppendUint(dst, it.Position.Item, 10)
	dst = append(dst, `,"topic":"`...)
	dst = append(append(dst, it.Topic...), '"')
	switch it.Topic {
	case Metrics:
		dst = append(dst, `,"type":"metric"`...)
	case Logs:
		dst = append(dst, `,"type":"log"`...)
	case Events:
		dst = append(dst, `,"type":"event"`...)
	default:
		if it.Alert.Notification {
			dst = append(dst, `,"type":"notification"`...)
		} else {
			dst = append(dst, `,"type":"alert"`...)
		}
	}
	dst = append(dst, `,"timestamp":`...)
	dst = appendSeconds(dst, it.T)
	dst = append(dst, `,"time_ns":"`...)
	dst = strconv.AppendInt(dst, it.T, 10)
	dst = append(dst, `","log_time_ms":`...)
	dst = strconv.AppendInt(dst, it.LogTime, 10)
	if it.Sender != "" {
		dst = appendText(append(dst, `,"sender":`...), it.Sender, 0)
	}
	if it.Unverified {
		dst = append(dst, `,"unverified":true`...)
	}
	switch {
	case it.Series != nil:
		dst = append(append(dst, ','), it.Series.json...)
		dst = append(dst, `,"value":`...)
		dst = append(appendNumber(dst, it.Value), '}')
	case it.Line != nil:
		dst = it.appendLine(dst, clip)
	case it.Alert != nil:
		dst = it.appendAlert(dst)
	}
	return append(dst, '}')
}

func (it *Item) appendLine(dst []byte, clip int) []byte {
	dst = appendText(append(dst, `,"agent_id":`...), agentOf(it.Stream), 0)
	dst = append(dst, `,"severity":"`...)
	dst = append(append(dst, it.Line.Severity.String()...), '"')
	dst = append(dst, `,"stream":`...)
	dst = appendLabels(dst, it.Stream, 0)
	dst = appendText(append(dst, `,"data":{"name":`...), it.Stream.Get("name"), 0)
	dst = appendText(append(dst, `,"value":`...), string(it.Line.Text), clip)
	dst = append(dst, `,"tags":`...)
	return append(appendLabels(dst, it.Line.Fields, clip), '}')
}

func (it *Item) appendAlert(dst []byte) []byte {
	a := it.Alert
	dst = appendText(append(dst, `,"agent_id":`...), a.Agent, 0)
	dst = appendText(append(dst, `,"data":{"name":`...), a.Name, 0)
	dst = appendText(append(dst, `,"value":`...), a.What, 0)
	dst = append(dst, `,"tags":`...)
	dst = appendLabels(dst, wire.LabelsFromMap(a.Labels), 0)
	dst = append(dst, `},"record":`...)
	return append(dst, a.Raw...)
}

// render makes the part of a series' messages that is the same in all of them.
func (s *Series) render() {
	name := s.Labels.Get("__name__")
	tags := slices.DeleteFunc(slices.Clone(s.Labels), func(l wire.Label) bool { return l.Name == "__name__" || l.Name == "agent_id" })
	b := appendText([]byte(`"agent_id":`), agentOf(s.Labels), 0)
	b = append(b, `,"series":`...)
	b = strconv.AppendUint(b, s.ID, 10)
	b = appendText(append(b, `,"data":{"name":`...), name, 0)
	b = append(b, `,"tags":`...)
	s.json = appendLabels(b, tags, 0)
}

func appendLabels(dst []byte, ls []wire.Label, clip int) []byte {
	dst = append(dst, '{')
	for i := range ls {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(appendText(dst, ls[i].Name, 0), ':')
		dst = appendText(dst, ls[i].Value, clip)
	}
	return append(dst, '}')
}

// appendSeconds writes nanoseconds as seconds with the digits that are needed.
func appendSeconds(dst []byte, ns int64) []byte {
	sec, rest := ns/1e9, ns%1e9
	if rest < 0 {
		sec, rest = sec-1, rest+1e9
	}
	dst = strconv.AppendInt(dst, sec, 10)
	if rest == 0 {
		return dst
	}
	dst = append(dst, '.')
	for unit := int64(1e8); rest > 0; unit /= 10 {
		dst = append(dst, byte('0'+rest/unit))
		rest %= unit
	}
	return dst
}

// appendNumber writes a number; JSON has none that are no numbers or infinite, so those are texts.
func appendNumber(dst []byte, v float64) []byte {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		dst = append(dst, '"')
		return append(strconv.AppendFloat(dst, v, 'g', -1, 64), '"')
	}
	return strconv.AppendFloat(dst, v, 'g', -1, 64)
}

const hexDigits = "0123456789abcdef"

// appendText writes a text; bytes that are no UTF-8 become U+FFFD.
func appendText(dst []byte, s string, clip int) []byte {
	cut := clip > 0 && len(s) > clip
	if cut {
		s = s[:clip]
	}
	dst = append(dst, '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && n == 1 {
				dst = append(append(dst, s[from:i]...), "\uFFFD"...)
				from = i + 1
			}
			i += n
			continue
		}
		if c >= ' ' && c != '"' && c != '\\' {
			i++
			continue
		}
		dst = append(dst, s[from:i]...)
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
		i++
		from = i
	}
	dst = append(dst, s[from:]...)
	if cut {
		dst = append(dst, "…"...)
	}
	return append(dst, '"')
}
