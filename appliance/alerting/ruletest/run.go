package ruletest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/rules"
	"go.yaml.in/yaml/v3"
)

// Bounds of a file of tests.
const (
	maxFile  = 4 << 20 // bytes
	maxSteps = 200_000 // evaluations of one test
)

// Run runs the tests of a file and returns how many there were and what did not come as expected. The error says why
// they could not be run. Paths of rule files are relative to the file of tests; they may have wildcards. logql answers rules
// in LogQL over the lines of a test.
func Run(ctx context.Context, path string, logql Over) (tests int, failures []Failure, err error) {
	f, err := read(path)
	if err != nil {
		return 0, nil, err
	}
	order := make(map[string]int)
	for i, name := range f.GroupEvalOrder {
		if _, twice := order[name]; twice {
			return 0, nil, fmt.Errorf("%s: group_eval_order names %q twice", path, name)
		}
		order[name] = i
	}
	for i := range f.Tests {
		g := &f.Tests[i]
		if g.Name == "" {
			g.Name = fmt.Sprintf("test %d", i+1)
		}
		if g.Interval == 0 {
			g.Interval = f.Interval
		}
		r := &run{file: f, test: g, order: order, over: logql}
		if err := r.run(ctx); err != nil {
			return i, failures, fmt.Errorf("%s: %s: %w", path, g.Name, err)
		}
		failures = append(failures, r.failures...)
	}
	return len(f.Tests), failures, nil
}

func read(path string) (*file, error) {
	in, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	body, err := io.ReadAll(io.LimitReader(in, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if len(body) > maxFile {
		return nil, fmt.Errorf("%s is longer than %d bytes", path, maxFile)
	}
	f := &file{Interval: model.Duration(time.Minute)}
	dec := yaml.NewDecoder(bytes.NewReader(body))
	dec.KnownFields(true)
	if err := dec.Decode(f); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(f.Tests) == 0 {
		return nil, fmt.Errorf("%s holds no tests; it is a file with rule_files and tests, as promtool test rules takes it", path)
	}
	if f.Interval <= 0 {
		return nil, fmt.Errorf("%s: evaluation_interval must be more than 0", path)
	}
	var found []string
	for _, pattern := range f.RuleFiles {
		if !filepath.IsAbs(pattern) {
			pattern = filepath.Join(filepath.Dir(path), pattern)
		}
		list, err := filepath.Glob(pattern)
		if err != nil {
			return nil, fmt.Errorf("%s: rule_files: %q: %w", path, pattern, err)
		}
		if len(list) == 0 {
			return nil, fmt.Errorf("%s: rule_files: there is no file %s", path, pattern)
		}
		found = append(found, list...)
	}
	f.RuleFiles = found
	return f, nil
}

// run is the run of one test.
type run struct {
	file     *file
	test     *group
	order    map[string]int
	over     Over
	suite    *promqltest.LazyLoader
	groups   []evaluated
	logs     *logRun
	failures []Failure
}

func (r *run) fail(format string, args ...any) {
	r.failures = append(r.failures, Failure{r.test.Name, fmt.Sprintf(format, args...)})
}

func (r *run) run(ctx context.Context) (err error) {
	t := r.test
	var load strings.Builder
	fmt.Fprintf(&load, "load %dms\n", time.Duration(t.Interval).Milliseconds())
	for _, s := range t.Series {
		fmt.Fprintf(&load, "  %s %s\n", s.Series, s.Values)
	}
	if r.suite, err = promqltest.NewLazyLoader(load.String(), promqltest.LazyLoaderOpts{EnableAtModifier: true, EnableNegativeOffset: true, StartTime: t.Start.Time}); err != nil {
		return fmt.Errorf("input_series: %w", err)
	}
	defer func() { err = errors.Join(err, r.suite.Close()) }()
	every := time.Duration(r.file.Interval)
	r.suite.SubqueryInterval = every
	p := parser.NewParser(parser.Options{})
	m := rules.NewManager(&rules.ManagerOptions{
		QueryFunc: rules.EngineQueryFunc(r.suite.QueryEngine(), r.suite.Storage()), Appendable: r.suite.Storage(), Context: ctx,
		NotifyFunc: func(context.Context, string, ...*rules.Alert) {}, Logger: slog.New(slog.DiscardHandler), Parser: p,
	})
	byName, errs := m.LoadGroups(time.Duration(t.Interval), labels.FromMap(t.ExternalLabels), t.ExternalURL, nil, true, r.file.RuleFiles...)
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	start := time.Unix(0, 0).UTC()
	if !t.Start.IsZero() {
		start = t.Start.Time
	}
	if err := r.openLogs(p, start); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		r.groups = append(r.groups, promGroup{byName[name]})
		for _, rule := range byName[name].Rules() {
			if a, ok := rule.(*rules.AlertingRule); ok {
				a.SetRestored(true) // so that the series ALERTS is written
			}
		}
	}
	slices.SortStableFunc(r.groups, func(a, b evaluated) int { return cmp.Compare(r.order[a.Name()], r.order[b.Name()]) })
	if err := r.evaluate(ctx, start, every); err != nil {
		return err
	}
	for i := range t.Exprs {
		if err := r.expr(ctx, p, &t.Exprs[i], start); err != nil {
			return err
		}
	}
	for i := range t.LogExprs {
		if err := r.logExpr(ctx, p, &t.LogExprs[i], start); err != nil {
			return err
		}
	}
	return nil
}

// evaluated is a group of rules.
type evaluated interface {
	Name() string
	// eval evaluates its rules at a time; its error names rules that cannot be evaluated.
	eval(ctx context.Context, at time.Time) error
	// firing returns labels and annotations of the alerts of a name that fire.
	firing(alertname string) []string
}

// promGroup is a group of Prometheus.
type promGroup struct{ *rules.Group }

func (g promGroup) eval(ctx context.Context, at time.Time) (err error) {
	g.Eval(ctx, at)
	for _, rule := range g.Rules() {
		if e := rule.LastError(); e != nil {
			err = errors.Join(err, fmt.Errorf("rule %s: %w", rule.Name(), e))
		}
	}
	return err
}

func (g promGroup) firing(alertname string) (out []string) {
	for _, rule := range g.Rules() {
		a, ok := rule.(*rules.AlertingRule)
		if !ok || a.Name() != alertname {
			continue
		}
		for _, one := range a.ActiveAlerts() {
			if one.State == rules.StateFiring {
				out = append(out, one.Labels.String()+" "+one.Annotations.String())
			}
		}
	}
	return out
}

// evaluate evaluates all groups from the start on and looks at alerts when their time has come.
func (r *run) evaluate(ctx context.Context, start time.Time, every time.Duration) error {
	var last time.Duration
	for i := range r.test.Alerts {
		if r.test.Alerts[i].Alertname == "" {
			return fmt.Errorf("alert_rule_test %d has no alertname", i+1)
		}
		last = max(last, time.Duration(r.test.Alerts[i].EvalTime))
	}
	for _, cases := range [][]exprCase{r.test.Exprs, r.test.LogExprs} {
		for i := range cases {
			last = max(last, time.Duration(cases[i].EvalTime))
		}
	}
	if last/every > maxSteps {
		return fmt.Errorf("%d evaluations; at most %d: take a longer evaluation_interval", last/every, maxSteps)
	}
	for at := time.Duration(0); at <= last; at += every {
		if err := ctx.Err(); err != nil {
			return err
		}
		var failed error
		r.suite.WithSamplesTill(start.Add(at), func(err error) {
			if failed = err; err != nil {
				return
			}
			for _, g := range r.groups {
				if err := g.eval(ctx, start.Add(at)); err != nil {
					failed = errors.Join(failed, fmt.Errorf("at %s: %w", model.Duration(at), err))
				}
			}
		})
		if failed != nil {
			return failed
		}
		for i := range r.test.Alerts {
			if c := &r.test.Alerts[i]; time.Duration(c.EvalTime) >= at && time.Duration(c.EvalTime) < at+every {
				r.alerts(c)
			}
		}
	}
	return nil
}

// alerts compares the alerts of a name that fire with those expected.
func (r *run) alerts(c *alertCase) {
	var got, want []string
	for _, g := range r.groups {
		got = append(got, g.firing(c.Alertname)...)
	}
	for _, e := range c.ExpAlerts {
		ls := maps.Clone(e.Labels)
		if ls == nil {
			ls = make(map[string]string)
		}
		ls[labels.AlertName] = c.Alertname
		want = append(want, labels.FromMap(ls).String()+" "+labels.FromMap(e.Annotations).String())
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		r.fail("alert %s at %s:\n  want %s\n  got  %s", c.Alertname, c.EvalTime, list(want), list(got))
	}
}

func list(texts []string) string {
	if len(texts) == 0 {
		return "none"
	}
	return strings.Join(texts, "\n       ")
}

// sample is one element of an answer.
type sample struct {
	labels    labels.Labels
	value     float64
	histogram string
}

func (s *sample) String() string {
	if s.histogram != "" {
		return s.labels.String() + " " + s.histogram
	}
	return fmt.Sprintf("%s %g", s.labels, s.value)
}

func (r *run) equal(a, b sample) bool {
	same := a.value == b.value
	if r.file.FuzzyCompare {
		same = same || math.Nextafter(a.value, math.Inf(-1)) == b.value || math.Nextafter(a.value, math.Inf(1)) == b.value
	}
	return same && a.histogram == b.histogram && labels.Equal(a.labels, b.labels)
}

// expr asks a query in PromQL and compares its answer with the one expected.
func (r *run) expr(ctx context.Context, p parser.Parser, c *exprCase, start time.Time) error {
	q, err := r.suite.QueryEngine().NewInstantQuery(ctx, r.suite.Queryable(), nil, c.Expr, start.Add(time.Duration(c.EvalTime)))
	if err != nil {
		return fmt.Errorf("expr %q: %w", c.Expr, err)
	}
	defer q.Close()
	res := q.Exec(ctx)
	var got, want []sample
	switch v := res.Value.(type) {
	case promql.Vector:
		for _, s := range v {
			got = append(got, sample{s.Metric.Copy(), s.F, promqltest.HistogramTestExpression(s.H)})
		}
	case promql.Scalar:
		got = append(got, sample{value: v.V})
	default:
		if res.Err != nil {
			r.fail("expr %q at %s: %v", c.Expr, c.EvalTime, res.Err)
			return nil
		}
		return fmt.Errorf("expr %q gives a %s, want a vector or a scalar", c.Expr, res.Value.Type())
	}
	for _, e := range c.ExpSamples {
		one := sample{value: e.Value}
		if one.labels, err = p.ParseMetric(e.Labels); err != nil {
			return fmt.Errorf("expr %q: exp_samples: labels %q: %w", c.Expr, e.Labels, err)
		}
		if e.Histogram != "" {
			_, values, err := p.ParseSeriesDesc("{} " + e.Histogram)
			if err != nil || len(values) != 1 || values[0].Histogram == nil {
				return fmt.Errorf("expr %q: exp_samples: %q is no histogram (%w)", c.Expr, e.Histogram, err)
			}
			one.histogram = promqltest.HistogramTestExpression(values[0].Histogram)
		}
		want = append(want, one)
	}
	r.compare(c, got, want)
	return nil
}

// compare compares the answer to a query with the one expected.
func (r *run) compare(c *exprCase, got, want []sample) {
	byLabels := func(a, b sample) int { return labels.Compare(a.labels, b.labels) }
	slices.SortFunc(got, byLabels)
	slices.SortFunc(want, byLabels)
	if !slices.EqualFunc(got, want, r.equal) {
		texts := func(samples []sample) (out []string) {
			for i := range samples {
				out = append(out, samples[i].String())
			}
			return out
		}
		r.fail("expr %q at %s:\n  want %s\n  got  %s", c.Expr, c.EvalTime, list(texts(want)), list(texts(got)))
	}
}
