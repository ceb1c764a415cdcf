package logql

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/logql/pipeline"
	"github.com/triward/triward/logstore/logql/syntax"
)

// logs answers a query for lines.
func (e *Engine) logs(ctx context.Context, x *syntax.Log, p Params) (*Result, error) {
	limits := e.Limits.orDefault()
	if p.Limit < 0 || p.Limit > limits.Entries {
		return nil, badf("limit %d, 1 to %d are allowed", p.Limit, limits.Entries)
	}
	if p.Limit == 0 {
		p.Limit = min(100, limits.Entries)
	}
	pipe, err := pipeline.New(x.Stages, e.options(ctx))
	if err != nil {
		return nil, badf("%v", err)
	}
	q := &Query{Selector: x.Selector, Start: p.Start, End: p.End, Newest: !p.Oldest}
	if !e.wide {
		if whole := push(q, x.Stages); whole && p.Interval == 0 {
			q.Limit = p.Limit
		}
	}
	c := &collector{p: p, bound: limits.Bytes, streams: map[string]*Stream{}, pipe: pipe}
	r := &Result{Kind: Streams, apart: p.Categorize}
	n := 0
	st, err := e.Source.Lines(ctx, q, func(l *Line) bool {
		if n++; n%1024 == 0 && ctx.Err() != nil {
			return false
		}
		if !pipe.Process(&pipeline.Line{T: l.T, Stream: l.Labels, Severity: l.Severity, Fields: l.Fields, Text: l.Text}) {
			return true
		}
		return c.take(l.T)
	})
	r.Stats.SourceStats = st
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("log query: %w", context.Cause(ctx))
	}
	r.Streams, r.Stats.Kept = c.result(), int64(c.n)
	if c.cut {
		r.Warnings = append(r.Warnings, fmt.Sprintf("the answer ends at %d bytes: ask for fewer lines or a shorter time", limits.Bytes))
	}
	return r.done(), nil
}

// collector puts lines into streams.
type collector struct {
	p       Params
	bound   int
	pipe    *pipeline.Pipeline
	streams map[string]*Stream
	n       int
	last    int64 // the time of the line that was taken last
	bytes   int
	cut     bool
	labels  wire.Labels
	key     []byte
}

// take takes the line that the pipeline holds and reports whether there is room for more.
func (c *collector) take(t int64) bool {
	if c.n > 0 && abs(t-c.last) < int64(c.p.Interval) {
		return true
	}
	ls := c.pipe.Labels()
	if c.p.Categorize {
		c.labels = ls.AppendOf(c.labels[:0], pipeline.Stream)
		slices.SortFunc(c.labels, byName)
	} else {
		c.labels = ls.Append(c.labels[:0])
	}
	c.key = appendKey(c.key[:0], c.labels)
	s, ok := c.streams[string(c.key)]
	if !ok {
		s = &Stream{Labels: cloneLabels(c.labels)}
		c.streams[string(c.key)] = s
		c.bytes += len(c.key)
	}
	c.last = t
	e := Entry{T: t, Line: strings.Clone(c.pipe.Text())}
	if c.p.Categorize {
		e.Fields = sortedClone(ls.AppendOf(nil, pipeline.Field))
		e.Parsed = ls.AppendOf(nil, pipeline.Parsed)
		if name, details := ls.Err(); name != "" {
			e.Parsed = append(e.Parsed, wire.Label{Name: syntax.ErrorLabel, Value: name}, wire.Label{Name: syntax.ErrorDetails, Value: details})
		}
		e.Parsed = sortedClone(e.Parsed)
	}
	s.Entries = append(s.Entries, e)
	c.n++
	c.bytes += len(e.Line) + 64 + sizeOf(e.Fields) + sizeOf(e.Parsed)
	c.cut = c.bytes > c.bound
	return c.n < c.p.Limit && !c.cut
}

func abs(n int64) int64 {
	if n < 0 {
		return -n
	}
	return n
}

func sizeOf(ls []wire.Label) (n int) {
	for i := range ls {
		n += len(ls[i].Name) + len(ls[i].Value) + 32
	}
	return n
}

func byName(a, b wire.Label) int { return strings.Compare(a.Name, b.Name) }

func sortedClone(ls []wire.Label) []wire.Label {
	slices.SortFunc(ls, byName)
	return cloneLabels(ls)
}

func (c *collector) result() []Stream {
	out := make([]Stream, 0, len(c.streams))
	for _, s := range c.streams {
		out = append(out, *s)
	}
	slices.SortFunc(out, func(a, b Stream) int { return compareLabels(a.Labels, b.Labels) })
	return out
}
