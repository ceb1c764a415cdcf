package syntax

import (
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/prometheus/model/labels"
)

type printer struct{ strings.Builder }

func (p *printer) add(ss ...string) {
	for _, s := range ss {
		p.WriteString(s)
	}
}

func text(e interface{ print(*printer) }) string {
	var p printer
	e.print(&p)
	return p.String()
}

// String returns the canonical form.
func (e *Log) String() string { return text(e) }

// String returns the canonical form.
func (e *Range) String() string { return text(e) }

// String returns the canonical form.
func (e *Vector) String() string { return text(e) }

// String returns the canonical form.
func (e *Binary) String() string { return text(e) }

// String returns the canonical form.
func (e *Number) String() string { return text(e) }

// String returns the canonical form.
func (e *Constant) String() string { return text(e) }

// String returns the canonical form.
func (e *LabelReplace) String() string { return text(e) }

// Quote writes a string so that it reads best: in back quotes where others would need escapes.
func Quote(s string) string {
	if strings.ContainsAny(s, "\"\\") && !strings.ContainsRune(s, '`') && strconv.CanBackquote(s) {
		return "`" + s + "`"
	}
	return strconv.Quote(s)
}

func matcherText(m *Matcher) string { return m.Name + matchOp(m.Type) + Quote(m.Value) }

func matchOp(t labels.MatchType) string { return t.String() }

func (e *Log) print(p *printer) {
	p.add("{")
	for i, m := range e.Selector {
		if i > 0 {
			p.add(", ")
		}
		p.add(matcherText(m))
	}
	p.add("}")
	printStages(p, e.Stages)
}

func printStages(p *printer, stages []Stage) {
	for _, s := range stages {
		p.add(" ")
		s.print(p)
	}
}

func (s *LineFilter) print(p *printer) {
	p.add(string(s.Op))
	for i, a := range s.Alts {
		if i > 0 {
			p.add(" or")
		}
		if a.IP {
			p.add(" ip(", Quote(a.Text), ")")
		} else {
			p.add(" ", Quote(a.Text))
		}
	}
}

func printExtracts(p *printer, fields []Extract) {
	for i, f := range fields {
		if i > 0 {
			p.add(",")
		}
		p.add(" ", f.Label)
		if f.Path != f.Label {
			p.add("=", Quote(f.Path))
		}
	}
}

func (s *JSON) print(p *printer) {
	p.add("| json")
	printExtracts(p, s.Fields)
}

func (s *Logfmt) print(p *printer) {
	p.add("| logfmt")
	if s.Strict {
		p.add(" --strict")
	}
	if s.KeepEmpty {
		p.add(" --keep-empty")
	}
	printExtracts(p, s.Fields)
}

func (s *Regexp) print(p *printer)     { p.add("| regexp ", Quote(s.Pattern)) }
func (s *Pattern) print(p *printer)    { p.add("| pattern ", Quote(s.Pattern)) }
func (s *Unpack) print(p *printer)     { p.add("| unpack") }
func (s *Decolorize) print(p *printer) { p.add("| decolorize") }
func (s *LineFormat) print(p *printer) { p.add("| line_format ", Quote(s.Template)) }

func (s *LabelFilter) print(p *printer) {
	var pred printer
	s.Pred.print(&pred)
	if startsLikeStage(s.Pred) {
		p.add("| (", pred.String(), ")")
		return
	}
	p.add("| ", pred.String())
}

// startsLikeStage reports whether a predicate begins with the name of a stage and an operator that would make it one.
func startsLikeStage(f Pred) bool {
	switch f := f.(type) {
	case *PredBoth:
		return startsLikeStage(f.Left)
	case *PredMatch:
		return isStage(f.Name) && (f.Type == labels.MatchNotEqual || f.Type == labels.MatchNotRegexp)
	case *PredNumber:
		return isStage(f.Name) && f.Op == "!="
	case *PredIP:
		return isStage(f.Name) && f.Not
	}
	return false
}

func (s *LabelFormat) print(p *printer) {
	p.add("| label_format")
	for i, it := range s.Items {
		if i > 0 {
			p.add(",")
		}
		p.add(" ", it.Dst, "=")
		if it.Template {
			p.add(Quote(it.Text))
		} else {
			p.add(it.Src)
		}
	}
}

func printNames(p *printer, items []NameMatch) {
	for i, it := range items {
		if i > 0 {
			p.add(",")
		}
		if it.Matcher != nil {
			p.add(" ", matcherText(it.Matcher))
		} else {
			p.add(" ", it.Name)
		}
	}
}

func (s *Drop) print(p *printer) { p.add("| drop"); printNames(p, s.Items) }
func (s *Keep) print(p *printer) { p.add("| keep"); printNames(p, s.Items) }

func (u *Unwrap) print(p *printer) {
	p.add("| unwrap ")
	if u.Convert != "" {
		p.add(u.Convert, "(", u.Label, ")")
	} else {
		p.add(u.Label)
	}
	printStages(p, u.After)
}

func (f *PredMatch) print(p *printer)  { p.add(matcherText(f.Matcher)) }
func (f *PredNumber) print(p *printer) { p.add(f.Name, " ", f.Op, " ", f.Text) }

func (f *PredIP) print(p *printer) {
	op := " = "
	if f.Not {
		op = " != "
	}
	p.add(f.Name, op, "ip(", Quote(f.Spec), ")")
}

// print relies on predicates being read from left to right, all operators alike.
func (f *PredBoth) print(p *printer) {
	f.Left.print(p)
	if f.Or {
		p.add(" or ")
	} else {
		p.add(" and ")
	}
	if _, nested := f.Right.(*PredBoth); nested {
		p.add("(")
		f.Right.print(p)
		p.add(")")
		return
	}
	f.Right.print(p)
}

// durationText writes a duration with the units of queries: whole ones, the greatest first.
func durationText(d time.Duration) string {
	if d == 0 {
		return "0s"
	}
	var b strings.Builder
	if d < 0 {
		b.WriteByte('-')
		d = -d
	}
	for _, u := range []struct {
		name string
		d    time.Duration
	}{{"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}, {"ms", time.Millisecond}, {"us", time.Microsecond}, {"ns", 1}} {
		if n := d / u.d; n > 0 {
			b.WriteString(strconv.FormatInt(int64(n), 10) + u.name)
			d -= n * u.d
		}
	}
	return b.String()
}

func (g *Grouping) print(p *printer) {
	if g.Without {
		p.add("without")
	} else {
		p.add("by")
	}
	p.add(" (", strings.Join(g.Names, ", "), ")")
}

func (e *Range) print(p *printer) {
	p.add(string(e.Op), "(")
	if e.Op == OpQuantile {
		p.add(numberText(e.Param), ", ")
	}
	e.Log.print(p)
	if e.Unwrap != nil {
		p.add(" ")
		e.Unwrap.print(p)
	}
	p.add(" [", durationText(e.Range), "]")
	if e.Offset != 0 {
		p.add(" offset ", durationText(e.Offset))
	}
	p.add(")")
	if e.Grouping != nil {
		p.add(" ")
		e.Grouping.print(p)
	}
}

func (e *Vector) print(p *printer) {
	p.add(string(e.Op))
	if e.Grouping != nil {
		p.add(" ")
		e.Grouping.print(p)
		p.add(" ")
	}
	p.add("(")
	if takesParam(e.Op) {
		p.add(strconv.Itoa(e.Param), ", ")
	}
	e.Expr.print(p)
	p.add(")")
}

func numberText(v float64) string {
	switch {
	case math.IsInf(v, 1):
		return "Inf"
	case math.IsInf(v, -1):
		return "-Inf"
	}
	return strconv.FormatFloat(v, 'g', -1, 64)
}

func (e *Number) print(p *printer)   { p.add(numberText(e.Value)) }
func (e *Constant) print(p *printer) { p.add("vector(", numberText(e.Value), ")") }

func (e *Binary) print(p *printer) {
	e.side(p, e.Left, false)
	p.add(" ", e.Op)
	if e.Bool {
		p.add(" bool")
	}
	if m := e.Matching; m != nil {
		if m.On {
			p.add(" on (")
		} else {
			p.add(" ignoring (")
		}
		p.add(strings.Join(m.Names, ", "), ")")
		if m.Group != "" {
			p.add(" group_", m.Group, " (", strings.Join(m.Include, ", "), ")")
		}
	}
	p.add(" ")
	e.side(p, e.Right, true)
}

func (e *Binary) side(p *printer, s Metric, right bool) {
	inner, ok := s.(*Binary)
	open := ok && (precedence[inner.Op] < precedence[e.Op] || precedence[inner.Op] == precedence[e.Op] && right != (e.Op == "^"))
	if n, ok := s.(*Number); ok && !right && e.Op == "^" && (n.Value < 0 || math.Signbit(n.Value)) {
		open = true
	}
	if open {
		p.add("(")
	}
	s.print(p)
	if open {
		p.add(")")
	}
}

func (e *LabelReplace) print(p *printer) {
	p.add("label_replace(")
	e.Expr.print(p)
	for _, s := range []string{e.Dst, e.Replacement, e.Src, e.Regex} {
		p.add(", ", Quote(s))
	}
	p.add(")")
}
