package ruletest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	promrules "github.com/prometheus/prometheus/rules"
	"go.yaml.in/yaml/v3"

	"github.com/triward/triward/appliance/alerting"
	"github.com/triward/triward/appliance/alerting/rules"
	"github.com/triward/triward/appliance/alerting/state"
)

// maxLines bounds the lines of one test.
const maxLines = 200_000

// stream is lines of one stream as a test writes them.
type stream struct {
	Stream string `yaml:"stream"` // {name="value", …}
	Lines  []line `yaml:"lines"`
}

// line is a line, or several that are alike.
type line struct {
	At       model.Duration    `yaml:"at"` // after the start of the test
	Text     string            `yaml:"text"`
	Severity string            `yaml:"severity"`
	Fields   map[string]string `yaml:"fields"`
	Times    int               `yaml:"times"` // 1 when absent
	Every    model.Duration    `yaml:"every"` // between them
}

// Line is a line of a log.
type Line struct {
	T        int64 // nanoseconds since 1970
	Labels   map[string]string
	Severity string
	Fields   map[string]string
	Text     string
}

// LogQL answers expressions of rules in LogQL over lines. It need not be safe for concurrent use.
type LogQL interface {
	// CheckLogQL reads an expression; its error says what is wrong and where.
	CheckLogQL(text string) (rules.Shape, error)
	// Instant answers it at a time, in ms since 1970.
	Instant(ctx context.Context, text string, t int64) ([]alerting.Sample, error)
}

// Over makes a LogQL over lines, which are in the order of their times. Its error says which line cannot be.
type Over func(lines []Line) (LogQL, error)

// logRun is what a test has of lines.
type logRun struct {
	LogQL
	query    promrules.QueryFunc // of templates
	append   func(ctx context.Context, samples []alerting.Sample) error
	external *url.URL
}

// CheckQuery takes every query of Triward's own kinds, which are not evaluated here.
func (*logRun) CheckQuery(string) error { return nil }

// logGroup is a group in LogQL, evaluated as a leader does.
type logGroup struct {
	run    *logRun
	group  *rules.Group
	active map[string]map[string]*state.Alert // by rule and id
}

// Name implements evaluated.
func (g *logGroup) Name() string { return g.group.Name }

// openLogs makes the lines of the test and reads the groups in LogQL of its rule files.
func (r *run) openLogs(p parser.Parser, start time.Time) error {
	lines, err := r.lines(p, start)
	if err != nil {
		return err
	}
	r.logs = &logRun{query: promrules.EngineQueryFunc(r.suite.QueryEngine(), r.suite.Storage()), append: r.record}
	if r.logs.LogQL, err = r.over(lines); err != nil {
		return fmt.Errorf("input_logs: %w", err)
	}
	if r.logs.external, err = url.Parse(r.test.ExternalURL); err != nil {
		return fmt.Errorf("external_url: %w", err)
	}
	for i, path := range r.file.RuleFiles {
		body, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
		var has struct {
			LogQL []yaml.Node `yaml:"logql"`
		}
		if err := yaml.Unmarshal(body, &has); err != nil || len(has.LogQL) == 0 {
			continue // what Prometheus takes is Prometheus' to judge
		}
		f, err := rules.Parse(fmt.Sprintf("file%d", i), body, p, r.logs)
		if err != nil {
			if bad, ok := errors.AsType[*rules.Error](err); ok {
				bad.File = path
			}
			return err
		}
		for gi := range f.Groups {
			g := &f.Groups[gi]
			if len(g.Rules) > 0 && g.Rules[0].Language == rules.LanguageLogQL {
				r.groups = append(r.groups, &logGroup{run: r.logs, group: g, active: make(map[string]map[string]*state.Alert)})
			}
		}
	}
	return nil
}

// lines are those of the test in the order of their times.
func (r *run) lines(p parser.Parser, start time.Time) ([]Line, error) {
	var out []Line
	for _, s := range r.test.Logs {
		ls, err := p.ParseMetric(s.Stream)
		if err != nil {
			return nil, fmt.Errorf("input_logs: stream %.100q: %w", s.Stream, err)
		}
		for i := range s.Lines {
			l := &s.Lines[i]
			if l.Times < 0 || l.Times > 1 && l.Every <= 0 {
				return nil, fmt.Errorf("input_logs: stream %s: line %d: times wants a number more than 0 and every, the time between", s.Stream, i+1)
			}
			for n := range max(l.Times, 1) {
				if len(out) == maxLines {
					return nil, fmt.Errorf("input_logs: more than %d lines", maxLines)
				}
				out = append(out, Line{
					T: start.Add(time.Duration(l.At) + time.Duration(n)*time.Duration(l.Every)).UnixNano(), Labels: ls.Map(), Severity: l.Severity,
					Fields: l.Fields, Text: l.Text,
				})
			}
		}
	}
	slices.SortStableFunc(out, func(a, b Line) int { return cmp.Compare(a.T, b.T) })
	return out, nil
}

// record stores what recording rules gave beside the series of the test.
func (r *run) record(ctx context.Context, samples []alerting.Sample) error {
	app := r.suite.Storage().Appender(ctx)
	for _, s := range samples {
		if _, err := app.Append(0, labels.FromMap(s.Labels), s.T, s.V); err != nil {
			return errors.Join(err, app.Rollback())
		}
	}
	return app.Commit()
}

func (g *logGroup) eval(ctx context.Context, at time.Time) error {
	var failed error
	for i := range g.group.Rules {
		rule := &g.group.Rules[i]
		if err := g.evalRule(ctx, rule, at.UnixMilli()); err != nil {
			failed = errors.Join(failed, fmt.Errorf("rule %s: %w", rule.Name, err))
		}
	}
	return failed
}

func (g *logGroup) evalRule(ctx context.Context, rule *rules.Rule, at int64) error {
	t := at - g.group.Offset.Milliseconds()
	found, err := g.run.Instant(ctx, rule.Expr, t)
	if err != nil {
		return err
	}
	if limit := g.group.Limit; limit > 0 && len(found) > limit {
		return fmt.Errorf("it gave %d elements, the group's limit is %d", len(found), limit)
	}
	if rule.Kind == rules.Record {
		for i := range found {
			found[i].T, found[i].Labels = t, alerting.RecordLabels(rule, found[i].Labels)
		}
		return g.run.append(ctx, found)
	}
	active := g.active[rule.ID]
	if active == nil {
		active = make(map[string]*state.Alert)
		g.active[rule.ID] = active
	}
	var results []state.Result
	for i := range found {
		x := rules.NewExpander(ctx, rule, at, found[i].Labels, found[i].V, rules.QueryFunc(g.run.query), g.run.external)
		ls := x.Labels()
		if err := rules.CheckLabels(ls); err != nil {
			return err
		}
		results = append(results, state.Result{ID: state.ID(rule.ID, ls), Labels: ls, Value: found[i].V, Annotate: x.Annotations})
	}
	changes, refused := state.Evaluate(state.Rule{ID: rule.ID, For: rule.For.Milliseconds(), KeepFiringFor: rule.KeepFiringFor.Milliseconds()}, at, active, results)
	for _, c := range changes {
		if c.Alert == nil {
			delete(active, c.ID)
			continue
		}
		active[c.ID] = c.Alert
	}
	if refused > 0 {
		return fmt.Errorf("%d alerts beyond the bound of %d", refused, state.MaxPerRule)
	}
	return nil
}

func (g *logGroup) firing(alertname string) (out []string) {
	for i := range g.group.Rules {
		rule := &g.group.Rules[i]
		if rule.Kind != rules.LogQL || rule.Name != alertname {
			continue
		}
		for _, a := range g.active[rule.ID] {
			if a.Phase == state.Firing {
				out = append(out, labels.FromMap(a.Labels).String()+" "+labels.FromMap(a.Annotations).String())
			}
		}
	}
	return out
}

// logExpr asks a query in LogQL and compares its answer with the one expected.
func (r *run) logExpr(ctx context.Context, p parser.Parser, c *exprCase, start time.Time) error {
	if _, err := r.logs.CheckLogQL(c.Expr); err != nil {
		return fmt.Errorf("expr %q: %w", c.Expr, err)
	}
	found, err := r.logs.Instant(ctx, c.Expr, start.Add(time.Duration(c.EvalTime)).UnixMilli())
	if err != nil {
		r.fail("expr %q at %s: %v", c.Expr, c.EvalTime, err)
		return nil
	}
	var got, want []sample
	for _, s := range found {
		got = append(got, sample{labels: labels.FromMap(s.Labels), value: s.V})
	}
	for _, e := range c.ExpSamples {
		one := sample{value: e.Value}
		if one.labels, err = p.ParseMetric(e.Labels); err != nil {
			return fmt.Errorf("expr %q: exp_samples: labels %q: %w", c.Expr, e.Labels, err)
		}
		want = append(want, one)
	}
	r.compare(c, got, want)
	return nil
}
