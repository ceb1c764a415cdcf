package query

import (
	"fmt"
	"regexp"
	"regexp/syntax"

	"github.com/triward/triward/logstore/regex"
)

// Bounds of a regular expression of a query language for programs, where dashboards send long alternations.
const (
	MaxLongRegex = 4 << 10 // bytes of its text
	maxProgram   = 5000    // instructions, about: x{1000} is a thousand of them
)

// MatchOp compares a value with that of a Matcher.
type MatchOp uint8

// Ways of a Matcher to compare. They mean what they mean in Prometheus: case counts, an expression has to match the whole
// value, and what is not there is the empty value.
const (
	MatchEqual MatchOp = iota
	MatchNotEqual
	MatchRegex
	MatchNotRegex
)

// String returns the operator as it is written.
func (o MatchOp) String() string { return [...]string{"=", "!=", "=~", "!~"}[o&3] }

// Matcher is a condition on the value of one name. It is immutable and safe for concurrent use.
type Matcher struct {
	Name  string
	Op    MatchOp
	Value string

	re *regex.Whole
}

// NewMatcher makes a Matcher. It fails when an expression is none of RE2, or beyond the bounds.
func NewMatcher(name string, op MatchOp, value string) (*Matcher, error) {
	m := &Matcher{Name: name, Op: op, Value: value}
	if op != MatchRegex && op != MatchNotRegex {
		return m, nil
	}
	if err := checkRegex(value); err != nil {
		return nil, err
	}
	var err error
	if m.re, err = regex.NewWhole(value); err != nil {
		return nil, fmt.Errorf("regular expression %.80q: %w", value, err)
	}
	return m, nil
}

// Matches reports whether the value fulfils the condition. A name that is not there has the value "".
func (m *Matcher) Matches(value string) bool { return m.matches(value, nil) }

// matches is Matches; once stop, which is asked now and then while an expression is at a long value, returns true it means nothing.
func (m *Matcher) matches(value string, stop func() bool) bool {
	switch m.Op {
	case MatchEqual:
		return value == m.Value
	case MatchNotEqual:
		return value != m.Value
	case MatchRegex:
		return m.re.Match(value, stop)
	}
	return !m.re.Match(value, stop)
}

// String returns the condition as it is written.
func (m *Matcher) String() string { return fmt.Sprintf("%s%s%q", m.Name, m.Op, m.Value) }

// Label matches the lines of the streams whose label of the matcher's name fulfils it. Structured fields are not looked at.
func Label(m *Matcher) *Filter { return &Filter{op: opLabel, field: m.Name, matcher: m} }

// Value matches lines whose value of the matcher's name fulfils it: that of the stream's label when there is one, otherwise
// that of the structured field, otherwise "".
func Value(m *Matcher) *Filter { return &Filter{op: opValue, field: m.Name, matcher: m} }

// LongRegex matches lines whose text the expression (RE2, case counts) matches somewhere. It may be longer than one of
// the search box, and fails beyond MaxLongRegex and beyond what may be compiled.
func LongRegex(expr string) (*Filter, error) {
	if expr == "" {
		return All(), nil
	}
	if err := checkRegex(expr); err != nil {
		return nil, err
	}
	re, err := regexp.Compile(expr)
	if err != nil {
		return nil, fmt.Errorf("regular expression %.80q: %w", expr, err)
	}
	return Regex(re), nil
}

// checkRegex refuses an expression that is too long, or short and large.
func checkRegex(expr string) error {
	if len(expr) > MaxLongRegex {
		return fmt.Errorf("regular expression of %d bytes, at most %d are allowed", len(expr), MaxLongRegex)
	}
	re, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return fmt.Errorf("regular expression %.80q: %w", expr, err)
	}
	if n := regex.Size(re); n > maxProgram {
		return fmt.Errorf("regular expression %.80q is %d steps long when its repetitions are written out, at most %d are allowed: repeat less", expr, n, maxProgram)
	}
	return nil
}
