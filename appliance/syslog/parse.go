package syslog

import (
	"bytes"
	"strconv"
	"strings"
	"time"

	"github.com/triward/triward/agent/lines"
	"github.com/triward/triward/agent/wire"
)

// Message is a message as its sender wrote it, taken apart. Texts point into what was parsed.
type Message struct {
	Facility int // -1 when it names none
	Severity int // 0 emergency to 7 debug; -1 when it names none
	Time     int64
	HasTime  bool
	Host     string
	App      string
	PID      string
	ID       string       // MSGID of RFC 5424
	Data     []wire.Label // structured data: the element's id, a dot and the parameter's name
	Text     []byte
	// Malformed says why the message is of neither form; Text is all of it then.
	Malformed string
}

// Bounds of the parts of a message. What is longer is not that part.
const (
	maxHost = 255
	maxTag  = 128
	maxData = wire.MaxFields - 8 // parameters kept
)

// Parser takes messages apart. Its zone is that of times which name none, as those of RFC 3164.
type Parser struct{ times lines.Parser }

// NewParser makes a Parser.
func NewParser(zone *time.Location) *Parser { return &Parser{lines.Parser{Zone: zone}} }

// Parse reads a message of RFC 5424 or, which is what all else is taken for, of RFC 3164 as programs and devices write
// it: with times as RFC 3339 has them, with a year, with fractions, without a host, without a tag. now settles the year
// of a time without one. It never fails: what is malformed is kept whole.
func (p *Parser) Parse(raw []byte, now time.Time) Message {
	raw = bytes.TrimRight(raw, "\r\n\x00")
	m := Message{Facility: -1, Severity: -1, Text: raw}
	rest, ok := m.priority(raw)
	if !ok {
		m.Malformed = "no priority"
		return m
	}
	if len(rest) > 1 && rest[0] == '1' && rest[1] == ' ' {
		if why := p.modern(&m, rest[2:], now); why != "" {
			m = Message{Facility: m.Facility, Severity: m.Severity, Time: m.Time, HasTime: m.HasTime, Host: m.Host, App: m.App, Text: raw, Malformed: why}
		}
		return m
	}
	p.old(&m, bytes.TrimLeft(rest, " "), now)
	return m
}

// priority reads <n>, n from 0 to 191.
func (m *Message) priority(b []byte) (rest []byte, ok bool) {
	if len(b) < 3 || b[0] != '<' {
		return b, false
	}
	end := bytes.IndexByte(b[:min(len(b), 5)], '>')
	if end < 2 {
		return b, false
	}
	n := 0
	for _, c := range b[1:end] {
		if c < '0' || c > '9' {
			return b, false
		}
		n = n*10 + int(c-'0')
	}
	if n > 191 {
		return b, false
	}
	m.Facility, m.Severity = n/8, n%8
	return b[end+1:], true
}

// modern reads what follows the version of RFC 5424 and says what is wrong with it.
func (p *Parser) modern(m *Message, b []byte, now time.Time) string {
	var parts [5]string // time, host, app, process, message id
	for i := range parts {
		word, rest, found := bytes.Cut(b, []byte(" "))
		if !found && i < len(parts)-1 { // and this may not be all of a part
			return "the header ends early"
		}
		if string(word) != "-" {
			parts[i] = string(word)
		}
		switch b = rest; {
		case i == 0 && parts[0] != "":
			if m.Time, m.HasTime = p.times.Time(word, now); !m.HasTime || word[0] < '0' || word[0] > '9' {
				m.HasTime = false
				return "the time is not as RFC 3339 writes it"
			}
		case len(word) == 0 || len(word) > maxHost:
			return "a part of the header is empty or too long"
		case i == 1:
			m.Host = parts[1]
		case i == 2:
			m.App = parts[2]
		}
	}
	m.PID, m.ID = parts[3], parts[4]
	var why string
	if b, why = m.structured(b); why != "" {
		return why
	}
	m.Text = bytes.TrimPrefix(bytes.TrimPrefix(b, []byte(" ")), []byte("\xef\xbb\xbf"))
	return ""
}

// structured reads the elements of RFC 5424's structured data: [id name="value" ...]...
func (m *Message) structured(b []byte) (rest []byte, why string) {
	if len(b) > 0 && b[0] == '-' {
		return b[1:], ""
	}
	if len(b) > 0 && b[0] != '[' {
		return b, "structured data is missing"
	}
	for len(b) > 0 && b[0] == '[' {
		end := bytes.IndexAny(b, " ]")
		if end < 2 {
			return b, "an element of structured data has no end"
		}
		id := string(b[1:end])
		for b = b[end:]; len(b) > 0 && b[0] == ' '; {
			name, value, after, ok := parameter(b[1:])
			if !ok {
				return b, "a parameter of structured data is not name=\"value\""
			}
			if len(m.Data) < maxData && value != "" {
				m.Data = append(m.Data, wire.Label{Name: id + "." + name, Value: value})
			}
			b = after
		}
		if len(b) == 0 || b[0] != ']' {
			return b, "an element of structured data has no end"
		}
		b = b[1:]
	}
	return b, ""
}

// parameter reads name="value", in which \", \\ and \] stand for what follows the backslash.
func parameter(b []byte) (name, value string, rest []byte, ok bool) {
	eq := bytes.Index(b, []byte(`="`))
	if eq < 1 || eq > wire.MaxLabelName || bytes.ContainsAny(b[:eq], " ]\"") {
		return "", "", b, false
	}
	name, b = string(b[:eq]), b[eq+2:]
	var v []byte
	for i := 0; i < len(b); i++ {
		switch {
		case b[i] == '"':
			return name, string(v), b[i+1:], true
		case b[i] == '\\' && i+1 < len(b) && (b[i+1] == '"' || b[i+1] == '\\' || b[i+1] == ']'):
			i++
		}
		v = append(v, b[i])
	}
	return "", "", b, false
}

// old reads what follows the priority of RFC 3164.
func (p *Parser) old(m *Message, b []byte, now time.Time) {
	start := b
	b = sequence(b)
	stamp, rest := p.stamp(m, b, now)
	if stamp == 0 { // "in such a case it is all text": but a tag may stand there
		m.tag(start)
		return
	}
	if len(rest) > 0 && rest[0] == ':' { // devices: the message follows, and no host
		m.tag(bytes.TrimLeft(rest[1:], " "))
		return
	}
	rest = bytes.TrimLeft(rest, " ")
	word, after, found := bytes.Cut(rest, []byte(" "))
	switch {
	case !found || len(word) == 0 || len(word) > maxHost || bytes.IndexByte(word, '[') > 0:
		m.tag(rest)
	case word[len(word)-1] == ':':
		if len(word) <= 6 && strings.ToUpper(string(word)) == string(word) && word[0] != '%' && word[0] >= 'A' { // "UTC:"
			rest = bytes.TrimLeft(after, " ")
			if string(word) == "UTC:" || string(word) == "GMT:" { // other short names have several meanings
				m.Time = inUTC(m.Time, p.zone())
			}
		}
		m.tag(rest)
	default:
		m.Host = string(word)
		m.tag(bytes.TrimLeft(after, " "))
	}
}

// sequence passes over what some devices write before the time: "123: ", '*' or '.'.
func sequence(b []byte) []byte {
	i := 0
	for i < len(b) && i < 12 && b[i] >= '0' && b[i] <= '9' {
		i++
	}
	if i > 0 && i+1 < len(b) && b[i] == ':' && b[i+1] == ' ' {
		b = b[i+2:]
	}
	if len(b) > 1 && (b[0] == '*' || b[0] == '.') {
		b = b[1:]
	}
	return b
}

// stamp reads the time at the beginning of b; n is 0 when none is there.
func (p *Parser) stamp(m *Message, b []byte, now time.Time) (n int, rest []byte) {
	if len(b) >= 19 && b[0] >= '0' && b[0] <= '9' && b[4] == '-' {
		n = bytes.IndexByte(b, ' ')
		if n < 0 {
			n = len(b)
		}
		if n == 10 && len(b) >= 19 { // date and time apart
			if n = bytes.IndexByte(b[11:], ' ') + 11; n == 10 {
				n = len(b)
			}
		}
		if b[n-1] == ':' {
			n--
		}
		if m.Time, m.HasTime = p.times.Time(b[:n], now); m.HasTime {
			return n, b[n:]
		}
		return 0, b
	}
	if len(b) < 15 || b[3] != ' ' { // Nov 26 17:40:00
		return 0, b
	}
	year := ""
	clock := 7
	if b[6] != ' ' {
		return 0, b
	}
	if len(b) >= 20 && b[11] == ' ' && b[7] == '2' && b[8] == '0' { // Nov 26 2026 17:40:00
		year, clock = string(b[7:11]), 12
	}
	if len(b) < clock+8 || b[clock+2] != ':' || b[clock+5] != ':' {
		return 0, b
	}
	n = clock + 8
	if n < len(b) && (b[n] == '.' || b[n] == ',') {
		for n++; n < len(b) && b[n] >= '0' && b[n] <= '9'; n++ {
		}
	}
	text := string(b[:7]) + string(b[clock:n])
	if m.Time, m.HasTime = p.times.Time([]byte(text), now); !m.HasTime {
		return 0, b
	}
	if y, err := strconv.Atoi(year); err == nil {
		t := time.Unix(0, m.Time).In(p.zone())
		m.Time = time.Date(y, t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), t.Location()).UnixNano()
	}
	return n, b[n:]
}

// inUTC is the time whose date and clock in UTC are those of ns in the zone.
func inUTC(ns int64, zone *time.Location) int64 {
	t := time.Unix(0, ns).In(zone)
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC).UnixNano()
}

func (p *Parser) zone() *time.Location {
	if p.times.Zone == nil {
		return time.Local
	}
	return p.times.Zone
}

// tag reads "program[pid]: " or "program: " where they stand; what is left is the text.
func (m *Message) tag(b []byte) {
	m.Text = b
	i := 0
	for i < len(b) && i <= maxTag && tagByte(b[i]) {
		i++
	}
	if i == 0 || i > maxTag || i == len(b) {
		return
	}
	name, rest := string(b[:i]), b[i:]
	if rest[0] == '[' {
		end := bytes.IndexByte(rest[:min(len(rest), maxTag)], ']')
		if end < 0 || end+1 >= len(rest) || rest[end+1] != ':' {
			return
		}
		m.PID, rest = string(rest[1:end]), rest[end+1:]
	}
	if rest[0] != ':' || len(rest) > 1 && rest[1] != ' ' {
		m.PID = ""
		return
	}
	if facility, ok := strings.CutPrefix(name, "%"); ok { // %SYS-5-CONFIG_I of devices belongs to the text
		m.App, _, _ = strings.Cut(facility, "-")
		return
	}
	m.App, m.Text = name, bytes.TrimPrefix(rest[1:], []byte(" "))
}

// tagByte reports whether a program's name may hold the byte.
func tagByte(b byte) bool {
	return b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || strings.IndexByte("_-./%@()+#", b) >= 0
}

// facilities are the names of RFC 5424's numbers, as loggers write them.
var facilities = [...]string{
	"kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
	"ntp", "audit", "alert", "clock", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
}

// Fields are what of a message is kept beside its text.
func (m *Message) fields(from string) []wire.Label {
	fs := append([]wire.Label(nil), m.Data...)
	add := func(name, value string) {
		if value != "" {
			fs = append(fs, wire.Label{Name: name, Value: value})
		}
	}
	if m.Facility >= 0 {
		add("facility", facilities[m.Facility])
	}
	if m.Severity == 0 || m.Severity == 1 { // of a line both are critical
		add("severity", [...]string{"emergency", "alert"}[m.Severity])
	}
	add("pid", m.PID)
	add("msgid", m.ID)
	add("from", from)
	add("malformed", m.Malformed)
	return fs
}
