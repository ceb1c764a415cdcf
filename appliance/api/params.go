package api

import (
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/triward/triward/appliance/problem"
)

// paramKind says how a parameter is read.
type paramKind uint8

const (
	paramText paramKind = iota
	paramInt
	paramTime     // ns since 1970, from ns, ms, RFC 3339 or now-1h
	paramDuration // ns, from 30s, 5m, 1h, 7d or milliseconds
	paramChoice
)

// Param is a parameter of a route's query.
type Param struct {
	Name     string
	Kind     paramKind
	Doc      string
	Required bool
	Default  string   // as if it had been sent; "" for none
	Min, Max int64    // of paramInt, and of paramDuration in ms; both 0 for no bound
	MaxLen   int      // of paramText in bytes; 256 when 0
	Choices  []string // of paramChoice
}

// values holds the parameters of a request as read.
type values struct {
	text   map[string]string
	number map[string]int64
}

func (v values) str(name string) string { return v.text[name] }
func (v values) int(name string) int64  { return v.number[name] }
func (v values) has(name string) bool   { _, ok := v.text[name]; return ok }

func badParam(name, format string, args ...any) *problem.Problem {
	return problem.New(http.StatusBadRequest, "parameter "+name+": "+fmt.Sprintf(format, args...))
}

// readParams reads the query strictly: an unknown, doubled or malformed parameter is an error that names it.
func readParams(query string, params []Param, now time.Time) (values, error) {
	v := values{text: make(map[string]string), number: make(map[string]int64)}
	if len(query) > 64<<10 {
		return v, problem.New(http.StatusRequestURITooLong, "the query string is longer than 64 KiB")
	}
	sent, err := url.ParseQuery(query)
	if err != nil {
		return v, problem.New(http.StatusBadRequest, "the query string cannot be read: "+err.Error())
	}
	for name, all := range sent {
		known := slices.ContainsFunc(params, func(p Param) bool { return p.Name == name })
		if !known {
			return v, problem.New(http.StatusBadRequest, fmt.Sprintf("unknown parameter %.60q", name)).
				WithHint("known are " + names(params))
		}
		if len(all) > 1 {
			return v, badParam(name, "given %d times", len(all))
		}
	}
	for i := range params {
		if err := v.read(&params[i], sent, now); err != nil {
			return v, err
		}
	}
	return v, nil
}

func names(params []Param) string {
	if len(params) == 0 {
		return "none"
	}
	list := make([]string, len(params))
	for i, p := range params {
		list[i] = p.Name
	}
	return strings.Join(list, ", ")
}

func (v *values) read(p *Param, sent url.Values, now time.Time) error {
	text := sent.Get(p.Name)
	if text == "" {
		text = p.Default
	}
	if text == "" {
		if p.Required {
			return badParam(p.Name, "is required").WithHint(p.Doc)
		}
		return nil
	}
	v.text[p.Name] = text
	switch p.Kind {
	case paramText:
		limit := p.MaxLen
		if limit == 0 {
			limit = 256
		}
		if len(text) > limit {
			return badParam(p.Name, "%d bytes; at most %d", len(text), limit)
		}
	case paramChoice:
		if !slices.Contains(p.Choices, text) {
			return badParam(p.Name, "%.40q is none of %s", text, strings.Join(p.Choices, ", "))
		}
	case paramInt:
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return badParam(p.Name, "%.40q is no whole number", text)
		}
		if (p.Min != 0 || p.Max != 0) && (n < p.Min || n > p.Max) {
			return badParam(p.Name, "%d; want %d to %d", n, p.Min, p.Max)
		}
		v.number[p.Name] = n
	case paramTime:
		t, err := parseTime(text, now)
		if err != nil {
			return badParam(p.Name, "%v", err)
		}
		v.number[p.Name] = t
	case paramDuration:
		d, err := parseDuration(text)
		if err != nil {
			return badParam(p.Name, "%v", err)
		}
		if ms := d.Milliseconds(); (p.Min != 0 || p.Max != 0) && (ms < p.Min || ms > p.Max) {
			return badParam(p.Name, "%s; want %s to %s", d, time.Duration(p.Min)*time.Millisecond,
				time.Duration(p.Max)*time.Millisecond)
		}
		v.number[p.Name] = int64(d)
	}
	return nil
}

// firstNano is the least number taken for nanoseconds; smaller ones are milliseconds. It is 1970-01-12 in the one
// and the year 33658 in the other unit.
const firstNano = 1e15

// parseTime reads a time as ns since 1970.
func parseTime(text string, now time.Time) (int64, error) {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		switch {
		case n < 0:
			return 0, fmt.Errorf("%d is before 1970", n)
		case n > math.MaxInt64/int64(time.Millisecond) && n < firstNano:
			return 0, fmt.Errorf("%d is after the year 2262", n)
		case n < firstNano:
			return n * int64(time.Millisecond), nil
		}
		return n, nil
	}
	if rest, ok := strings.CutPrefix(text, "now"); ok {
		if rest == "" {
			return now.UnixNano(), nil
		}
		d, err := parseDuration(rest[1:])
		if err == nil && rest[0] == '-' {
			return now.Add(-d).UnixNano(), nil
		}
		if err == nil && rest[0] == '+' {
			return now.Add(d).UnixNano(), nil
		}
	}
	t, err := time.Parse(time.RFC3339Nano, text) // nanoseconds end in the year 2262
	if err != nil || t.Year() < 1970 || t.Year() > 2261 {
		return 0, fmt.Errorf("%.40q is no time; want nanoseconds or milliseconds since 1970, RFC 3339, or now-1h", text)
	}
	return t.UnixNano(), nil
}

// parseDuration reads 500ms, 30s, 5m, 1h30m, 7d, 2w, or milliseconds.
func parseDuration(text string) (time.Duration, error) {
	bad := fmt.Errorf("%.40q is no duration; want 30s, 5m, 1h, 7d or milliseconds", text)
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		if n < 0 || n > math.MaxInt64/int64(time.Millisecond) {
			return 0, bad
		}
		return time.Duration(n) * time.Millisecond, nil
	}
	for suffix, unit := range map[string]time.Duration{"d": 24 * time.Hour, "w": 7 * 24 * time.Hour} {
		if count, ok := strings.CutSuffix(text, suffix); ok {
			n, err := strconv.ParseUint(count, 10, 16)
			if err != nil || n > 36500 {
				return 0, bad
			}
			return time.Duration(n) * unit, nil
		}
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0, bad
	}
	return d, nil
}
