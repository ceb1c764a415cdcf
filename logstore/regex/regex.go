// Package regex lets a regular expression stop in the middle of a text.
//
// An expression takes up to as many steps on a text as the one has characters and the other instructions: tens of seconds for the
// longest line under the worst expression, and nothing of Go's library ends it. What may take long is therefore read by the
// expression character by character, and the text ends where somebody asks it to. The package imports nothing of Triward.
package regex

import (
	"errors"
	"io"
	"regexp"
	"regexp/syntax"
	"unicode/utf8"

	"github.com/prometheus/prometheus/model/labels"
)

const (
	slowSteps = 4 << 20 // some tens of milliseconds
	slowLook  = 1024    // characters between two questions whether to go on
	slowAll   = 1 << 28 // some seconds: each of many matches may take as many steps as the first
	mostAll   = 1 << 33 // a minute: beyond, what cannot be stopped is refused
)

// ErrSlow says that an expression with ^, $ or \b may take too long on a text.
var ErrSlow = errors.New("the expression looks for places (^, $, \\b), and the text is too long for all it may take")

// mostSize bounds what Size counts, so that nothing overflows.
const mostSize = 1 << 20

// Size estimates the instructions that an expression compiles to, before any are made: x{1000} is a thousand of them. Of very large
// ones it tells only that they are.
func Size(re *syntax.Regexp) int {
	n := 1
	switch re.Op {
	case syntax.OpLiteral:
		return len(re.Rune)
	case syntax.OpCapture:
		n = 2
	case syntax.OpRepeat:
		n = Size(re.Sub[0])
		if re.Min != re.Max { // some are optional
			n++
		}
		return min(n*max(re.Min, re.Max, 1), mostSize)
	}
	for _, sub := range re.Sub {
		n = min(n+Size(sub), mostSize)
	}
	return n
}

// Regexp is an expression that can be told to stop. It is immutable and safe for concurrent use.
type Regexp struct {
	re    *regexp.Regexp
	steps int  // of its program
	free  bool // what matches does not depend on what is around it
	// begins says that it matches at the beginning of a text only.
	begins bool
}

// New makes one of re.
func New(re *regexp.Regexp) *Regexp {
	s := &Regexp{re: re, steps: 1}
	if tree, err := syntax.Parse(re.String(), syntax.Perl); err == nil {
		if prog, err := syntax.Compile(tree.Simplify()); err == nil {
			s.steps, s.free, s.begins = len(prog.Inst), true, prog.StartCond()&syntax.EmptyBeginText != 0
			for i := range prog.Inst {
				s.free = s.free && prog.Inst[i].Op != syntax.InstEmptyWidth
			}
		}
	}
	return s
}

// slow reports whether a text of n bytes is looked at in a way that can be stopped, which takes longer where it is not.
func (s *Regexp) slow(n int, stop func() bool) bool { return stop != nil && n*s.steps > slowSteps }

// Match reports whether the text holds a match. stop is asked now and then while a long text is looked at; once it returns true
// Match returns soon, and what it returns means nothing. nil goes on to the end.
func (s *Regexp) Match(text []byte, stop func() bool) bool {
	if !s.slow(len(text), stop) {
		return s.re.Match(text)
	}
	return s.re.MatchReader(&stoppable[[]byte]{text: text, decode: utf8.DecodeRune, stop: stop})
}

// MatchString is Match of a string.
func (s *Regexp) MatchString(text string, stop func() bool) bool {
	if !s.slow(len(text), stop) {
		return s.re.MatchString(text)
	}
	return s.re.MatchReader(&stoppable[string]{text: text, decode: utf8.DecodeRuneInString, stop: stop})
}

// FindStringSubmatchIndex is that of the expression, with stop as Match has it.
func (s *Regexp) FindStringSubmatchIndex(text string, stop func() bool) []int {
	if !s.slow(len(text), stop) {
		return s.re.FindStringSubmatchIndex(text)
	}
	return s.re.FindReaderSubmatchIndex(&stoppable[string]{text: text, decode: utf8.DecodeRuneInString, stop: stop})
}

// FindAllStringSubmatchIndex is that of the expression, with stop as Match has it. It fails with ErrSlow when what may take long
// could not be stopped.
func (s *Regexp) FindAllStringSubmatchIndex(text string, n int, stop func() bool) (found [][]int, err error) {
	tries := max(1, min(n, len(text)))
	if s.begins {
		tries = 1
	}
	switch all := len(text) * s.steps * tries; {
	case stop == nil || all <= slowAll || !s.free && all <= mostAll:
		return s.re.FindAllStringSubmatchIndex(text, n), nil
	case !s.free:
		return nil, ErrSlow
	}
	r := &stoppable[string]{text: text, decode: utf8.DecodeRuneInString, stop: stop}
	for pos, before := 0, -1; len(found) < n && pos <= len(text) && !r.ended; { // as the library goes on from match to match
		r.at = pos
		m := s.re.FindReaderSubmatchIndex(r)
		if m == nil {
			break
		}
		for i := range m {
			if m[i] >= 0 {
				m[i] += pos
			}
		}
		empty := m[1] == pos
		if !empty || m[0] != before {
			found = append(found, m)
		}
		if before = m[1]; !empty {
			pos = m[1]
		} else if _, width := utf8.DecodeRuneInString(text[pos:]); width > 0 {
			pos += width
		} else {
			break
		}
	}
	return found, nil
}

// ExpandString is that of the expression.
func (s *Regexp) ExpandString(dst []byte, template, src string, match []int) []byte {
	return s.re.ExpandString(dst, template, src, match)
}

// Whole is an expression that has to match a whole value, as in Prometheus, and can be told to stop. It is immutable and safe for
// concurrent use.
type Whole struct {
	fast *labels.FastRegexMatcher
	slow *Regexp
}

// NewWhole makes one of an expression; it fails when that is none of RE2.
func NewWhole(expr string) (*Whole, error) {
	re, err := regexp.Compile("^(?s:" + expr + ")$") // as the matcher has it
	if err != nil {
		return nil, err
	}
	fast, err := labels.NewFastRegexMatcher(expr)
	if err != nil {
		return nil, err
	}
	return &Whole{fast, New(re)}, nil
}

// Match reports whether the expression matches all of the value, with stop as Regexp.Match has it.
func (w *Whole) Match(value string, stop func() bool) bool {
	if !w.slow.slow(len(value), stop) {
		return w.fast.MatchString(value)
	}
	return w.slow.MatchString(value, stop)
}

// stoppable reads a text that ends when stop says so.
type stoppable[T string | []byte] struct {
	text   T
	decode func(T) (rune, int)
	stop   func() bool
	at, n  int
	ended  bool
}

// ReadRune implements io.RuneReader.
func (r *stoppable[T]) ReadRune() (rune, int, error) {
	if r.n++; r.n%slowLook == 0 && !r.ended {
		r.ended = r.stop()
	}
	if r.ended || r.at == len(r.text) {
		return 0, 0, io.EOF
	}
	c, size := r.decode(r.text[r.at:])
	r.at += size
	return c, size, nil
}
