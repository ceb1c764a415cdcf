package pipeline

import (
	"encoding/base64"
	stdjson "encoding/json"
	"errors"
	"fmt"
	"math"
	"net/url"
	"strconv"
	"strings"
	"text/template"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/triward/triward/logstore/logql/syntax"
	"github.com/triward/triward/logstore/regex"
)

// funcs are the functions of templates. Each counts what it makes.
func (t *lineTemplate) funcs() template.FuncMap {
	m := template.FuncMap{
		"__step__":      func() (string, error) { return "", t.step() },
		"__line__":      func() (string, error) { return t.give(t.p.str()) },
		"__timestamp__": func() time.Time { return time.Unix(0, t.p.t).UTC() },
		"now":           func() time.Time { return t.p.opts.Now },
		"print": func(args ...any) (string, error) {
			return t.print("", args, func() string { return fmt.Sprint(args...) })
		},
		"println": func(args ...any) (string, error) {
			return t.print("", args, func() string { return fmt.Sprintln(args...) })
		},
		"printf": func(f string, args ...any) (string, error) {
			return t.print(f, args, func() string { return fmt.Sprintf(f, args...) })
		},
		"html":     func(args ...any) (string, error) { return t.escape(args, template.HTMLEscapeString) },
		"js":       func(args ...any) (string, error) { return t.escape(args, template.JSEscapeString) },
		"urlquery": func(args ...any) (string, error) { return t.escape(args, url.QueryEscape) },
		"fromJson": t.fromJSON,
		"default":  func(d, v string) (string, error) { return t.give(orDefault(d, v)) },
	}
	t.textFuncs(m)
	t.numberFuncs(m)
	t.timeFuncs(m)
	return m
}

func orDefault(d, v string) string {
	if v == "" {
		return d
	}
	return v
}

func (t *lineTemplate) textFuncs(m template.FuncMap) {
	one := func(name string, f func(string) string) {
		m[name] = func(s string) (string, error) { return t.give(f(s)) }
	}
	two := func(name string, f func(a, s string) string) {
		m[name] = func(a, s string) (string, error) { return t.give(f(a, s)) }
	}
	swap := func(f func(s, a string) string) func(a, s string) string {
		return func(a, s string) string { return f(s, a) }
	}
	one("ToLower", strings.ToLower)
	one("ToUpper", strings.ToUpper)
	one("lower", strings.ToLower)
	one("upper", strings.ToUpper)
	one("title", title)
	one("trim", strings.TrimSpace)
	one("TrimSpace", strings.TrimSpace)
	two("Trim", strings.Trim)
	two("TrimLeft", strings.TrimLeft)
	two("TrimRight", strings.TrimRight)
	two("TrimPrefix", strings.TrimPrefix)
	two("TrimSuffix", strings.TrimSuffix)
	two("trimAll", swap(strings.Trim))
	two("trimPrefix", swap(strings.TrimPrefix))
	two("trimSuffix", swap(strings.TrimSuffix))
	one("b64enc", func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) })
	one("urlencode", url.QueryEscape)
	m["b64dec"] = func(s string) (string, error) {
		b, err := base64.StdEncoding.DecodeString(s)
		if err != nil {
			return "", errors.New("b64dec: not base64")
		}
		return t.give(string(b))
	}
	m["urldecode"] = func(s string) (string, error) {
		v, err := url.QueryUnescape(s)
		if err != nil {
			return "", errors.New("urldecode: not an escaped text")
		}
		return t.give(v)
	}
	m["contains"] = func(sub, s string) (bool, error) { return strings.Contains(s, sub), t.step() }
	m["hasPrefix"] = func(sub, s string) (bool, error) { return strings.HasPrefix(s, sub), t.step() }
	m["hasSuffix"] = func(sub, s string) (bool, error) { return strings.HasSuffix(s, sub), t.step() }
	m["Replace"] = func(s, old, new string, n int) (string, error) { return t.replace(s, old, new, n) }
	m["replace"] = func(old, new, s string) (string, error) { return t.replace(s, old, new, -1) }
	m["trunc"] = func(n int, s string) (string, error) { return t.give(trunc(n, s)) }
	m["substr"] = func(start, end int, s string) (string, error) { return t.give(substr(start, end, s)) }
	m["alignLeft"] = func(n int, s string) (string, error) { return t.align(n, s, true) }
	m["alignRight"] = func(n int, s string) (string, error) { return t.align(n, s, false) }
	m["indent"] = func(n int, s string) (string, error) { return t.indent(n, s) }
	m["nindent"] = func(n int, s string) (string, error) {
		s, err := t.indent(n, s)
		return "\n" + s, err
	}
	m["repeat"] = func(n int, s string) (string, error) {
		if n < 0 || n > MaxOutput || n*len(s) > MaxOutput {
			return "", errOutput
		}
		return t.give(strings.Repeat(s, n))
	}
	m["regexReplaceAll"] = func(expr, s, repl string) (string, error) { return t.regexReplace(expr, s, repl, true) }
	m["regexReplaceAllLiteral"] = func(expr, s, repl string) (string, error) { return t.regexReplace(expr, s, repl, false) }
	m["count"] = func(expr, s string) (int, error) {
		re, err := t.cache.get(expr)
		if err != nil {
			return 0, err
		}
		if err := t.room(len(s)); err != nil {
			return 0, err
		}
		found, err := re.FindAllStringSubmatchIndex(s, maxMatches, t.p.opts.Stop)
		return len(found), err
	}
}

func title(s string) string {
	prev := ' '
	return strings.Map(func(r rune) rune {
		word := unicode.IsLetter(prev) || unicode.IsDigit(prev) || prev == '_' || prev == '\''
		if prev = r; word {
			return r
		}
		return unicode.ToTitle(r)
	}, s)
}

// trunc cuts to n characters; with a negative n it keeps the last ones.
func trunc(n int, s string) string {
	k := utf8.RuneCountInString(s)
	switch {
	case n >= 0 && n < k:
		return substr(0, n, s)
	case n < 0 && -n < k:
		return substr(k+n, k, s)
	}
	return s
}

// substr returns characters start to end, to the end of the text when end is negative or behind it.
func substr(start, end int, s string) string {
	r := []rune(s)
	start = min(max(start, 0), len(r))
	if end < 0 || end > len(r) {
		end = len(r)
	}
	if end < start {
		return ""
	}
	return string(r[start:end])
}

func (t *lineTemplate) align(n int, s string, left bool) (string, error) {
	k := utf8.RuneCountInString(s)
	if n < 0 || n > MaxOutput/4 {
		return "", errOutput
	}
	switch {
	case k > n && left:
		s = substr(0, n, s)
	case k > n:
		s = substr(k-n, k, s)
	case left:
		s += strings.Repeat(" ", n-k)
	default:
		s = strings.Repeat(" ", n-k) + s
	}
	return t.give(s)
}

func (t *lineTemplate) indent(n int, s string) (string, error) {
	if n < 0 || n > 1000 || (strings.Count(s, "\n")+1)*n+len(s) > MaxOutput {
		return "", errOutput
	}
	pad := strings.Repeat(" ", n)
	return t.give(pad + strings.ReplaceAll(s, "\n", "\n"+pad))
}

func (t *lineTemplate) replace(s, old, new string, n int) (string, error) {
	k := strings.Count(s, old)
	if n >= 0 {
		k = min(k, n)
	}
	if len(s)+k*len(new) > MaxOutput {
		return "", errOutput
	}
	return t.give(strings.Replace(s, old, new, n))
}

// regexes keeps compiled expressions of templates; those may come from the line.
type regexes map[string]*regex.Regexp

const (
	maxRegexes = 64
	maxMatches = 10_000
)

func (c *regexes) get(expr string) (*regex.Regexp, error) {
	if re, ok := (*c)[expr]; ok {
		return re, nil
	}
	compiled, err := syntax.CompileRegex(expr)
	if err != nil {
		return nil, err
	}
	re := regex.New(compiled)
	if *c == nil || len(*c) >= maxRegexes {
		*c = make(regexes)
	}
	(*c)[expr] = re
	return re, nil
}

func (t *lineTemplate) regexReplace(expr, s, repl string, expand bool) (string, error) {
	re, err := t.cache.get(expr)
	if err != nil {
		return "", err
	}
	if err := t.room(len(s)); err != nil {
		return "", err
	}
	found, err := re.FindAllStringSubmatchIndex(s, maxMatches+1, t.p.opts.Stop)
	if err != nil {
		return "", err
	}
	if len(found) > maxMatches {
		return "", errSteps
	}
	var out []byte
	at := 0
	for _, m := range found {
		out = append(out, s[at:m[0]]...)
		if expand {
			out = re.ExpandString(out, repl, s, m)
		} else {
			out = append(out, repl...)
		}
		if at = m[1]; len(out) > MaxOutput {
			return "", errOutput
		}
	}
	return t.give(string(append(out, s[at:]...)))
}

// size estimates what printing a value takes.
func size(v any) int {
	n := 32
	switch v := v.(type) {
	case string:
		return len(v) + 2
	case map[string]any:
		for k, x := range v {
			n += len(k) + 4 + size(x)
		}
	case []any:
		for _, x := range v {
			n += 2 + size(x)
		}
	}
	return n
}

const maxWidth = 1000

// print makes sure before it prints that what comes out is small.
func (t *lineTemplate) print(format string, args []any, do func() string) (string, error) {
	most, all := 0, len(format)
	for _, a := range args {
		n := size(a)
		most = max(most, n)
		all += n
	}
	if format != "" {
		verbs, err := checkFormat(format)
		if err != nil {
			return "", err
		}
		all = len(format) + verbs*most*4
	}
	if all > 4*MaxOutput {
		return "", errOutput
	}
	return t.give(do())
}

// checkFormat counts the verbs of a format and refuses wide ones.
func checkFormat(f string) (verbs int, err error) {
	for i := 0; i < len(f); i++ {
		if f[i] != '%' {
			continue
		}
		verbs++
		width := 0
		for i++; i < len(f) && strings.IndexByte("+-# .0123456789[]*", f[i]) >= 0; i++ {
			switch c := f[i]; {
			case c == '*':
				return 0, errors.New("printf: * is not for templates of queries")
			case c >= '0' && c <= '9':
				if width = width*10 + int(c-'0'); width > maxWidth {
					return 0, fmt.Errorf("printf: wider than %d", maxWidth)
				}
			default:
				width = 0
			}
		}
	}
	return verbs, nil
}

func (t *lineTemplate) escape(args []any, f func(string) string) (string, error) {
	s, err := t.print("", args, func() string { return fmt.Sprint(args...) })
	if err != nil {
		return "", err
	}
	return t.give(f(s))
}

func (t *lineTemplate) fromJSON(s string) (any, error) {
	if err := t.room(len(s)); err != nil {
		return nil, err
	}
	var v any
	if err := stdjson.Unmarshal([]byte(s), &v); err != nil {
		return nil, errors.New("fromJson: not JSON")
	}
	return v, nil
}

// toFloat reads a number as the template functions of Sprig do: what is none counts as 0.
func toFloat(v any) float64 {
	switch v := v.(type) {
	case float64:
		return v
	case int:
		return float64(v)
	case int64:
		return float64(v)
	case string:
		f, err := strconv.ParseFloat(strings.TrimSpace(v), 64)
		if err == nil {
			return f
		}
	case bool:
		if v {
			return 1
		}
	}
	return 0
}

func toInt(v any) int64 {
	if s, ok := v.(string); ok {
		if i, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64); err == nil {
			return i
		}
	}
	switch v := v.(type) {
	case int:
		return int64(v)
	case int64:
		return v
	}
	f := toFloat(v)
	if math.IsNaN(f) || math.Abs(f) >= math.MaxInt64 {
		return 0
	}
	return int64(f)
}

var errZero = errors.New("division by zero")

func (t *lineTemplate) numberFuncs(m template.FuncMap) {
	ints := func(name string, f func(a, b int64) (int64, error)) {
		m[name] = func(first any, rest ...any) (n int64, err error) {
			n = toInt(first)
			for _, r := range rest {
				if n, err = f(n, toInt(r)); err != nil {
					return 0, err
				}
			}
			return n, t.step()
		}
	}
	floats := func(name string, f func(a, b float64) float64) {
		m[name] = func(first any, rest ...any) (float64, error) {
			v := toFloat(first)
			for _, r := range rest {
				v = f(v, toFloat(r))
			}
			return v, t.step()
		}
	}
	ints("add", func(a, b int64) (int64, error) { return a + b, nil })
	ints("sub", func(a, b int64) (int64, error) { return a - b, nil })
	ints("mul", func(a, b int64) (int64, error) { return a * b, nil })
	ints("max", func(a, b int64) (int64, error) { return max(a, b), nil })
	ints("min", func(a, b int64) (int64, error) { return min(a, b), nil })
	ints("div", func(a, b int64) (int64, error) {
		if b == 0 || a == math.MinInt64 && b == -1 {
			return 0, errZero
		}
		return a / b, nil
	})
	ints("mod", func(a, b int64) (int64, error) {
		switch b {
		case 0:
			return 0, errZero
		case -1: // the smallest number has no opposite
			return 0, nil
		}
		return a % b, nil
	})
	floats("addf", func(a, b float64) float64 { return a + b })
	floats("subf", func(a, b float64) float64 { return a - b })
	floats("mulf", func(a, b float64) float64 { return a * b })
	floats("divf", func(a, b float64) float64 { return a / b })
	floats("maxf", math.Max)
	floats("minf", math.Min)
	m["ceil"] = func(v any) (float64, error) { return math.Ceil(toFloat(v)), t.step() }
	m["floor"] = func(v any) (float64, error) { return math.Floor(toFloat(v)), t.step() }
	m["round"] = func(v any, places int) (float64, error) {
		if places < 0 || places > 15 {
			return 0, errors.New("round: 0 to 15 places")
		}
		k := math.Pow10(places)
		return math.Round(toFloat(v)*k) / k, t.step()
	}
	m["int"] = func(v any) (int, error) { return int(toInt(v)), t.step() }
	m["float64"] = func(v any) (float64, error) { return toFloat(v), t.step() }
	seconds := func(s string) (float64, error) {
		d, err := syntax.ParseDuration(s)
		if err != nil {
			return 0, err
		}
		return d.Seconds(), t.step()
	}
	m["duration"], m["duration_seconds"] = seconds, seconds
	m["bytes"] = func(s string) (float64, error) {
		v, err := syntax.ParseBytes(s)
		if err != nil {
			return 0, err
		}
		return v, t.step()
	}
}

func (t *lineTemplate) timeFuncs(m template.FuncMap) {
	zones := map[string]*time.Location{}
	m["toDate"] = func(layout, s string) (time.Time, error) {
		v, err := time.Parse(layout, s)
		if err != nil {
			return v, errors.New("toDate: not a time of that layout")
		}
		return v, t.step()
	}
	m["toDateInZone"] = func(layout, zone, s string) (time.Time, error) {
		loc, ok := zones[zone]
		if !ok {
			var err error
			if loc, err = time.LoadLocation(zone); err != nil || len(zones) >= 64 {
				return time.Time{}, fmt.Errorf("toDateInZone: time zone %.40q is not known", zone)
			}
			zones[zone] = loc
		}
		v, err := time.ParseInLocation(layout, s, loc)
		if err != nil {
			return v, errors.New("toDateInZone: not a time of that layout")
		}
		return v, t.step()
	}
	m["date"] = func(layout string, v time.Time) (string, error) {
		if len(layout) > maxWidth {
			return "", errOutput
		}
		return t.give(v.Format(layout))
	}
	m["unixEpoch"] = func(v time.Time) (string, error) { return t.give(strconv.FormatInt(v.Unix(), 10)) }
	m["unixEpochMillis"] = func(v time.Time) (string, error) { return t.give(strconv.FormatInt(v.UnixMilli(), 10)) }
	m["unixEpochNanos"] = func(v time.Time) (string, error) { return t.give(strconv.FormatInt(v.UnixNano(), 10)) }
	m["unixToTime"] = unixToTime
}

// unixToTime reads days, seconds, milli-, micro- or nanoseconds since 1970, told apart by the number of digits.
func unixToTime(s string) (time.Time, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err == nil {
		switch len(strings.TrimPrefix(s, "-")) {
		case 5:
			return time.Unix(n*24*3600, 0).UTC(), nil
		case 10:
			return time.Unix(n, 0).UTC(), nil
		case 13:
			return time.UnixMilli(n).UTC(), nil
		case 16:
			return time.UnixMicro(n).UTC(), nil
		case 19:
			return time.Unix(0, n).UTC(), nil
		}
	}
	return time.Time{}, errors.New("unixToTime: a number of 5, 10, 13, 16 or 19 digits is expected")
}
