package logrules

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/alerting/ruletest"
	"github.com/triward/triward/logstore/logql"
)

// Over answers rules over lines that a unit test of rules makes up.
func Over(lines []ruletest.Line) (ruletest.LogQL, error) {
	src := make(memory, len(lines))
	for i := range lines {
		l := &lines[i]
		src[i] = logql.Line{T: l.T, Labels: wire.LabelsFromMap(l.Labels), Fields: wire.LabelsFromMap(l.Fields), Text: []byte(l.Text)}
		if l.Severity != "" {
			if src[i].Severity = severity(l.Severity); src[i].Severity == wire.SeverityUnknown {
				return nil, fmt.Errorf("severity %.40q is not known: debug, info, notice, warning, error or critical", l.Severity)
			}
		}
	}
	return Logs{Source: src}, nil
}

// severity returns the severity of a name, or that it is unknown.
func severity(name string) wire.Severity {
	for s := wire.SeverityDebug; s <= wire.SeverityCritical; s++ {
		if s.String() == name {
			return s
		}
	}
	return wire.SeverityUnknown
}

// memory is lines in the order of their times.
type memory []logql.Line

// Lines implements logql.Source.
func (m memory) Lines(ctx context.Context, q *logql.Query, fn func(*logql.Line) bool) (st logql.SourceStats, err error) {
	at := func(t int64) int {
		i, _ := slices.BinarySearchFunc(m, t, func(l logql.Line, t int64) int { return cmp.Compare(l.T, t) })
		return i
	}
	part := m[at(q.Start):max(at(q.End), at(q.Start))]
	for i := range part {
		l := &part[i]
		if q.Newest {
			l = &part[len(part)-1-i]
		}
		if !logql.Selects(q.Selector, l.Labels) {
			continue
		}
		st.Lines++
		st.Bytes += int64(len(l.Text))
		if !fn(l) {
			break
		}
	}
	return st, ctx.Err()
}
