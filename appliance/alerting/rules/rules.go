// Package rules reads and checks files of alerting rules: Prometheus' groups as they are, and beside them groups of rules in
// LogQL (logql) and of Triward's own kinds (counts of log lines, events, agents and streams that fall silent). It owns
// the form of the file and the expansion of templates in labels and annotations.
//
// It evaluates nothing and knows no state. It must not import anything of Triward.
package rules

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"go.yaml.in/yaml/v3"
)

// Kind is what a rule looks at.
type Kind string

// The kinds.
const (
	Metrics      Kind = "metrics"
	Record       Kind = "record" // a recording rule, in either language
	LogQL        Kind = "logql"  // a query in LogQL
	Logs         Kind = "logs"
	Event        Kind = "event"
	SilentAgent  Kind = "silent_agent"
	SilentStream Kind = "silent_stream"
)

// Language is that of a rule's expression.
type Language string

// The languages. Rules of other kinds than Metrics, LogQL and Record have none.
const (
	LanguagePromQL Language = "promql"
	LanguageLogQL  Language = "logql"
)

// Bounds of what is taken.
const (
	MaxFile     = 128 << 10 // bytes
	MaxPerFile  = 2000      // rules
	MaxText     = 8 << 10   // bytes of a label or annotation as written
	minInterval = time.Second
	maxInterval = 24 * time.Hour
	maxWindow   = 7 * 24 * time.Hour
)

// File is a file of rules that was checked.
type File struct {
	Name     string
	Groups   []Group
	Warnings []string // what an operator should know and that is no error
	LogQL    bool     // it has groups in LogQL, which older releases cannot read
}

// Group is a group of rules evaluated together.
type Group struct {
	File, Name string
	Interval   time.Duration // 0: the default
	Offset     time.Duration // queries look this far back
	Limit      int           // of alerts of a rule; 0 none
	Rules      []Rule
}

// Rule is one rule.
type Rule struct {
	ID            string // file/group/name, and #n for the n-th of the name in its group
	Kind          Kind
	Name          string
	Language      Language
	Expr          string // of Metrics, LogQL and Record
	For           time.Duration
	KeepFiringFor time.Duration
	Labels        map[string]string
	Annotations   map[string]string

	Query  string        // of Logs, Event and SilentStream
	By     string        // the label that separates alerts; "" for none
	Window time.Duration // of Logs; how long an event's alert fires; how far back streams are known
	After  time.Duration // of silent kinds
	Above  *float64      // of Logs: it fires with more lines than this
	Below  *float64      // of Logs: it fires with fewer
	Match  map[string]string

	Shape Shape // of what is in LogQL

	// Refused says why the rule's query is not taken any more, of a file that was stored by a version with other bounds; "" for
	// none. Only ParseStored sets it: such a rule is not evaluated and its alerts stay, while the others of the file go on.
	Refused string
}

// Severity returns the rule's level: its label severity.
func (r *Rule) Severity() string { return r.Labels["severity"] }

// Queries checks a query of the search language.
type Queries interface {
	// CheckQuery returns an error that says what is wrong and where.
	CheckQuery(text string) error
	// CheckLogQL reads an expression in LogQL whose answer is numbers; its error says what is wrong and where.
	CheckLogQL(text string) (Shape, error)
}

// Problem is one thing that is wrong with a file.
type Problem struct {
	Line    int    `json:"line,omitempty"`
	Column  int    `json:"column,omitempty"`
	Message string `json:"message"`
}

// Error is everything that is wrong with a file.
type Error struct {
	File     string
	Problems []Problem

	stored  bool             // a query that is not taken is its rule's own matter
	refused map[place]string // the rules of Prometheus' groups of which that is so, and why
}

// place is that of a rule in its file.
type place struct {
	group string
	rule  int
}

// Error names the first problems.
func (e *Error) Error() string {
	const shown = 5
	var b strings.Builder
	fmt.Fprintf(&b, "rule file %s: ", e.File)
	for i, p := range e.Problems {
		if i == shown {
			fmt.Fprintf(&b, "; and %d more", len(e.Problems)-shown)
			break
		}
		if i > 0 {
			b.WriteString("; ")
		}
		if p.Line > 0 {
			fmt.Fprintf(&b, "line %d: ", p.Line)
		}
		b.WriteString(p.Message)
	}
	return b.String()
}

func (e *Error) add(node *yaml.Node, format string, args ...any) {
	p := Problem{Message: fmt.Sprintf(format, args...)}
	if node != nil {
		p.Line, p.Column = node.Line, node.Column
	}
	e.Problems = append(e.Problems, p)
}

// query notes what is wrong with the query of a rule.
func (e *Error) query(rule *Rule, node *yaml.Node, format string, args ...any) {
	if e.stored {
		rule.Refused = refusal + fmt.Sprintf(format, args...)
		return
	}
	e.add(node, "rule %q: %s", rule.Name, fmt.Sprintf(format, args...))
}

const refusal = "this version does not take its query any more: "

// prom notes an error of Prometheus' own check with the rule it is of, when that is how the file is read.
func (e *Error) prom(err error) bool {
	of, ok := errors.AsType[*rulefmt.Error](err)
	if !ok || !e.stored {
		return false
	}
	if e.refused == nil {
		e.refused = make(map[place]string)
	}
	e.refused[place{of.Group, of.Rule - 1}] = refusal + of.Error()
	return true
}

// document is a file. Groups in LogQL and of Triward's own kinds stand beside those of Prometheus, which stay as they are.
type document struct {
	Groups  []rulefmt.RuleGroup `yaml:"groups"`
	LogQL   []logqlGroup        `yaml:"logql"`
	Triward []ownGroup          `yaml:"triward"`
}

var fileName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// ValidName reports whether a file can have the name.
func ValidName(name string) bool { return fileName.MatchString(name) }

// Parse reads a file. What is wrong with it is told in one *Error.
func Parse(name string, body []byte, promql parser.Parser, queries Queries) (*File, error) {
	return readFile(name, body, promql, queries, false)
}

// ParseStored reads a file that was taken before, maybe by another version. A query that this one does not take makes its rule
// Refused and keeps none of the others from being evaluated.
func ParseStored(name string, body []byte, promql parser.Parser, queries Queries) (*File, error) {
	return readFile(name, body, promql, queries, true)
}

func readFile(name string, body []byte, promql parser.Parser, queries Queries, stored bool) (*File, error) {
	bad := &Error{File: name, stored: stored}
	switch {
	case !ValidName(name):
		bad.add(nil, "the name must be 1 to 63 of a-z, 0-9, '.', '_' and '-', and begin with a letter or digit")
		return nil, bad
	case len(body) > MaxFile:
		bad.add(nil, "%d bytes; at most %d: split it into several files", len(body), MaxFile)
		return nil, bad
	}
	var doc document
	dec := yaml.NewDecoder(bytes.NewReader(body))
	dec.KnownFields(true)
	if err := dec.Decode(&doc); err != nil && !errors.Is(err, io.EOF) {
		problems := yamlProblems(err)
		if problems[0].Line == 0 {
			if found := badDurations(body); len(found) > 0 {
				problems = found
			}
		}
		bad.Problems = append(bad.Problems, problems...)
		return nil, bad
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		bad.add(nil, "the file holds a second YAML document; only one is taken")
		return nil, bad
	}
	if _, errs := rulefmt.Parse(body, true, model.UTF8Validation, promql, slog.New(slog.DiscardHandler)); len(errs) > 0 {
		for _, err := range errs {
			if !bad.prom(err) {
				bad.Problems = append(bad.Problems, promProblem(err))
			}
		}
	}
	f := &File{Name: name, LogQL: doc.LogQL != nil}
	for i := range doc.Groups {
		f.addProm(&doc.Groups[i], bad)
	}
	if len(bad.Problems) > 0 {
		f.strayLogQL(&doc, promql, queries, bad)
	}
	for i := range doc.LogQL {
		f.addLogQL(&doc.LogQL[i], promql, queries, bad)
	}
	for i := range doc.Triward {
		f.addOwn(&doc.Triward[i], queries, bad)
	}
	f.check(bad)
	if len(bad.Problems) > 0 {
		return nil, bad
	}
	return f, nil
}

var yamlLine = regexp.MustCompile(`line (\d+): (.*)`)

// yamlProblems takes the decoder's errors apart.
func yamlProblems(err error) []Problem {
	texts := []string{err.Error()}
	if typ, ok := errors.AsType[*yaml.TypeError](err); ok {
		texts = typ.Errors
	}
	var out []Problem
	for _, text := range texts {
		p := Problem{Message: strings.TrimPrefix(text, "yaml: ")}
		if m := yamlLine.FindStringSubmatch(text); m != nil {
			p.Line, p.Message = number(m[1]), m[2]
		}
		p.Message = goType.ReplaceAllString(p.Message, "here")
		out = append(out, p)
	}
	return out
}

// number reads digits that a pattern found; too many of them are no place.
func number(digits string) int {
	n, err := strconv.Atoi(digits)
	if err != nil {
		return 0
	}
	return n
}

var goType = regexp.MustCompile(`in type [\w.*\[\]]+`)

var promPlace = regexp.MustCompile(`^(\d+):(\d+): `)

// promProblem reads the place out of an error of Prometheus' own check.
func promProblem(err error) Problem {
	p := Problem{Message: err.Error()}
	if m := promPlace.FindStringSubmatch(p.Message); m != nil {
		p.Line, p.Column = number(m[1]), number(m[2])
		p.Message = p.Message[len(m[0]):]
	}
	return p
}

// addProm takes a group as Prometheus has it.
func (f *File) addProm(g *rulefmt.RuleGroup, bad *Error) {
	out := Group{File: f.Name, Name: g.Name, Interval: time.Duration(g.Interval), Limit: g.Limit}
	if g.QueryOffset != nil {
		out.Offset = time.Duration(*g.QueryOffset)
	}
	for i, r := range g.Rules {
		labels := maps.Clone(g.Labels)
		if labels == nil {
			labels = make(map[string]string)
		}
		maps.Copy(labels, r.Labels)
		rule := Rule{
			Kind: Metrics, Language: LanguagePromQL, Name: r.Alert, Expr: r.Expr, For: time.Duration(r.For), KeepFiringFor: time.Duration(r.KeepFiringFor),
			Labels: labels, Annotations: r.Annotations, Refused: bad.refused[place{g.Name, i}],
		}
		if r.Record != "" {
			rule.Kind, rule.Name = Record, r.Record
		}
		out.Rules = append(out.Rules, rule)
	}
	f.place(out, bad)
}

// place gives the rules of a group their ids and adds it.
func (f *File) place(g Group, bad *Error) {
	if slices.ContainsFunc(f.Groups, func(o Group) bool { return o.Name == g.Name }) {
		bad.add(nil, "group %q is there twice", g.Name)
	}
	if g.Interval != 0 && (g.Interval < minInterval || g.Interval > maxInterval) {
		bad.add(nil, "group %q: interval %s is out of range: %s to %s", g.Name, g.Interval, minInterval, maxInterval)
	}
	if len(g.Name) > 128 {
		bad.add(nil, "a group's name is %d bytes long; at most 128", len(g.Name))
	}
	count := make(map[string]int)
	for i := range g.Rules {
		r := &g.Rules[i]
		r.ID = f.Name + "/" + g.Name + "/" + r.Name
		if count[r.Name]++; count[r.Name] > 1 {
			r.ID += fmt.Sprintf("#%d", count[r.Name])
		}
		if len(r.ID) > 400 {
			bad.add(nil, "group %q: the name of rule %d is too long", g.Name, i+1)
		}
		for _, set := range []map[string]string{r.Labels, r.Annotations} {
			for name, text := range set {
				if len(text) > MaxText || len(name) > 128 {
					bad.add(nil, "rule %q: %q is longer than %d bytes", r.Name, name, MaxText)
				}
			}
		}
		if len(r.Labels) > 32 || len(r.Annotations) > 32 {
			bad.add(nil, "rule %q: more than 32 labels or annotations", r.Name)
		}
	}
	f.Groups = append(f.Groups, g)
}

func (f *File) check(bad *Error) {
	n := 0
	for i := range f.Groups {
		n += len(f.Groups[i].Rules)
	}
	if n > MaxPerFile {
		bad.add(nil, "%d rules; at most %d: split it into several files", n, MaxPerFile)
	}
}

// Kinds counts the rules of the file by their kind; recording rules in LogQL are counted as record_logql.
func (f *File) Kinds() map[string]int {
	out := make(map[string]int)
	for i := range f.Groups {
		for j := range f.Groups[i].Rules {
			kind := string(f.Groups[i].Rules[j].Kind)
			if r := &f.Groups[i].Rules[j]; r.Kind == Record && r.Language == LanguageLogQL {
				kind = "record_logql"
			}
			out[kind]++
		}
	}
	return out
}

// Count returns the rules of the file.
func (f *File) Count() int {
	n := 0
	for i := range f.Groups {
		n += len(f.Groups[i].Rules)
	}
	return n
}

// LogQuery is a query for the lines that the rule looks at, in the language of the search box or LogQL; "" for rules that
// look at none.
func (r *Rule) LogQuery() string {
	switch {
	case r.Language == LanguageLogQL:
		return r.Shape.Lines
	case r.Kind == Logs || r.Kind == SilentStream:
		return r.Query
	}
	return ""
}

// Text says in one line what the rule looks at.
func (r *Rule) Text() string {
	by := ""
	if r.By != "" {
		by = " by " + r.By
	}
	switch r.Kind {
	case Logs:
		bound := ""
		if r.Above != nil {
			bound = fmt.Sprintf("> %g", *r.Above)
		}
		if r.Below != nil {
			bound = fmt.Sprintf("< %g", *r.Below)
		}
		return fmt.Sprintf("lines in %s%s %s: %s", model.Duration(r.Window), by, bound, r.Query)
	case Event:
		return fmt.Sprintf("event%s, for %s: %s", by, model.Duration(r.Window), r.Query)
	case SilentAgent:
		return "no sign of an agent for " + model.Duration(r.After).String()
	case SilentStream:
		return fmt.Sprintf("no line for %s%s: %s", model.Duration(r.After), by, r.Query)
	}
	return r.Expr
}
