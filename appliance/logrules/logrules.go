package logrules

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/triward/triward/appliance/alerting"
	"github.com/triward/triward/appliance/alerting/rules"
	"github.com/triward/triward/logstore/logql"
)

// Memory is what the windows of one evaluation take at most, in bytes, beside what its source takes.
const Memory = 32 << 20

// maxAnswer bounds the series of an answer: what recording rules may give.
const maxAnswer = alerting.MaxRecorded

// Sentinels: an answer that is not whole could end an alert that holds, so it is none.
var (
	errPartial = errors.New("parts of the lines are damaged on this node and would be left out; its alerts stay as they are")
	errExpired = errors.New("retention took lines of its range away while it was evaluated; its alerts stay as they are")
)

// Logs answers rules over a source of lines. It is safe for concurrent use as its source is.
type Logs struct{ Source logql.Source }

// CheckLogQL is Check.
func (l Logs) CheckLogQL(text string) (rules.Shape, error) { return Check(text) }

// engine reads the clock of the evaluation where templates ask for the time, so that every node answers alike.
func (l Logs) engine(now int64) *logql.Engine {
	return &logql.Engine{
		Source: l.Source, Levels: true, Limits: logql.Limits{Memory: Memory},
		Now: func() time.Time { return time.UnixMilli(now).UTC() },
	}
}

// Instant answers an expression at a time, in ms since 1970. It fails when lines that the answer needs may be missing.
func (l Logs) Instant(ctx context.Context, text string, t int64) ([]alerting.Sample, error) {
	x, err := parse(text)
	if err != nil {
		return nil, err
	}
	r, err := l.engine(t).Instant(ctx, x, t*1e6)
	if err := whole(r, err); err != nil {
		return nil, err
	}
	if r.Kind == logql.Scalar {
		return []alerting.Sample{{Labels: map[string]string{}, T: t, V: r.Scalar.V}}, nil
	}
	if len(r.Vector) > maxAnswer {
		return nil, fmt.Errorf("the expression gave %d series, at most %d are taken; aggregate it, such as with sum by (host)", len(r.Vector), maxAnswer)
	}
	out := make([]alerting.Sample, len(r.Vector))
	for i := range r.Vector {
		out[i] = alerting.Sample{Labels: r.Vector[i].Labels.Map(), T: t, V: r.Vector[i].V}
	}
	return out, nil
}

// Range answers an expression over time; all times are ms. It fails when lines that the answer needs may be missing.
func (l Logs) Range(ctx context.Context, text string, start, end, step int64) ([]alerting.Series, error) {
	x, err := parse(text)
	if err != nil {
		return nil, err
	}
	r, err := l.engine(end).Range(ctx, x, logql.Params{Start: start * 1e6, End: end * 1e6, Step: time.Duration(step) * time.Millisecond})
	if err := whole(r, err); err != nil {
		return nil, err
	}
	out := make([]alerting.Series, len(r.Matrix))
	for i := range r.Matrix {
		s := alerting.Series{Labels: r.Matrix[i].Labels.Map()}
		for _, p := range r.Matrix[i].Points {
			s.T, s.V = append(s.T, p.T/1e6), append(s.V, p.V)
		}
		out[i] = s
	}
	return out, nil
}

// whole refuses an answer that lines are missing from.
func whole(r *logql.Result, err error) error {
	switch {
	case err != nil:
		return err
	case r.Stats.Partial:
		return errPartial
	case r.Stats.Expired:
		return errExpired
	}
	return nil
}
