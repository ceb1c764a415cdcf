package lokiapi

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/triward/triward/logstore/logql"
	"github.com/triward/triward/logstore/logql/storesource"
	"github.com/triward/triward/logstore/logql/syntax"
	"github.com/triward/triward/logstore/query"
)

// maxSeconds is the last whole second whose nanoseconds an int64 holds.
const maxSeconds = math.MaxInt64 / int64(time.Second)

// parseTime reads a time as nanoseconds since 1970: a whole number of up to ten digits is seconds, of up to fourteen
// milliseconds, of up to seventeen microseconds, a longer one nanoseconds; a number with a point is seconds; else RFC 3339.
func parseTime(s string) (int64, error) {
	bad := fmt.Errorf("%.40q is no time: seconds, milliseconds or nanoseconds since 1970, or RFC 3339, are wanted", s)
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		switch digits := len(strings.TrimLeft(s, "+0")); {
		case n < 0:
			return 0, fmt.Errorf("%d is before 1970", n)
		case digits <= 10:
			if n > maxSeconds {
				return 0, fmt.Errorf("%d is after the year 2262", n)
			}
			return n * int64(time.Second), nil
		case digits <= 14:
			if n > maxSeconds*1000 {
				return 0, fmt.Errorf("%d is after the year 2262", n)
			}
			return n * int64(time.Millisecond), nil
		case digits <= 17:
			if n > maxSeconds*1_000_000 {
				return 0, fmt.Errorf("%d is after the year 2262", n)
			}
			return n * int64(time.Microsecond), nil
		}
		return n, nil
	}
	if f, err := strconv.ParseFloat(s, 64); err == nil {
		if !(f >= 0 && f < float64(maxSeconds)) {
			return 0, bad
		}
		whole, frac := math.Modf(f)
		return int64(whole)*int64(time.Second) + int64(math.Round(frac*1e3))*int64(time.Millisecond), nil
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil || t.Year() < 1970 || t.Year() > 2261 {
		return 0, bad
	}
	return t.UnixNano(), nil
}

// parseDuration reads 15s, 5m, 1h30m, 7d, or a number of seconds.
func parseDuration(s string) (time.Duration, error) {
	if f, err := strconv.ParseFloat(s, 64); err == nil {
		if ns := f * float64(time.Second); math.Abs(ns) < math.MaxInt64 { // false for NaN too
			return time.Duration(ns), nil
		}
		return 0, fmt.Errorf("%.40q is no duration", s)
	}
	d, err := syntax.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%.40q is no duration: 15s, 5m, 1h or a number of seconds is wanted", s)
	}
	return d, nil
}

// time returns a parameter, or def when it is absent.
func (q *request) time(name string, def int64) (int64, error) {
	s := q.form.Get(name)
	if s == "" {
		return def, nil
	}
	t, err := parseTime(s)
	if err != nil {
		return 0, badf("parameter %s: %v", name, err)
	}
	return t, nil
}

// span returns start and end. since, and back when that is absent too, is how long before the end, or before now, an
// absent start is.
func (q *request) span(back time.Duration) (start, end int64, err error) {
	now := q.now.UnixNano()
	if end, err = q.time("end", now); err != nil {
		return 0, 0, err
	}
	if since := q.form.Get("since"); since != "" {
		if back, err = parseDuration(since); err != nil || back < 0 {
			return 0, 0, badf("parameter since: %.40q is no duration such as 1h", since)
		}
	}
	if start, err = q.time("start", max(0, min(end, now)-int64(back))); err != nil {
		return 0, 0, err
	}
	if q.form.Get("end") == "" && end < start { // a client whose clock is ahead asks for what is yet to come
		end = start
	}
	if end < start {
		return 0, 0, badf("end timestamp must not be before or equal to start time (start %d, end %d)", start, end)
	}
	return start, end, nil
}

// number returns a whole number from 1 to most, or def when it is absent.
func (q *request) number(name string, def, most int) (int, error) {
	s := q.form.Get(name)
	if s == "" {
		return def, nil
	}
	n, err := strconv.Atoi(s)
	switch {
	case err != nil:
		return 0, badf("parameter %s: %.40q is no whole number", name, s)
	case n < 1:
		return 0, badf("parameter %s must be a positive value", name)
	case n > most:
		return 0, badf("parameter %s is greater than allowed (%d > %d)", name, n, most)
	}
	return n, nil
}

// minStep bounds how fine a range is looked at.
const minStep = time.Millisecond

// step returns the step of a range: as given, else the 250th part of the range in whole seconds, as Loki chooses it.
func (q *request) step(start, end int64) (time.Duration, error) {
	s := q.form.Get("step")
	if s == "" {
		return time.Duration(max(1, (end-start)/(250*int64(time.Second)))) * time.Second, nil
	}
	d, err := parseDuration(s)
	switch {
	case err != nil:
		return 0, badf("parameter step: %v", err)
	case d < minStep:
		return 0, badf("parameter step: zero or negative query resolution step widths are not accepted, try a positive one (at least %s)", minStep)
	}
	return d, nil
}

// stepsOf returns how many steps a span of time takes, the last one begun counting whole. The sum of span and step may be more than an
// int64 holds.
func stepsOf(span, step int64) int64 {
	n := span / step
	if span%step > 0 {
		n++
	}
	return n
}

// expr returns the query, which must be there.
func (q *request) expr() (logql.Expr, error) {
	text := q.form.Get("query")
	if text == "" {
		return nil, badf("parameter query is missing: a query in LogQL is wanted, such as {host=\"web-1\"} |= \"error\"")
	}
	return logql.Parse(text)
}

// selector returns the streams that a query selects: nil for all, when the parameter is absent, {}, or not wanted.
func (q *request) selector(must bool) ([]*labels.Matcher, error) {
	text := q.form.Get("query")
	switch strings.TrimSpace(text) {
	case "":
		if must {
			_, err := q.expr()
			return nil, err
		}
		return nil, nil
	case "{}":
		return nil, nil
	}
	return selectorOf(new(syntax.Reader), text)
}

// selectorOf reads a selector; stages behind it are left out, since questions about streams do not look at lines.
func selectorOf(read *syntax.Reader, text string) ([]*labels.Matcher, error) {
	e, err := read.Parse(text)
	if err != nil {
		return nil, err
	}
	var sel []*labels.Matcher
	found := 0
	syntax.Walk(e, func(e logql.Expr) {
		if l, ok := e.(*syntax.Log); ok {
			sel = l.Selector
			found++
		}
	})
	if found != 1 {
		return nil, badf("the query has %d selectors; one is wanted, such as {host=\"web-1\"}", found)
	}
	return sel, nil
}

// filterOf is a selector as the store decides it.
func filterOf(sel []*labels.Matcher) (*query.Filter, error) {
	f, rest := storesource.Filter(&logql.Query{Selector: sel})
	if len(rest) > 0 {
		return nil, badf("the expression %.80q is too large for a question about streams: repeat less in it", rest[0].Value)
	}
	return f, nil
}
