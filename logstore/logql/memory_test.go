package logql

import (
	"bytes"
	"context"
	"regexp"
	"slices"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/logql/syntax"
)

// memory is a source over lines in memory. It decides all that a query asks for, so that what is pushed down wrongly shows.
type memory struct {
	lines []Line // sorted by time
	reads int
	got   Query
}

func (m *memory) Lines(ctx context.Context, q *Query, fn func(*Line) bool) (st SourceStats, err error) {
	m.reads++
	m.got = *q
	taken := 0
	visit := func(l *Line) bool {
		if l.T < q.Start || l.T >= q.End || !Selects(q.Selector, l.Labels) || !m.fits(q, l) {
			return true
		}
		st.Lines++
		st.Bytes += int64(len(l.Text))
		if taken++; q.Limit > 0 && taken > q.Limit {
			return false
		}
		c := *l
		c.Text, c.Fields = bytes.Clone(l.Text), slices.Clone(l.Fields)
		more := fn(&c)
		for i := range c.Text { // valid only during the call
			c.Text[i] = '!'
		}
		for i := range c.Fields {
			c.Fields[i] = wire.Label{Name: "gone", Value: "gone"}
		}
		return more
	}
	if q.Newest {
		for i := len(m.lines) - 1; i >= 0; i-- {
			if !visit(&m.lines[i]) {
				break
			}
		}
		return st, ctx.Err()
	}
	for i := range m.lines {
		if !visit(&m.lines[i]) {
			break
		}
	}
	return st, ctx.Err()
}

func (m *memory) fits(q *Query, l *Line) bool {
	for _, f := range q.Fields {
		v := l.Labels.Get(f.Name)
		if v == "" {
			v = wire.Labels(l.Fields).Get(f.Name)
		}
		if !f.Matches(v) {
			return false
		}
	}
	for _, c := range q.Lines {
		hit := slices.ContainsFunc(c.Texts, func(s string) bool {
			switch c.Op {
			case syntax.LineContains, syntax.LineNot:
				return bytes.Contains(l.Text, []byte(s))
			case syntax.LineRegex, syntax.LineNotRegex:
				return regexp.MustCompile(s).Match(l.Text)
			}
			panic("operator " + string(c.Op) + " was pushed down")
		})
		if hit == c.Op.Negative() {
			return false
		}
	}
	return true
}
