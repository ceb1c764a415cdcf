package syntax

import (
	"math"
	"strings"
	"time"
)

// rangeOps says how each range function takes its lines.
var rangeOps = map[RangeOp]struct{ counts, numbers, grouping bool }{
	OpRate:        {counts: true, numbers: true},
	OpRateCounter: {numbers: true},
	OpCount:       {counts: true},
	OpBytes:       {counts: true},
	OpBytesRate:   {counts: true},
	OpAbsent:      {counts: true, numbers: true},
	OpSum:         {numbers: true},
	OpAvg:         {numbers: true, grouping: true},
	OpMin:         {numbers: true, grouping: true},
	OpMax:         {numbers: true, grouping: true},
	OpFirst:       {numbers: true, grouping: true},
	OpLast:        {numbers: true, grouping: true},
	OpStdvar:      {numbers: true, grouping: true},
	OpStddev:      {numbers: true, grouping: true},
	OpQuantile:    {numbers: true, grouping: true},
}

// vectorOps says which vector aggregations there are, and whether they may group.
var vectorOps = map[VectorOp]bool{
	AggSum: true, AggAvg: true, AggMin: true, AggMax: true, AggCount: true, AggStddev: true, AggStdvar: true,
	AggTopK: true, AggBottomK: true, AggApprox: false, AggSort: false, AggSortDesc: false,
}

func takesParam(op VectorOp) bool { return op == AggTopK || op == AggBottomK || op == AggApprox }

const (
	maxRange = 10 * 365 * 24 * time.Hour
	maxTop   = 10_000
)

// primary reads an operand.
func (p *parser) primary(depth int) (Expr, error) {
	t := p.peek()
	switch {
	case t.is("("):
		p.at++
		e, err := p.expr(0, depth+1)
		if err != nil {
			return nil, err
		}
		return e, p.expect(")", "to close the parenthesis")
	case t.is("{"):
		return p.log()
	case t.kind == tokNumber, t.is("-"), t.is("+"), t.word("inf"), t.word("nan"):
		v, err := p.number()
		return &Number{v}, err
	case t.kind != tokIdent:
		return nil, p.fail(t, "a selector such as {source=\"journal\"} or a function is expected, not %s", t)
	}
	p.at++
	name := strings.ToLower(t.text)
	_, isRange := rangeOps[RangeOp(name)]
	_, isVector := vectorOps[VectorOp(name)]
	switch {
	case isRange:
		return p.rangeExpr(RangeOp(name), t, depth)
	case isVector:
		return p.vectorExpr(VectorOp(name), t, depth)
	case name == "vector":
		if err := p.expect("(", "behind vector"); err != nil {
			return nil, err
		}
		v, err := p.number()
		if err != nil {
			return nil, err
		}
		return &Constant{v}, p.expect(")", "behind the number of vector")
	case name == "label_replace":
		return p.labelReplace(t, depth)
	}
	return nil, p.fail(t, "there is no function %q: a selector such as {source=\"journal\"} or a function is expected", t.text)
}

func (p *parser) metric(depth int, where string) (Metric, error) {
	t := p.peek()
	e, err := p.expr(0, depth+1)
	if err != nil {
		return nil, err
	}
	m, ok := e.(Metric)
	if !ok {
		return nil, p.fail(t, "%s takes numbers; put the log query into a function such as count_over_time(… [5m])", where)
	}
	return m, nil
}

func (p *parser) grouping() (*Grouping, error) {
	by, without := p.peek().word("by"), p.peek().word("without")
	if !by && !without {
		return nil, nil
	}
	p.at++
	names, err := p.names()
	return &Grouping{Without: without, Names: names}, err
}

func (p *parser) vectorExpr(op VectorOp, t token, depth int) (Metric, error) {
	e := &Vector{Op: op}
	var err error
	if e.Grouping, err = p.grouping(); err != nil {
		return nil, err
	}
	if err := p.expect("(", "behind "+t.text); err != nil {
		return nil, err
	}
	if takesParam(op) {
		at := p.peek()
		v, err := p.number()
		if err != nil {
			return nil, err
		}
		if v != math.Trunc(v) || v < 1 || v > maxTop {
			return nil, p.fail(at, "%s takes a whole number from 1 to %d first", op, maxTop)
		}
		e.Param = int(v)
		if err := p.expect(",", "behind the number of "+t.text); err != nil {
			return nil, err
		}
	}
	if e.Expr, err = p.metric(depth, t.text); err != nil {
		return nil, err
	}
	if err := p.expect(")", "to close "+t.text); err != nil {
		return nil, err
	}
	at := p.peek()
	g, err := p.grouping()
	if err != nil {
		return nil, err
	}
	switch {
	case g != nil && e.Grouping != nil:
		return nil, p.fail(at, "%s is grouped twice", t.text)
	case g != nil:
		e.Grouping = g
	}
	if e.Grouping != nil && !vectorOps[op] {
		return nil, p.fail(t, "%s takes no by or without", t.text)
	}
	return e, nil
}

func (p *parser) rangeExpr(op RangeOp, t token, depth int) (Metric, error) {
	e := &Range{Op: op}
	var err error
	if e.Grouping, err = p.grouping(); err != nil {
		return nil, err
	}
	if err := p.expect("(", "behind "+t.text); err != nil {
		return nil, err
	}
	if op == OpQuantile {
		at := p.peek()
		if e.Param, err = p.number(); err != nil {
			return nil, err
		}
		if math.IsNaN(e.Param) || math.IsInf(e.Param, 0) {
			return nil, p.fail(at, "a quantile is a number from 0 to 1")
		}
		if err := p.expect(",", "behind the quantile"); err != nil {
			return nil, err
		}
	}
	if err := p.logRange(e, depth+1); err != nil {
		return nil, err
	}
	if e.Range == 0 {
		return nil, p.fail(p.peek(), "%s needs a range such as [5m]", t.text)
	}
	if err := p.expect(")", "to close "+t.text); err != nil {
		return nil, err
	}
	at := p.peek()
	g, err := p.grouping()
	if err != nil {
		return nil, err
	}
	switch {
	case g != nil && e.Grouping != nil:
		return nil, p.fail(at, "%s is grouped twice", t.text)
	case g != nil:
		e.Grouping = g
	}
	how := rangeOps[op]
	switch {
	case e.Unwrap == nil && !how.counts:
		return nil, p.fail(t, "%s takes numbers out of lines: add | unwrap label", t.text)
	case e.Unwrap != nil && !how.numbers:
		return nil, p.fail(t, "%s counts lines and takes no unwrap", t.text)
	case e.Grouping != nil && !how.grouping:
		return nil, p.fail(t, "%s takes no by or without; put it into sum by (…) (…)", t.text)
	}
	return e, nil
}

// logRange reads a log query with its range, which may stand behind the selector, the pipeline or a parenthesis.
func (p *parser) logRange(e *Range, depth int) error {
	if depth > maxDepth {
		return p.fail(p.peek(), "nested deeper than %d", maxDepth)
	}
	if p.accept("(") {
		if err := p.logRange(e, depth+1); err != nil {
			return err
		}
		if err := p.expect(")", "to close the parenthesis"); err != nil {
			return err
		}
		return p.rangeAndOffset(e)
	}
	sel, err := p.selector()
	if err != nil {
		return err
	}
	e.Log = &Log{Selector: sel}
	if err := p.rangeAndOffset(e); err != nil {
		return err
	}
	if e.Log.Stages, err = p.stages(&e.Unwrap); err != nil {
		return err
	}
	return p.rangeAndOffset(e)
}

func (p *parser) rangeAndOffset(e *Range) error {
	if t := p.peek(); t.is("[") {
		if e.Range != 0 {
			return p.fail(t, "there is a second range")
		}
		p.at++
		d, err := p.duration("a range")
		if err != nil {
			return err
		}
		if d <= 0 || d > maxRange {
			return p.fail(t, "a range is longer than 0 and at most 10y")
		}
		e.Range = d
		if err := p.expect("]", "behind the range"); err != nil {
			return err
		}
	}
	if t := p.peek(); t.word("offset") {
		if e.Offset != 0 {
			return p.fail(t, "there is a second offset")
		}
		p.at++
		neg := p.accept("-")
		d, err := p.duration("an offset")
		if err != nil {
			return err
		}
		if d > maxRange {
			return p.fail(t, "an offset is at most 10y")
		}
		if e.Offset = d; neg {
			e.Offset = -d
		}
	}
	return nil
}

func (p *parser) duration(what string) (time.Duration, error) {
	t := p.take()
	if t.kind == tokNumber {
		if d, err := ParseDuration(t.text); err == nil {
			return d, nil
		}
	}
	return 0, p.fail(t, "%s is a duration such as 5m or 1h30m, not %s", what, t)
}

func (p *parser) labelReplace(t token, depth int) (Metric, error) {
	if err := p.expect("(", "behind "+t.text); err != nil {
		return nil, err
	}
	e := &LabelReplace{}
	var err error
	if e.Expr, err = p.metric(depth, t.text); err != nil {
		return nil, err
	}
	for i, s := range []*string{&e.Dst, &e.Replacement, &e.Src, &e.Regex} {
		if err := p.expect(",", "between the arguments of "+t.text); err != nil {
			return nil, err
		}
		v, at, err := p.str("in " + t.text)
		if err != nil {
			return nil, err
		}
		*s = v
		if (i == 0 || i == 2) && !IsLabelName(v) {
			return nil, p.fail(at, "%s is no label name", quoteShort(v))
		}
		if i == 3 {
			if _, err := p.regex(v, at); err != nil {
				return nil, err
			}
		}
	}
	return e, p.expect(")", "to close "+t.text)
}
