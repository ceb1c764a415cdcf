package pipeline

import (
	"bytes"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/triward/triward/logstore/logql/syntax"
	"github.com/triward/triward/logstore/regex"
)

// lineFilter keeps lines that hold one of its alternatives, or none.
type lineFilter struct {
	not  bool
	alts []func(raw []byte, stop func() bool) bool
}

func newLineFilter(s *syntax.LineFilter) (stage, error) {
	f := &lineFilter{not: s.Op.Negative()}
	for _, a := range s.Alts {
		m, err := lineMatch(s.Op, a)
		if err != nil {
			return nil, err
		}
		f.alts = append(f.alts, m)
	}
	return f, nil
}

func lineMatch(op syntax.LineOp, a syntax.LineAlt) (func(raw []byte, stop func() bool) bool, error) {
	if a.IP {
		spec, err := syntax.ParseIPSpec(a.Text)
		if err != nil {
			return nil, err
		}
		return func(raw []byte, _ func() bool) bool { return holdsIP(raw, spec) }, nil
	}
	switch op {
	case syntax.LineRegex, syntax.LineNotRegex:
		re, err := regexp.Compile(a.Text)
		if err != nil {
			return nil, err
		}
		return regex.New(re).Match, nil
	case syntax.LinePattern, syntax.LineNotPattern:
		parts, err := syntax.SplitPattern(a.Text)
		if err != nil {
			return nil, err
		}
		return func(raw []byte, _ func() bool) bool { return fits(raw, parts) }, nil
	}
	needle := []byte(a.Text)
	return func(raw []byte, _ func() bool) bool { return bytes.Contains(raw, needle) }, nil
}

func (f *lineFilter) run(p *Pipeline) bool {
	raw := p.raw
	if raw == nil {
		raw = []byte(p.text)
	}
	for _, m := range f.alts {
		if m(raw, p.opts.Stop) {
			return !f.not
		}
	}
	return f.not
}

// fits reports whether the whole line is of the pattern, whose captures stand for anything, also for nothing.
func fits(raw []byte, parts []syntax.PatternPart) bool {
	for i, part := range parts {
		if part.Capture {
			continue
		}
		lit := []byte(part.Text)
		switch last := i == len(parts)-1; {
		case i == 0:
			if !bytes.HasPrefix(raw, lit) || last && len(raw) != len(lit) {
				return false
			}
			raw = raw[len(lit):]
		case last:
			return bytes.HasSuffix(raw, lit)
		default:
			n := bytes.Index(raw, lit)
			if n < 0 {
				return false
			}
			raw = raw[n+len(lit):]
		}
	}
	return true
}

// holdsIP reports whether one of the addresses in the text is of the spec.
func holdsIP(raw []byte, spec syntax.IPSpec) bool {
	for i := 0; i < len(raw); {
		if !ofIP(raw[i]) {
			i++
			continue
		}
		end := i
		for end < len(raw) && ofIP(raw[end]) {
			end++
		}
		run := strings.TrimRight(string(raw[i:end]), ".:")
		if len(run) <= 64 && runHolds(run, spec) {
			return true
		}
		i = end
	}
	return false
}

func ofIP(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F' || c == ':' || c == '.'
}

func runHolds(run string, spec syntax.IPSpec) bool {
	if a, err := netip.ParseAddr(run); err == nil {
		return spec.Holds(a)
	}
	for _, piece := range strings.Split(run, ":") { // 10.0.0.1:80, to:10.0.0.1
		if strings.Count(piece, ".") == 3 {
			if a, err := netip.ParseAddr(piece); err == nil && spec.Holds(a) {
				return true
			}
		}
	}
	return false
}

func newPred(f syntax.Pred) (stage, error) {
	switch f := f.(type) {
	case *syntax.PredMatch:
		m, err := newMatch(f.Matcher)
		return &matchPred{m}, err
	case *syntax.PredNumber:
		return &numberPred{f}, nil
	case *syntax.PredIP:
		spec, err := syntax.ParseIPSpec(f.Spec)
		return &ipPred{f.Name, f.Not, spec}, err
	case *syntax.PredBoth:
		left, err := newPred(f.Left)
		if err != nil {
			return nil, err
		}
		right, err := newPred(f.Right)
		return &bothPred{f.Or, left, right}, err
	}
	return nil, fmt.Errorf("label filter %T is not known", f)
}

// match is a matcher that can be told to stop at a long value.
type match struct {
	*syntax.Matcher
	re *regex.Whole // of one with an expression
}

func newMatch(m *syntax.Matcher) (out match, err error) {
	out.Matcher = m
	if m.Type == labels.MatchRegexp || m.Type == labels.MatchNotRegexp {
		out.re, err = regex.NewWhole(m.Value)
	}
	return out, err
}

// matches decides a value; once stop returns true what it says means nothing.
func (m *match) matches(value string, stop func() bool) bool {
	if m.re == nil {
		return m.Matches(value)
	}
	return m.re.Match(value, stop) == (m.Type == labels.MatchRegexp)
}

type matchPred struct{ m match }

func (f *matchPred) run(p *Pipeline) bool { return f.m.matches(p.labels.Get(f.m.Name), p.opts.Stop) }

type bothPred struct {
	or          bool
	left, right stage
}

func (f *bothPred) run(p *Pipeline) bool {
	if f.left.run(p) == f.or {
		return f.or
	}
	return f.right.run(p)
}

// numberPred compares numbers, durations and sizes. A line with a mistake passes: only filters on text judge it.
type numberPred struct{ *syntax.PredNumber }

func (f *numberPred) run(p *Pipeline) bool {
	if p.labels.err != "" {
		return true
	}
	s, ok := p.labels.lookup(f.Name)
	if !ok {
		return false
	}
	v, err := parseAs(s, f.Unit)
	if err != nil {
		p.labels.fail(errFilter, fmt.Sprintf("label %s: %.80q: %v", f.Name, s, err))
		return true
	}
	switch f.Op {
	case "==":
		return v == f.Value
	case "!=":
		return v != f.Value
	case ">":
		return v > f.Value
	case ">=":
		return v >= f.Value
	case "<":
		return v < f.Value
	}
	return v <= f.Value
}

func parseAs(s string, unit syntax.Unit) (float64, error) {
	switch unit {
	case syntax.UnitDuration:
		d, err := syntax.ParseDuration(s)
		return d.Seconds(), err
	case syntax.UnitBytes:
		return syntax.ParseBytes(s)
	}
	v, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return 0, fmt.Errorf("not a number")
	}
	return v, nil
}

type ipPred struct {
	name string
	not  bool
	spec syntax.IPSpec
}

func (f *ipPred) run(p *Pipeline) bool {
	if p.labels.err != "" {
		return true
	}
	v, ok := p.labels.lookup(f.name)
	return ok && holdsIP([]byte(v), f.spec) != f.not
}

// nameMatch is a label that drop or keep name.
type nameMatch struct {
	name  string
	match match // without a Matcher for any value
}

func newNameMatches(items []syntax.NameMatch) (out []nameMatch, err error) {
	for _, it := range items {
		n := nameMatch{name: it.Name}
		if it.Matcher != nil {
			if n.match, err = newMatch(it.Matcher); err != nil {
				return nil, err
			}
		}
		out = append(out, n)
	}
	return out, nil
}

func (it *nameMatch) hits(name, value string, stop func() bool) bool {
	return it.name == name && (it.match.Matcher == nil || it.match.matches(value, stop))
}

type drop struct{ items []nameMatch }

func (d *drop) run(p *Pipeline) bool {
	for k := range d.items {
		it := &d.items[k]
		switch it.name {
		case syntax.ErrorLabel:
			if it.hits(it.name, p.labels.err, p.opts.Stop) {
				p.labels.err = ""
			}
		case syntax.ErrorDetails:
			if it.hits(it.name, p.labels.details, p.opts.Stop) {
				p.labels.details = ""
			}
		default:
			if i := p.labels.find(it.name); i >= 0 && it.hits(it.name, p.labels.list[i].value, p.opts.Stop) {
				p.labels.remove(i)
			}
		}
	}
	return true
}

// keep leaves the mistake of a line alone.
type keep struct{ items []nameMatch }

func (d *keep) run(p *Pipeline) bool {
	out := p.labels.list[:0]
	for _, l := range p.labels.list {
		for k := range d.items {
			if d.items[k].hits(l.name, l.value, p.opts.Stop) {
				out = append(out, l)
				break
			}
		}
	}
	p.labels.list = out
	return true
}

// Unwrapper takes numbers from a label.
type Unwrapper struct {
	label   string
	convert string
	after   []stage
}

// NewUnwrap makes what `| unwrap` and the label filters behind it do.
func NewUnwrap(u *syntax.Unwrap) (*Unwrapper, error) {
	w := &Unwrapper{label: u.Label, convert: u.Convert}
	for _, s := range u.After {
		f, ok := s.(*syntax.LabelFilter)
		if !ok {
			return nil, fmt.Errorf("stage %T behind unwrap", s)
		}
		pred, err := newPred(f.Pred)
		if err != nil {
			return nil, err
		}
		w.after = append(w.after, pred)
	}
	return w, nil
}

// Names returns the labels that are looked at.
func (w *Unwrapper) Names() []string {
	into := map[string]bool{w.label: true}
	for _, f := range w.after {
		named(f, into)
	}
	return slices.Sorted(maps.Keys(into))
}

// Take returns the number of the line that the pipeline holds, and takes its label away. A line without the label has none;
// one whose label is no number has a mistake.
func (w *Unwrapper) Take(p *Pipeline) (float64, bool) {
	p.start()
	s := p.labels.Get(w.label)
	if s == "" && p.labels.err == "" {
		return 0, false
	}
	unit := syntax.UnitNone
	switch w.convert {
	case "duration":
		unit = syntax.UnitDuration
	case "bytes":
		unit = syntax.UnitBytes
	}
	v, err := parseAs(s, unit)
	if err != nil { // or a mistake was made before
		p.labels.fail(errSample, fmt.Sprintf("label %s: %.80q: %v", w.label, s, err))
	}
	for _, f := range w.after {
		if !f.run(p) {
			return 0, false
		}
	}
	if i := p.labels.find(w.label); i >= 0 {
		p.labels.remove(i)
	}
	return v, true
}
