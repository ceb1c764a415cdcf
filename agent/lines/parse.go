package lines

import (
	"bytes"
	"time"

	"github.com/triward/triward/agent/wire"
)

// headLen is how much of a line is looked at for its time and severity.
const headLen = 256

// Parser recognises times and severities. Its zone is used for times that name none.
type Parser struct{ Zone *time.Location }

// Time returns the time that the line states, in nanoseconds, or false when none is recognised. Known are
// RFC 3339 and its likes (with a space, commas or slashes), syslog's "Nov 23 21:00:01", klog's "I1123 21:00:01",
// the access-log form "[23/Nov/2026:21:00:01 +0000]", each also in brackets or behind a JSON key for the time.
// now settles the year where the line has none.
func (p *Parser) Time(line []byte, now time.Time) (int64, bool) {
	head := line[:min(len(line), headLen)]
	b := bytes.TrimLeft(head, " \t")
	if len(b) > 0 && b[0] == '<' { // syslog priority
		if i := bytes.IndexByte(b[:min(len(b), 6)], '>'); i > 0 {
			b = b[i+1:]
			if len(b) > 2 && b[0] == '1' && b[1] == ' ' {
				b = b[2:]
			}
		}
	}
	if len(b) > 0 && b[0] == '{' {
		return p.jsonTime(b)
	}
	if t, ok := p.at(b, now); ok {
		return t, true
	}
	if len(b) > 0 && (b[0] == '[' || b[0] == '(' || b[0] == '"') {
		if t, ok := p.at(b[1:], now); ok {
			return t, true
		}
	}
	if i := bytes.IndexByte(head, '['); i >= 0 {
		if t, ok := accessLog(head[i+1:]); ok {
			return t, true
		}
	}
	for _, key := range []string{"time=", "ts=", "timestamp="} {
		if i := bytes.Index(head, []byte(key)); i >= 0 {
			if t, ok := p.date(bytes.TrimLeft(head[i+len(key):], `"`)); ok {
				return t, true
			}
		}
	}
	return 0, false
}

// lateAfter is how much older than its writing a line may say it is.
const lateAfter = 7 * 24 * time.Hour

// fieldTimeParsed keeps the time that a line states when it is not the line's time.
const fieldTimeParsed = "time_parsed"

// SetTime gives the line the time that it states, unless that cannot be when it was written: a line written after
// since (zero: nobody knows) that begins with a date more than seven days before it speaks of something old. The
// cluster would refuse it as older than what it keeps; it gets the time of its reading and keeps the other in a
// field, which is appended.
func SetTime(line *wire.LogLine, stated int64, since, now time.Time) {
	if since.IsZero() || stated >= since.Add(-lateAfter).UnixNano() {
		line.T = stated
		return
	}
	line.T = now.UnixNano()
	line.Fields = append(line.Fields, wire.Label{
		Name: fieldTimeParsed, Value: time.Unix(0, stated).UTC().Format(time.RFC3339Nano),
	})
}

func (p *Parser) jsonTime(b []byte) (int64, bool) {
	for _, key := range []string{
		`"time":"`, `"ts":"`, `"timestamp":"`, `"@timestamp":"`, `"time": "`, `"ts": "`,
		`"timestamp": "`, `"@timestamp": "`,
	} {
		if i := bytes.Index(b, []byte(key)); i >= 0 {
			if t, ok := p.date(b[i+len(key):]); ok {
				return t, true
			}
		}
	}
	return 0, false
}

func (p *Parser) at(b []byte, now time.Time) (int64, bool) {
	if t, ok := p.date(b); ok {
		return t, true
	}
	if t, ok := p.syslog(b, now); ok {
		return t, true
	}
	return p.klog(b, now)
}

// num reads exactly n digits at b[i:].
func num(b []byte, i, n int) (int, bool) {
	if i+n > len(b) {
		return 0, false
	}
	v := 0
	for _, c := range b[i : i+n] {
		if c < '0' || c > '9' {
			return 0, false
		}
		v = v*10 + int(c-'0')
	}
	return v, true
}

// clock reads 21:00:01 with an optional fraction after a full stop or comma.
func clock(b []byte) (d time.Duration, rest []byte, ok bool) {
	h, ok1 := num(b, 0, 2)
	m, ok2 := num(b, 3, 2)
	s, ok3 := num(b, 6, 2)
	if !ok1 || !ok2 || !ok3 || b[2] != ':' || b[5] != ':' || h > 23 || m > 59 || s > 60 {
		return 0, b, false
	}
	d = time.Duration(h)*time.Hour + time.Duration(m)*time.Minute + time.Duration(s)*time.Second
	b = b[8:]
	if len(b) > 1 && (b[0] == '.' || b[0] == ',') && b[1] >= '0' && b[1] <= '9' {
		unit := 100 * time.Millisecond
		i := 1
		for ; i < len(b) && b[i] >= '0' && b[i] <= '9'; i++ {
			d += time.Duration(b[i]-'0') * unit
			unit /= 10
		}
		b = b[i:]
	}
	return d, b, true
}

// zone reads Z, +00:00 or +0000, after an optional space.
func zone(b []byte) (offset time.Duration, ok bool) {
	if len(b) > 0 && b[0] == ' ' {
		b = b[1:]
	}
	if len(b) == 0 {
		return 0, false
	}
	if b[0] == 'Z' || bytes.HasPrefix(b, []byte("UTC")) {
		return 0, true
	}
	if b[0] != '+' && b[0] != '-' {
		return 0, false
	}
	sign := time.Duration(1)
	if b[0] == '-' {
		sign = -1
	}
	h, ok1 := num(b, 1, 2)
	i := 3
	if len(b) > 3 && b[3] == ':' {
		i = 4
	}
	m, ok2 := num(b, i, 2)
	if !ok1 || !ok2 || h > 14 || m > 59 {
		return 0, false
	}
	return sign * (time.Duration(h)*time.Hour + time.Duration(m)*time.Minute), true
}

// date reads 2026-11-23T21:00:01.123Z and its likes.
func (p *Parser) date(b []byte) (int64, bool) {
	if len(b) < 19 || (b[4] != '-' && b[4] != '/') || b[7] != b[4] || (b[10] != 'T' && b[10] != ' ') {
		return 0, false
	}
	y, ok1 := num(b, 0, 4)
	mo, ok2 := num(b, 5, 2)
	d, ok3 := num(b, 8, 2)
	c, rest, ok4 := clock(b[11:])
	if !ok1 || !ok2 || !ok3 || !ok4 || mo < 1 || mo > 12 || d < 1 || d > 31 || y < 1970 || y > 2200 {
		return 0, false
	}
	return p.compose(y, time.Month(mo), d, c, rest), true
}

func (p *Parser) compose(y int, mo time.Month, d int, c time.Duration, rest []byte) int64 {
	if off, ok := zone(rest); ok {
		return time.Date(y, mo, d, 0, 0, 0, 0, time.UTC).Add(c - off).UnixNano()
	}
	z := p.Zone
	if z == nil {
		z = time.UTC
	}
	s := int(c / time.Second)
	return time.Date(y, mo, d, 0, 0, s, int(c%time.Second), z).UnixNano()
}

var months = [...]string{"Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"}

func month(b []byte) time.Month {
	if len(b) >= 3 {
		for i, m := range months {
			if string(b[:3]) == m {
				return time.Month(i + 1)
			}
		}
	}
	return 0
}

// syslog reads "Nov 23 21:00:01" and "Nov  3 21:00:01"; the year is the one that brings it nearest to now.
func (p *Parser) syslog(b []byte, now time.Time) (int64, bool) {
	mo := month(b)
	if mo == 0 || len(b) < 15 || b[3] != ' ' || b[6] != ' ' {
		return 0, false
	}
	d, ok := num(b, 4, 2)
	if !ok {
		if d, ok = num(b, 5, 1); !ok || b[4] != ' ' {
			return 0, false
		}
	}
	c, _, ok := clock(b[7:])
	if !ok || d < 1 || d > 31 {
		return 0, false
	}
	return p.nearest(mo, d, c, now), true
}

// klog reads "I1123 21:00:01.123456".
func (p *Parser) klog(b []byte, now time.Time) (int64, bool) {
	if len(b) < 14 || bytes.IndexByte([]byte("IWEFD"), b[0]) < 0 || b[5] != ' ' {
		return 0, false
	}
	mo, ok1 := num(b, 1, 2)
	d, ok2 := num(b, 3, 2)
	c, _, ok3 := clock(b[6:])
	if !ok1 || !ok2 || !ok3 || mo < 1 || mo > 12 || d < 1 || d > 31 {
		return 0, false
	}
	return p.nearest(time.Month(mo), d, c, now), true
}

func (p *Parser) nearest(mo time.Month, d int, c time.Duration, now time.Time) int64 {
	t := p.compose(now.Year(), mo, d, c, nil)
	switch diff := time.Duration(t - now.UnixNano()); {
	case diff > 24*time.Hour:
		return p.compose(now.Year()-1, mo, d, c, nil)
	case diff < -364*24*time.Hour:
		return p.compose(now.Year()+1, mo, d, c, nil)
	}
	return t
}

// accessLog reads "23/Nov/2026:21:00:01 +0000".
func accessLog(b []byte) (int64, bool) {
	if len(b) < 26 || b[2] != '/' || b[6] != '/' || b[11] != ':' {
		return 0, false
	}
	d, ok1 := num(b, 0, 2)
	mo := month(b[3:])
	y, ok2 := num(b, 7, 4)
	c, rest, ok3 := clock(b[12:])
	off, ok4 := zone(rest)
	if !ok1 || mo == 0 || !ok2 || !ok3 || !ok4 || d < 1 || d > 31 {
		return 0, false
	}
	return time.Date(y, mo, d, 0, 0, 0, 0, time.UTC).Add(c - off).UnixNano(), true
}

// SyslogSeverity turns the numbers of syslog and journal around (0 emergency ... 7 debug).
func SyslogSeverity(priority int) wire.Severity {
	switch {
	case priority < 0 || priority > 7:
		return wire.SeverityUnknown
	case priority <= 2:
		return wire.SeverityCritical
	}
	return [...]wire.Severity{
		3: wire.SeverityError, 4: wire.SeverityWarning, 5: wire.SeverityNotice,
		6: wire.SeverityInfo, 7: wire.SeverityDebug,
	}[priority]
}

// SeverityOf returns the severity that a word names, in capitals or not; SeverityUnknown when it names none.
func SeverityOf[T string | []byte](word T) wire.Severity {
	var low [13]byte
	if len(word) > len(low) {
		return wire.SeverityUnknown
	}
	for i := range len(word) {
		low[i] = word[i] | 0x20
	}
	switch string(low[:len(word)]) {
	case "debug", "dbg", "trace", "verbose", "fine":
		return wire.SeverityDebug
	case "info", "inf", "information", "informational":
		return wire.SeverityInfo
	case "notice":
		return wire.SeverityNotice
	case "warn", "warning", "wrn":
		return wire.SeverityWarning
	case "error", "err", "severe", "eror":
		return wire.SeverityError
	case "fatal", "critical", "crit", "panic", "emerg", "alert", "emergency":
		return wire.SeverityCritical
	}
	return wire.SeverityUnknown
}

func letter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }

// Severity returns what the line says: as a JSON object by its member level, severity or the like; else by its beginning, as
// a level in capitals, in brackets, as a word followed by a colon, or as the value of level, lvl or severity; or the
// priority or klog letter it starts with.
func Severity(line []byte) wire.Severity {
	if sev := memberSeverity(line); sev != wire.SeverityUnknown {
		return sev
	}
	b := line[:min(len(line), headLen)]
	if len(b) > 3 && b[0] == '<' {
		if p, ok := num(b, 1, 1); ok && b[2] == '>' {
			return SyslogSeverity(p % 8)
		}
		if i := bytes.IndexByte(b[:min(len(b), 5)], '>'); i > 1 {
			if p, ok := num(b, 1, i-1); ok {
				return SyslogSeverity(p % 8)
			}
		}
	}
	if len(b) > 8 && b[5] == ' ' && b[8] == ':' {
		if _, ok := num(b, 1, 4); ok {
			switch b[0] {
			case 'I':
				return wire.SeverityInfo
			case 'W':
				return wire.SeverityWarning
			case 'E':
				return wire.SeverityError
			case 'F':
				return wire.SeverityCritical
			case 'D':
				return wire.SeverityDebug
			}
		}
	}
	for i := 0; i < len(b); {
		if !letter(b[i]) {
			i++
			continue
		}
		j := i
		for j < len(b) && letter(b[j]) {
			j++
		}
		if sev := SeverityOf(b[i:j]); sev != wire.SeverityUnknown && stated(b, i, j) {
			return sev
		}
		i = j
	}
	return wire.SeverityUnknown
}

// stated reports whether the word b[i:j] stands where a level stands and not somewhere in a sentence.
func stated(b []byte, i, j int) bool {
	if i > 0 && (b[i-1] >= '0' && b[i-1] <= '9' || b[i-1] == '-' || b[i-1] == '.' || b[i-1] == '/') {
		return false
	}
	capitals := true
	for _, c := range b[i:j] {
		capitals = capitals && c < 'a'
	}
	if capitals && (j == len(b) || b[j] != '_' && b[j] != '=') && (i == 0 || b[i-1] != '_') {
		return true
	}
	if i > 0 && j < len(b) && (b[i-1] == '[' && b[j] == ']' || b[i-1] == '<' && b[j] == '>' || b[i-1] == '(' && b[j] == ')') {
		return true
	}
	if j < len(b) && b[j] == ':' && (i == 0 || b[i-1] == ' ') {
		return true
	}
	before := bytes.TrimRight(b[:i], `"' `)
	for _, key := range []string{"level=", "lvl=", "severity=", `"level":`, `"severity":`, `"lvl":`, "level\":", "loglevel="} {
		if bytes.HasSuffix(before, []byte(key)) {
			return true
		}
	}
	return false
}
