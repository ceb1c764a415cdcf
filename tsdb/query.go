package tsdb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/triward/triward/agent/wire"
)

// Lookback is how long the last sample of a series counts as its present value.
const Lookback = 5 * time.Minute

// MaxPoints bounds the points of one series in an answer.
const MaxPoints = 11_000

// QueryOptions bound what queries may take. The zero value of a field means its default.
type QueryOptions struct {
	Logger     *slog.Logger
	Registerer prometheus.Registerer

	Timeout    time.Duration // of one query, waiting for its turn included: 30 s
	MaxSamples int           // that one query may hold in memory at 16 bytes each: 20 million
	Concurrent int           // queries that run at once, the others wait for their turn: 4, or two per processor
}

// Query evaluates PromQL on a Store. Its methods may be called from any goroutine.
type Query struct {
	store   *Store
	engine  *promql.Engine
	parser  parser.Parser
	timeout time.Duration
}

// NewQuery makes the engine; Close ends it.
func NewQuery(store *Store, opts QueryOptions) *Query {
	setDefault(&opts.Timeout, 30*time.Second)
	setDefault(&opts.MaxSamples, 20_000_000)
	setDefault(&opts.Concurrent, max(4, 2*runtime.GOMAXPROCS(0)))
	p := NewParser()
	q := &Query{
		store: store, parser: p, timeout: opts.Timeout,
		engine: promql.NewEngine(promql.EngineOpts{
			Logger: opts.Logger, Reg: opts.Registerer,
			MaxSamples: opts.MaxSamples, Timeout: opts.Timeout, LookbackDelta: Lookback,
			ActiveQueryTracker:       make(turns, opts.Concurrent),
			NoStepSubqueryIntervalFn: func(int64) int64 { return time.Minute.Milliseconds() },
			EnableAtModifier:         true, EnableNegativeOffset: true, EnablePerStepStats: true,
			Parser: p,
		}),
	}
	return q
}

// turns bounds the queries that run at once.
type turns chan struct{}

func (t turns) GetMaxConcurrent() int { return cap(t) }
func (t turns) Close() error          { return nil }
func (t turns) Delete(int)            { <-t }

func (t turns) Insert(ctx context.Context, _ string) (int, error) {
	select {
	case t <- struct{}{}:
		return 0, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// Engine returns the engine for the Prometheus API. The caller does not close it.
func (q *Query) Engine() promql.QueryEngine { return q.engine }

// Parser returns the bounded parser.
func (q *Query) Parser() parser.Parser { return q.parser }

// Store returns what is queried.
func (q *Query) Store() *Store { return q.store }

// Timeout returns how long a query may take.
func (q *Query) Timeout() time.Duration { return q.timeout }

// Close ends the engine. Queries under way run on.
func (q *Query) Close() error {
	if err := q.engine.Close(); err != nil {
		return fmt.Errorf("close query engine: %w", err)
	}
	return nil
}

// Series is one series of an answer: T ascends, V[i] belongs to T[i]. It belongs to the caller.
type Series struct {
	Labels wire.Labels
	T      []int64 // milliseconds since 1970
	V      []float64
}

// Instant evaluates the query at t, in milliseconds since 1970. A scalar is a series without labels; a range vector
// gives all its samples; a string is an error. ErrorPosition finds the place of a syntax error.
func (q *Query) Instant(ctx context.Context, query string, t int64) ([]Series, error) {
	run, err := q.engine.NewInstantQuery(ctx, q.store, nil, query, time.UnixMilli(t))
	if err != nil {
		return nil, fmt.Errorf("query: %w", err)
	}
	return execute(ctx, run)
}

// Range evaluates the query at start, start+step and so on up to and including end, in milliseconds. Points without
// a value are absent.
func (q *Query) Range(ctx context.Context, query string, start, end, step int64) ([]Series, error) {
	switch {
	case step <= 0:
		return nil, fmt.Errorf("query: step of %d ms; it must be positive", step)
	case end < start:
		return nil, errors.New("query: the end is before the start")
	case (end-start)/step >= MaxPoints:
		return nil, fmt.Errorf("query: more than %d points a series; ask for a greater step", MaxPoints)
	}
	run, err := q.engine.NewRangeQuery(ctx, q.store, nil, query, time.UnixMilli(start), time.UnixMilli(end),
		time.Duration(step)*time.Millisecond)
	if err != nil {
		return nil, fmt.Errorf("query: %w", err)
	}
	return execute(ctx, run)
}

func execute(ctx context.Context, run promql.Query) ([]Series, error) {
	defer run.Close()
	res := run.Exec(ctx)
	if res.Err != nil {
		return nil, fmt.Errorf("query: %w", res.Err)
	}
	switch v := res.Value.(type) {
	case promql.Vector:
		out := make([]Series, 0, len(v))
		for _, s := range v {
			if s.H == nil {
				out = append(out, Series{fromLibrary(s.Metric), []int64{s.T}, []float64{s.F}})
			}
		}
		return out, nil
	case promql.Scalar:
		return []Series{{nil, []int64{v.T}, []float64{v.V}}}, nil
	case promql.Matrix:
		out := make([]Series, 0, len(v))
		for _, s := range v {
			one := Series{Labels: fromLibrary(s.Metric), T: make([]int64, len(s.Floats)), V: make([]float64, len(s.Floats))}
			for i, p := range s.Floats {
				one.T[i], one.V[i] = p.T, p.F
			}
			out = append(out, one)
		}
		return out, nil
	}
	return nil, fmt.Errorf("query: the answer is a %s, which has no samples", res.Value.Type())
}

// LatestSamples calls fn with the newest sample, not before since, of every series that the selector matches (all of
// them when it is empty), until fn returns false. The labels belong to fn. It is meant to warm views after a start:
// it reads only the end of the store and is not bounded in time except by ctx.
func (q *Query) LatestSamples(ctx context.Context, selector string, since int64, fn func(ls wire.Labels, t int64, v float64) bool) error {
	matchers := []*labels.Matcher{labels.MustNewMatcher(labels.MatchEqual, "", "")}
	if selector != "" {
		var err error
		if matchers, err = q.parser.ParseMetricSelector(selector); err != nil {
			return fmt.Errorf("latest samples: %w", err)
		}
	}
	reader, err := q.store.Querier(since, time.Now().Add(time.Hour).UnixMilli())
	if err != nil {
		return fmt.Errorf("latest samples: %w", err)
	}
	set := reader.Select(ctx, false, nil, matchers...)
	var it chunkenc.Iterator
	for more := true; more && set.Next(); {
		if err = ctx.Err(); err != nil {
			break
		}
		s := set.At()
		var t int64
		var v float64
		found := false
		it = s.Iterator(it)
		for kind := it.Next(); kind != chunkenc.ValNone; kind = it.Next() {
			if kind == chunkenc.ValFloat {
				t, v = it.At()
				found = true
			}
		}
		if err = it.Err(); err != nil {
			break
		}
		if found {
			more = fn(fromLibrary(s.Labels()), t, v)
		}
	}
	if err := errors.Join(q.store.noticed(errors.Join(err, set.Err())), reader.Close()); err != nil {
		return fmt.Errorf("latest samples: %w", err)
	}
	return nil
}
