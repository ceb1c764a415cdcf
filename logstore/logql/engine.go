package logql

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/logql/pipeline"
	"github.com/triward/triward/logstore/logql/syntax"
)

// Expr is a query that was read: a *syntax.Log or a syntax.Metric. Its String is the canonical form of the query.
type Expr = syntax.Expr

// SyntaxError says what is wrong with the text of a query, and where.
type SyntaxError = syntax.Error

// Parse reads a query. Errors are of type *SyntaxError.
func Parse(text string) (Expr, error) { return syntax.Parse(text) }

// IsLog reports whether the query returns lines; others return numbers.
func IsLog(e Expr) bool { _, ok := e.(*syntax.Log); return ok }

// Limits bound an evaluation. Zero fields mean the defaults.
type Limits struct {
	Series  int   // of one function over a range; 50,000
	Points  int   // steps of a range query; 11,000
	Samples int64 // lines that functions over ranges take; 100,000,000
	Result  int   // points of an answer, and of the sides of operators that are held at once; 4,000,000
	Memory  int64 // bytes of the windows at hand and of the labels of series; 128 MiB
	Entries int   // lines of an answer; 5,000
	Bytes   int   // of the text of an answer, which ends there with a warning; 32 MiB
}

func (l Limits) orDefault() Limits {
	pick := func(n, d int) int {
		if n == 0 {
			return d
		}
		return n
	}
	return Limits{
		Series: pick(l.Series, 50_000), Points: pick(l.Points, 11_000), Samples: int64(pick(int(l.Samples), 100_000_000)),
		Result: pick(l.Result, 4_000_000), Memory: int64(pick(int(l.Memory), 128<<20)), Entries: pick(l.Entries, 5000),
		Bytes: pick(l.Bytes, 32<<20),
	}
}

// ErrQuery is wrapped by errors about what was asked, besides *SyntaxError: they come again with the same data.
var ErrQuery = errors.New("bad log query")

// LimitError says that a query would cost more than is allowed. It wraps ErrQuery.
type LimitError struct{ What, Hint string }

func (e *LimitError) Error() string { return e.What + "; " + e.Hint }

// Unwrap makes it an ErrQuery.
func (e *LimitError) Unwrap() error { return ErrQuery }

// PipelineError says that a stage of a query for numbers made a mistake with a line. It wraps ErrQuery.
type PipelineError struct {
	Name, Details string
	Labels        wire.Labels
}

func (e *PipelineError) Error() string {
	return fmt.Sprintf("pipeline error %s (%s) with a line of %s: numbers are not counted over lines with mistakes; "+
		"leave them out with | __error__=\"\" or | __error__!=%q behind the stage (behind unwrap, if there is one)",
		e.Name, e.Details, labelText(e.Labels), e.Name)
}

// Unwrap makes it an ErrQuery.
func (e *PipelineError) Unwrap() error { return ErrQuery }

// Engine evaluates queries over a source. It is safe for concurrent use; one evaluation runs in the caller's goroutine.
type Engine struct {
	Source Source
	Limits Limits
	Levels bool             // the severity of lines shows as the label detected_level
	Now    func() time.Time // for the templates' function now; nil for time.Now

	wide bool // tests: push nothing down and aggregate nothing early
}

// Params of a range query. Times are nanoseconds since 1970.
type Params struct {
	Start, End int64 // lines: Start <= T < End; numbers: at Start, Start+Step, … <= End
	Step       time.Duration
	Interval   time.Duration // lines: of all streams together at most one within it; 0 for all
	Limit      int           // lines; 0 is 100
	Oldest     bool          // lines oldest first, else newest first
	Categorize bool          // lines: streams by their own labels only, the others beside each line
}

func (e *Engine) now() time.Time {
	if e.Now != nil {
		return e.Now()
	}
	return time.Now()
}

func (e *Engine) options(ctx context.Context) pipeline.Options {
	return pipeline.Options{Levels: e.Levels, Now: e.now(), Stop: func() bool { return ctx.Err() != nil }}
}

func badf(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrQuery}, args...)...)
}

// Range evaluates a query over a range of time. It fails with an error that wraps ErrQuery, the context's error, or the
// source's.
func (e *Engine) Range(ctx context.Context, expr Expr, p Params) (*Result, error) {
	if p.End < p.Start {
		return nil, badf("the end is before the start")
	}
	began := time.Now()
	var r *Result
	var err error
	switch x := expr.(type) {
	case *syntax.Log:
		r, err = e.logs(ctx, x, p)
	case syntax.Metric:
		limits := e.Limits.orDefault()
		if p.Step <= 0 {
			return nil, badf("a step greater than 0 is needed, such as 15s")
		}
		n := (p.End-p.Start)/int64(p.Step) + 1
		if n > int64(limits.Points) {
			return nil, &LimitError{fmt.Sprintf("the query has %d steps, %d are allowed", n, limits.Points), "use a longer step or a shorter time"}
		}
		r, err = e.metric(ctx, x, grid{p.Start, int64(p.Step), int(n)}, limits, false)
	default:
		return nil, badf("there is no expression")
	}
	if err != nil {
		return nil, err
	}
	r.Stats.Duration = time.Since(began)
	return r, nil
}

// Instant evaluates a query for numbers at one time, in nanoseconds since 1970. A query for lines is an error, as in Loki.
func (e *Engine) Instant(ctx context.Context, expr Expr, t int64) (*Result, error) {
	x, ok := expr.(syntax.Metric)
	if !ok {
		return nil, badf("queries for lines are not answered at one time: ask for a range (query_range)")
	}
	began := time.Now()
	r, err := e.metric(ctx, x, grid{t, 1, 1}, e.Limits.orDefault(), true)
	if err != nil {
		return nil, err
	}
	r.Stats.Duration = time.Since(began)
	return r, nil
}

// done makes the warnings of a result.
func (r *Result) done() *Result {
	if r.Stats.Partial {
		r.Warnings = append(r.Warnings, fmt.Sprintf("the answer is partial: damaged parts of the log store were left out (%v)", r.Stats.Damaged))
	}
	if r.Stats.Expired {
		r.Warnings = append(r.Warnings, "retention took lines of the asked time away while the query ran")
	}
	return r
}

// ParseDuration reads a duration as queries write it: Go's form, and days, weeks and years.
func ParseDuration(s string) (time.Duration, error) { return syntax.ParseDuration(s) }
