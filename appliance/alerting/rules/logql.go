package rules

import (
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql/parser"
	"go.yaml.in/yaml/v3"
)

// Shape is what an expression in LogQL looks at.
type Shape struct {
	Window    time.Duration // the longest range; 0 when no lines are looked at
	Reach     time.Duration // how far before the time of an evaluation lines are looked at, offsets included
	Lines     string        // the query for lines of its first range, which can be asked as it is
	Keeps     bool          // labels of the result are labels of the lines: nothing renames them afterwards
	Absent    bool          // it holds where lines are missing
	Compared  string        // the side of its comparison that is no number, else the whole
	Threshold *float64      // the number that it is compared with; nil for none
}

// Bounds of expressions in LogQL.
const (
	MaxRange = 24 * time.Hour     // of one function over a range
	MaxReach = 8 * 24 * time.Hour // offsets included
	// rereads is how often a line may be read again before a warning says what that costs.
	rereads       = 240
	usualInterval = 15 * time.Second
)

// logqlGroup is a group of rules in LogQL as it is written: the group that Loki's ruler takes, and the offset and labels
// that Prometheus knows.
type logqlGroup struct {
	Name        string            `yaml:"name"`
	Interval    model.Duration    `yaml:"interval,omitempty"`
	QueryOffset model.Duration    `yaml:"query_offset,omitempty"`
	Limit       int               `yaml:"limit,omitempty"`
	Labels      map[string]string `yaml:"labels,omitempty"`
	Rules       []logqlRule       `yaml:"rules"`
}

// logqlRule has either Alert or Record.
type logqlRule struct {
	Alert         string            `yaml:"alert,omitempty"`
	Record        string            `yaml:"record,omitempty"`
	Expr          string            `yaml:"expr"`
	For           model.Duration    `yaml:"for,omitempty"`
	KeepFiringFor model.Duration    `yaml:"keep_firing_for,omitempty"`
	Labels        map[string]string `yaml:"labels,omitempty"`
	Annotations   map[string]string `yaml:"annotations,omitempty"`

	node, expr yaml.Node
}

// UnmarshalYAML keeps the places of the rule and of its expression for errors.
func (r *logqlRule) UnmarshalYAML(n *yaml.Node) error {
	type plain logqlRule
	if err := strict(n, (*plain)(r), "alert", "record", "expr", "for", "keep_firing_for", "labels", "annotations"); err != nil {
		return err
	}
	r.node, r.expr = *n, *n
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == "expr" {
			r.expr = *n.Content[i+1]
		}
	}
	return nil
}

// addLogQL takes a group of rules in LogQL.
func (f *File) addLogQL(g *logqlGroup, promql parser.Parser, queries Queries, bad *Error) {
	if g.Name == "" {
		bad.add(nil, "a group of logql has no name")
	}
	if g.Limit < 0 {
		bad.add(nil, "group %q: limit %d is less than 0", g.Name, g.Limit)
	}
	out := Group{
		File: f.Name, Name: g.Name, Interval: time.Duration(g.Interval), Offset: time.Duration(g.QueryOffset), Limit: g.Limit,
	}
	for i := range g.Rules {
		r := &g.Rules[i]
		labels := maps.Clone(g.Labels)
		if labels == nil {
			labels = make(map[string]string)
		}
		maps.Copy(labels, r.Labels)
		rule := Rule{
			Kind: LogQL, Language: LanguageLogQL, Name: r.Alert, Expr: strings.TrimSpace(r.Expr), For: time.Duration(r.For), KeepFiringFor: time.Duration(r.KeepFiringFor),
			Labels: labels, Annotations: r.Annotations,
		}
		if r.Record != "" {
			rule.Kind, rule.Name = Record, r.Record
		}
		r.check(&rule, bad)
		r.shape(&rule, promql, queries, bad)
		f.warn(&out, &rule)
		out.Rules = append(out.Rules, rule)
	}
	f.place(out, bad)
}

// check holds the rule against what Prometheus asks of its own.
func (r *logqlRule) check(rule *Rule, bad *Error) {
	if r.Alert != "" && r.Record != "" {
		bad.add(&r.node, "rule %q: want either alert or record", r.Alert)
		return
	}
	checkNames(rule, &r.node, bad)
	if rule.Kind != Record {
		return
	}
	if !model.UTF8Validation.IsValidMetricName(r.Record) {
		bad.add(&r.node, "rule %q: the name is no name of a metric", r.Record)
	}
	if r.For != 0 || r.KeepFiringFor != 0 || len(r.Annotations) > 0 {
		bad.add(&r.node, "rule %q: a recording rule takes no for, keep_firing_for and annotations", r.Record)
	}
}

// shape reads the expression.
func (r *logqlRule) shape(rule *Rule, promql parser.Parser, queries Queries, bad *Error) {
	switch {
	case rule.Expr == "":
		bad.add(&r.node, "rule %q: it has no expr", rule.Name)
		return
	case queries == nil:
		return
	}
	shape, err := queries.CheckLogQL(rule.Expr)
	if err != nil {
		hint := ""
		if _, prom := promql.ParseExpr(rule.Expr); prom == nil && rule.Expr[0] != '{' {
			hint = "; as PromQL it can be read: rules on metrics stand below groups, not below logql"
		}
		bad.query(rule, &r.expr, "expr: %v%s", err, hint)
		return
	}
	if shape.Window > MaxRange {
		bad.query(rule, &r.expr, "expr: a range of %s; at most %s, since it is read anew at each evaluation: record a shorter one and sum that up",
			model.Duration(shape.Window), model.Duration(MaxRange))
	}
	if shape.Reach > MaxReach {
		bad.query(rule, &r.expr, "expr: with its offset it looks %s back; at most %s", model.Duration(shape.Reach), model.Duration(MaxReach))
	}
	rule.Shape = shape
}

// warn says what an operator may not expect of a rule.
func (f *File) warn(g *Group, r *Rule) {
	say := func(format string, args ...any) {
		f.Warnings = append(f.Warnings, fmt.Sprintf("group %q: rule %q: ", g.Name, r.Name)+fmt.Sprintf(format, args...))
	}
	window, every := r.Shape.Window, g.Interval
	if window == 0 {
		return
	}
	if every == 0 {
		every = usualInterval
	}
	if every > window {
		say("it looks at %s every %s: lines between are never looked at; make the interval shorter or the range longer", model.Duration(window), model.Duration(every))
	}
	if window > rereads*every {
		say("it reads %s of lines every %s; a longer interval of the group costs less", model.Duration(window), model.Duration(every))
	}
	if r.Kind == Record && g.Offset < shortWindow {
		say("lines take some seconds from their hosts, and what is recorded stays as it is: query_offset: 30s of the group waits for them")
	}
}

// strayLogQL adds a hint to the problems of groups on metrics whose expressions are LogQL.
func (f *File) strayLogQL(doc *document, promql parser.Parser, queries Queries, bad *Error) {
	if queries == nil {
		return
	}
	for i := range doc.Groups {
		g := &doc.Groups[i]
		for n, r := range g.Rules {
			if _, err := promql.ParseExpr(r.Expr); err == nil || r.Expr == "" {
				continue
			}
			if _, err := queries.CheckLogQL(r.Expr); err != nil {
				continue
			}
			rule := fmt.Sprintf("group %q, rule %d, %q: ", g.Name, n+1, r.Alert+r.Record)
			for k := range bad.Problems {
				if p := &bad.Problems[k]; strings.HasPrefix(p.Message, rule) {
					p.Message += "; it is LogQL: write the group below logql instead of groups"
					break
				}
			}
		}
	}
}
