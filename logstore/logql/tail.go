package logql

import (
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/logql/pipeline"
	"github.com/triward/triward/logstore/logql/syntax"
)

// Matcher judges lines one by one, as a live tail needs it. It is not safe for concurrent use.
type Matcher struct {
	sel   []*syntax.Matcher
	pipe  *pipeline.Pipeline
	query Query
	known map[*wire.Label]bool
}

// Tail makes a Matcher of a query for lines; one for numbers is an ErrQuery. levels is Engine.Levels. stop is asked now and
// then while a stage is at a long line: once it returns true, what Match returns means nothing.
func Tail(e Expr, levels bool, stop func() bool) (*Matcher, error) {
	x, ok := e.(*syntax.Log)
	if !ok {
		return nil, badf("only queries for lines can be followed, not those for numbers")
	}
	pipe, err := pipeline.New(x.Stages, pipeline.Options{Levels: levels, Now: time.Now(), Stop: stop})
	if err != nil {
		return nil, badf("%v", err)
	}
	m := &Matcher{sel: x.Selector, pipe: pipe, query: Query{Selector: x.Selector}, known: map[*wire.Label]bool{}}
	push(&m.query, x.Stages)
	return m, nil
}

// Query returns what a source can decide of the query, without times.
func (m *Matcher) Query() Query { return m.query }

// maxKnown bounds the sets of labels that are remembered. Lines as they are applied have new ones again and again.
const maxKnown = 4096

// stream reports whether the labels match the selector; it remembers sets of labels by their place.
func (m *Matcher) stream(ls wire.Labels) bool {
	if len(ls) == 0 {
		return Selects(m.sel, ls)
	}
	yes, ok := m.known[&ls[0]]
	if !ok {
		yes = Selects(m.sel, ls)
		if len(m.known) >= maxKnown {
			clear(m.known)
		}
		m.known[&ls[0]] = yes
	}
	return yes
}

// Selects reports whether the labels of a stream match all matchers.
func Selects(sel []*syntax.Matcher, ls wire.Labels) bool {
	for _, m := range sel {
		if !m.Matches(ls.Get(m.Name)) {
			return false
		}
	}
	return true
}

// Match returns the labels and the text that the query makes of a line, and whether the line is of it. Both are copies.
func (m *Matcher) Match(l *Line) (labels wire.Labels, text string, ok bool) {
	if !m.stream(l.Labels) || !m.pipe.Process(&pipeline.Line{T: l.T, Stream: l.Labels, Severity: l.Severity, Fields: l.Fields, Text: l.Text}) {
		return nil, "", false
	}
	return cloneLabels(m.pipe.Labels().Append(nil)), string([]byte(m.pipe.Text())), true
}
