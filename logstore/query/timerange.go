package query

import (
	"math"
	"strings"
	"time"
	"unicode/utf8"
)

// Times matches lines with from <= T <= to, in nanoseconds since 1970.
func Times(from, to int64) *Filter {
	if from > to {
		return None()
	}
	return &Filter{op: opTime, from: from, to: to}
}

// Timed returns the times, both included, outside which no line can match, and a filter that decides the lines between them as
// f does.
func (f *Filter) Timed() (rest *Filter, from, to int64) {
	from, to = f.hull()
	switch f.op {
	case opTime:
		rest = All()
	case opAnd:
		kids := make([]*Filter, 0, len(f.kids))
		for _, k := range f.kids {
			if k.op != opTime {
				kids = append(kids, k)
			}
		}
		rest = And(kids...)
	default:
		rest = f
	}
	return rest, from, to
}

func (f *Filter) hull() (from, to int64) {
	from, to = math.MinInt64, math.MaxInt64
	switch f.op {
	case opNone:
		return to, from
	case opTime:
		return f.from, f.to
	case opAnd:
		for _, k := range f.kids {
			kf, kt := k.hull()
			from, to = max(from, kf), min(to, kt)
		}
	case opOr:
		from, to = to, from
		for _, k := range f.kids {
			kf, kt := k.hull()
			from, to = min(from, kf), max(to, kt)
		}
	}
	return from, to
}

// timeForms are the ways to write a time, and how long each lasts when it stands alone.
var timeForms = [...]struct {
	form string
	unit time.Duration
}{
	{"2006-01-02", 24 * time.Hour},
	{"2006-01-02T15", time.Hour},
	{"2006-01-02T15:04", time.Minute},
	{"2006-01-02T15:04:05", time.Second}, // also with a fraction
}

// timeRange reads @from..to at the current position, if there is one.
func (p *parser) timeRange() (f *Filter, ok bool, err error) {
	rest := p.text[p.pos:]
	if !strings.HasPrefix(rest, "@") {
		return nil, false, nil
	}
	rest = rest[1:]
	if open := strings.TrimPrefix(rest, ".."); open == "" || open[0] < '0' || open[0] > '9' {
		return nil, false, nil
	}
	start := p.pos + 1
	p.pos = start
	for !p.ends(p.pos) {
		p.pos++
	}
	first, second, isRange := strings.Cut(p.text[start:p.pos], "..")
	from, to := int64(math.MinInt64), int64(math.MaxInt64)
	var day time.Time
	if first != "" {
		var unit time.Duration
		if day, unit, err = p.moment(first, start, time.Time{}); err != nil {
			return nil, false, err
		}
		if from = day.UnixNano(); !isRange {
			to = day.Add(unit).UnixNano() - 1
		}
	}
	if second != "" {
		at := start + len(first) + len("..")
		end, unit, err := p.moment(second, at, day)
		if err != nil {
			return nil, false, err
		}
		if unit == 24*time.Hour { // the whole of the day
			end = end.Add(unit)
		}
		if to = end.UnixNano() - 1; to < from {
			return nil, false, p.fail(at, "this is not behind the beginning of the range")
		}
	}
	return Times(from, to), true, nil
}

// moment reads a time that stands at pos. A time of day alone is of the day that is given, and of its zone.
func (p *parser) moment(text string, pos int, day time.Time) (t time.Time, unit time.Duration, err error) {
	if len(text) > 2 && text[2] == ':' && !day.IsZero() {
		text = day.Format("2006-01-02T") + text
	}
	zone := time.UTC
	if !day.IsZero() {
		zone = day.Location()
	}
	for _, k := range timeForms {
		if t, err = time.ParseInLocation(k.form, text, zone); err != nil {
			if t, err = time.Parse(k.form+"Z07:00", text); err == nil {
				_, offset := t.Zone()
				t = t.In(time.FixedZone("", offset)) // not the zone of this machine that has the offset now
			}
		}
		if err == nil {
			if y := t.Year(); y < 1678 || y > 2261 { // what nanoseconds since 1970 can count
				return t, 0, p.fail(pos, "the year %d is out of range", y)
			}
			unit = k.unit
			if at := strings.IndexAny(text, ".,"); at >= 0 {
				for at++; at < len(text) && '0' <= text[at] && text[at] <= '9'; at++ {
					unit /= 10
				}
			}
			return t, max(unit, 1), nil
		}
	}
	if r, _ := utf8.DecodeLastRuneInString(text); r == '*' {
		return t, 0, p.fail(pos+len(text)-1, "a time takes no *: @2026-11-27T10 is all of that hour")
	}
	return t, 0, p.fail(pos, "%.40q is no time: write 2026-11-27, 2026-11-27T10:00 or 2026-11-27T10:00:05, in UTC or with a zone such as +08:00, and .. between two of them", text)
}
