package logql

import (
	"strings"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/triward/triward/logstore/logql/pipeline"
	"github.com/triward/triward/logstore/logql/syntax"
)

// push puts into the query what the source can decide in place of the pipeline, which decides it again: line filters before
// anything changes the line, and label filters on text before anything changes labels. whole reports whether the pipeline
// drops no other lines.
func push(q *Query, stages []syntax.Stage) (whole bool) {
	lineAsIs, labelsAsAre := true, true
	whole = true
	for _, s := range stages {
		switch s := s.(type) {
		case *syntax.LineFilter:
			if !lineAsIs {
				whole = false
				continue
			}
			ms, exact := lineMatches(s)
			q.Lines = append(q.Lines, ms...)
			whole = whole && exact
		case *syntax.LabelFilter:
			exact := labelsAsAre && pushPred(q, s.Pred)
			whole = whole && exact
		case *syntax.LineFormat, *syntax.Decolorize:
			lineAsIs = false
		case *syntax.Unpack:
			lineAsIs, labelsAsAre = false, false
		default:
			labelsAsAre = false
		}
	}
	return whole
}

// Decidable returns what a source can decide of a query for lines, without times, and whether that is all: no stage drops
// other lines, or changes lines or their labels.
func Decidable(x *syntax.Log) (q *Query, all bool) {
	q = &Query{Selector: x.Selector}
	all = push(q, x.Stages)
	for _, s := range x.Stages {
		switch s.(type) {
		case *syntax.LineFilter, *syntax.LabelFilter:
		default:
			all = false
		}
	}
	return q, all
}

// lineMatches returns conditions that all lines which pass the filter satisfy, and whether no others do.
func lineMatches(f *syntax.LineFilter) (out []LineMatch, exact bool) {
	m := LineMatch{Op: f.Op}
	for _, a := range f.Alts {
		if a.IP {
			return nil, false
		}
		m.Texts = append(m.Texts, a.Text)
	}
	switch f.Op {
	case syntax.LineNotPattern:
		return nil, false
	case syntax.LinePattern:
		if len(f.Alts) > 1 {
			return nil, false
		}
		parts, err := syntax.SplitPattern(f.Alts[0].Text)
		if err != nil {
			return nil, false
		}
		for _, p := range parts {
			if !p.Capture {
				out = append(out, LineMatch{syntax.LineContains, []string{p.Text}})
			}
		}
		return out, false
	}
	return []LineMatch{m}, true
}

// pushPred pushes conditions that are joined by and. Names with an underscore are left out: that may stand for a character
// which no label name may hold, and the field then has another name.
func pushPred(q *Query, f syntax.Pred) (exact bool) {
	switch f := f.(type) {
	case *syntax.PredBoth:
		if f.Or {
			return false
		}
		left, right := pushPred(q, f.Left), pushPred(q, f.Right)
		return left && right
	case *syntax.PredMatch:
		if strings.Contains(f.Name, "_") || f.Name == pipeline.DetectedLevel {
			return false
		}
		q.Fields = append(q.Fields, f.Matcher)
		return true
	}
	return false
}

// equalities returns the labels that a selector fixes.
func equalities(sel []*syntax.Matcher) map[string]string {
	out := map[string]string{}
	for _, m := range sel {
		if m.Type == labels.MatchEqual && m.Value != "" {
			out[m.Name] = m.Value
		}
	}
	return out
}
