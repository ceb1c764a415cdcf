package syntax

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

var (
	errDuration = errors.New("not a duration such as 250ms, 5m or 1h30m")
	errBytes    = errors.New("not a size such as 512B, 20KB or 1.5GiB")
)

var units = map[string]time.Duration{
	"ns": time.Nanosecond, "us": time.Microsecond, "µs": time.Microsecond, "μs": time.Microsecond, "ms": time.Millisecond,
	"s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour, "w": 7 * 24 * time.Hour, "y": 365 * 24 * time.Hour,
}

// ParseDuration reads a duration as queries and log lines write it: Go's form, and days, weeks and years (365 days).
func ParseDuration(s string) (time.Duration, error) {
	rest, neg := s, false
	if rest != "" && (rest[0] == '-' || rest[0] == '+') {
		neg, rest = rest[0] == '-', rest[1:]
	}
	if rest == "0" {
		return 0, nil
	}
	if rest == "" {
		return 0, errDuration
	}
	var sum float64
	var whole time.Duration
	for rest != "" {
		n := 0
		for n < len(rest) && (isDigit(rest[n]) || rest[n] == '.') {
			n++
		}
		u := n
		for u < len(rest) && !isDigit(rest[u]) && rest[u] != '.' {
			u++
		}
		unit, ok := units[rest[n:u]]
		v, err := strconv.ParseFloat(rest[:n], 64)
		if !ok || err != nil {
			return 0, errDuration
		}
		if i, err := strconv.ParseInt(rest[:n], 10, 64); err == nil && i <= math.MaxInt64/int64(unit) {
			whole += time.Duration(i) * unit
		} else {
			whole += time.Duration(v * float64(unit))
		}
		if sum += v * float64(unit); sum >= math.MaxInt64 {
			return 0, errDuration
		}
		rest = rest[u:]
	}
	if neg {
		return -whole, nil
	}
	return whole, nil
}

// ParseBytes reads a size in bytes: a number and a unit, of 1000 (KB, MB) or 1024 (KiB, MiB), case does not count.
func ParseBytes(s string) (float64, error) {
	if len(s) > 64 || strings.ContainsRune(s, ',') {
		return 0, errBytes
	}
	n, err := humanize.ParseBytes(s)
	if err != nil {
		return 0, errBytes
	}
	return float64(n), nil
}

// Sanitize makes a label name of any name: what no label name may hold becomes an underscore, and one goes before a
// leading digit. It returns "" for "".
func Sanitize(name string) string {
	if name == "" {
		return ""
	}
	ok := !isDigit(name[0])
	for i := 0; i < len(name) && ok; i++ {
		ok = isName(name[i])
	}
	if ok {
		return name
	}
	b := make([]byte, 0, len(name)+1)
	if isDigit(name[0]) {
		b = append(b, '_')
	}
	for _, r := range name {
		if r < 128 && isName(byte(r)) {
			b = append(b, byte(r))
		} else {
			b = append(b, '_')
		}
	}
	return string(b)
}

// IsLabelName reports whether queries can name the label.
func IsLabelName(name string) bool { return name != "" && Sanitize(name) == name }
