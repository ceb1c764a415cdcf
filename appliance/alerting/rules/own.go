package rules

import (
	"fmt"
	"maps"
	"time"

	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"
)

// ownGroup is a group of Triward's own kinds as it is written.
type ownGroup struct {
	Name     string            `yaml:"name"`
	Interval model.Duration    `yaml:"interval,omitempty"`
	Labels   map[string]string `yaml:"labels,omitempty"`
	Rules    []ownRule         `yaml:"rules"`
}

// ownRule has exactly one of Logs, Event, SilentAgent and SilentStream.
type ownRule struct {
	Alert         string            `yaml:"alert"`
	For           model.Duration    `yaml:"for,omitempty"`
	KeepFiringFor model.Duration    `yaml:"keep_firing_for,omitempty"`
	Labels        map[string]string `yaml:"labels,omitempty"`
	Annotations   map[string]string `yaml:"annotations,omitempty"`
	Logs          *logsForm         `yaml:"logs,omitempty"`
	Event         *eventForm        `yaml:"event,omitempty"`
	SilentAgent   *agentForm        `yaml:"silent_agent,omitempty"`
	SilentStream  *streamForm       `yaml:"silent_stream,omitempty"`

	node yaml.Node
}

// UnmarshalYAML keeps the place of the rule for errors. It checks the names of the fields itself, since the decoder
// cannot pass its strictness on.
func (r *ownRule) UnmarshalYAML(n *yaml.Node) error {
	if err := known(n, "alert", "for", "keep_firing_for", "labels", "annotations", "logs", "event", "silent_agent", "silent_stream"); err != nil {
		return err
	}
	type plain ownRule
	if err := n.Decode((*plain)(r)); err != nil {
		return err
	}
	r.node = *n
	return nil
}

type logsForm struct {
	Query  string         `yaml:"query"`
	Window model.Duration `yaml:"window"`
	By     string         `yaml:"by,omitempty"`
	Above  *float64       `yaml:"above,omitempty"`
	Below  *float64       `yaml:"below,omitempty"`
}

// UnmarshalYAML is strict about the names of fields.
func (f *logsForm) UnmarshalYAML(n *yaml.Node) error {
	type plain logsForm
	return strict(n, (*plain)(f), "query", "window", "by", "above", "below")
}

type eventForm struct {
	Query string         `yaml:"query"`
	By    string         `yaml:"by,omitempty"`
	Hold  model.Duration `yaml:"hold,omitempty"`
}

// UnmarshalYAML is strict about the names of fields.
func (f *eventForm) UnmarshalYAML(n *yaml.Node) error {
	type plain eventForm
	return strict(n, (*plain)(f), "query", "by", "hold")
}

type agentForm struct {
	After model.Duration    `yaml:"after"`
	Match map[string]string `yaml:"match,omitempty"`
}

// UnmarshalYAML is strict about the names of fields.
func (f *agentForm) UnmarshalYAML(n *yaml.Node) error {
	type plain agentForm
	return strict(n, (*plain)(f), "after", "match")
}

type streamForm struct {
	Query  string         `yaml:"query"`
	By     string         `yaml:"by"`
	After  model.Duration `yaml:"after"`
	Within model.Duration `yaml:"within,omitempty"`
}

// UnmarshalYAML is strict about the names of fields.
func (f *streamForm) UnmarshalYAML(n *yaml.Node) error {
	type plain streamForm
	return strict(n, (*plain)(f), "query", "by", "after", "within")
}

func strict(n *yaml.Node, into any, names ...string) error {
	if err := known(n, names...); err != nil {
		return err
	}
	return n.Decode(into)
}

// known refuses fields of a mapping that are none of the names.
func known(n *yaml.Node, names ...string) error {
	if n.Kind != yaml.MappingNode {
		return nil // the decoder says it better
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		found := false
		for _, name := range names {
			found = found || n.Content[i].Value == name
		}
		if !found {
			return fieldError(n.Content[i], names)
		}
	}
	return nil
}

const (
	shortWindow   = 30 * time.Second
	defaultHold   = 10 * time.Minute
	defaultWithin = 24 * time.Hour
)

// addOwn takes a group of our own kinds.
func (f *File) addOwn(g *ownGroup, queries Queries, bad *Error) {
	if g.Name == "" {
		bad.add(nil, "a group of triward has no name")
	}
	out := Group{File: f.Name, Name: g.Name, Interval: time.Duration(g.Interval)}
	for i := range g.Rules {
		r := &g.Rules[i]
		labels := maps.Clone(g.Labels)
		if labels == nil {
			labels = make(map[string]string)
		}
		maps.Copy(labels, r.Labels)
		rule := Rule{
			Name: r.Alert, For: time.Duration(r.For), KeepFiringFor: time.Duration(r.KeepFiringFor),
			Labels: labels, Annotations: r.Annotations,
		}
		r.fill(&rule, queries, bad)
		checkNames(&rule, &r.node, bad)
		if rule.Kind == Logs && rule.Above != nil && rule.Window < shortWindow {
			f.Warnings = append(f.Warnings, fmt.Sprintf("group %q: rule %q: with a window of %s, shorter than the way of lines from their hosts, the alert ends up to a minute later than the window says",
				g.Name, rule.Name, model.Duration(rule.Window)))
		}
		out.Rules = append(out.Rules, rule)
	}
	f.place(out, bad)
}

// fill takes over what the rule looks at.
func (r *ownRule) fill(rule *Rule, queries Queries, bad *Error) {
	n := 0
	query := ""
	if l := r.Logs; l != nil {
		n++
		rule.Kind, rule.By, rule.Window, rule.Above, rule.Below = Logs, l.By, time.Duration(l.Window), l.Above, l.Below
		query = l.Query
		if (l.Above == nil) == (l.Below == nil) {
			bad.add(&r.node, "rule %q: logs wants either above or below", r.Alert)
		}
		if l.Below != nil && l.By != "" {
			bad.add(&r.node, "rule %q: below cannot be separated by a label, since a value without lines is not seen; use silent_stream", r.Alert)
		}
		span(bad, r, "logs.window", rule.Window, time.Second, maxWindow)
	}
	if e := r.Event; e != nil {
		n++
		rule.Kind, rule.By, rule.Window, query = Event, e.By, time.Duration(e.Hold), e.Query
		if e.Hold == 0 {
			rule.Window = defaultHold
		}
		span(bad, r, "event.hold", rule.Window, 30*time.Second, maxWindow)
		if rule.For != 0 || rule.KeepFiringFor != 0 {
			bad.add(&r.node, "rule %q: an event fires at once and for its hold time; it takes no for and no keep_firing_for", r.Alert)
		}
		if query == "" {
			bad.add(&r.node, "rule %q: event wants a query", r.Alert)
		}
	}
	if a := r.SilentAgent; a != nil {
		n++
		rule.Kind, rule.After, rule.Match = SilentAgent, time.Duration(a.After), a.Match
		span(bad, r, "silent_agent.after", rule.After, 30*time.Second, maxWindow)
	}
	if s := r.SilentStream; s != nil {
		n++
		rule.Kind, rule.By, rule.After, rule.Window, query = SilentStream, s.By, time.Duration(s.After), time.Duration(s.Within), s.Query
		if s.Within == 0 {
			rule.Window = defaultWithin
		}
		if s.By == "" {
			bad.add(&r.node, "rule %q: silent_stream wants by, the label whose values are the streams", r.Alert)
		}
		span(bad, r, "silent_stream.after", rule.After, 30*time.Second, maxWindow)
		span(bad, r, "silent_stream.within", rule.Window, rule.After, maxWindow)
	}
	if n != 1 {
		bad.add(&r.node, "rule %q: want exactly one of logs, event, silent_agent and silent_stream", r.Alert)
	}
	rule.Query = query
	if query != "" && queries != nil {
		if err := queries.CheckQuery(query); err != nil {
			bad.query(rule, &r.node, "query: %v", err)
		}
	}
}

func span(bad *Error, r *ownRule, what string, v, least, most time.Duration) {
	if v < least || v > most {
		bad.add(&r.node, "rule %q: %s %s is out of range: %s to %s", r.Alert, what, v, least, most)
	}
}

// checkNames holds a rule of ours against what Prometheus asks of its own.
func checkNames(r *Rule, node *yaml.Node, bad *Error) {
	if r.Name == "" {
		bad.add(node, "a rule has no alert: give it a name")
	}
	for name, value := range r.Labels {
		if !model.UTF8Validation.IsValidLabelName(name) || name == model.MetricNameLabel || !model.LabelValue(value).IsValid() {
			bad.add(node, "rule %q: label %q is not valid", r.Name, name)
		}
	}
	for name := range r.Annotations {
		if !model.UTF8Validation.IsValidLabelName(name) {
			bad.add(node, "rule %q: annotation %q is not valid", r.Name, name)
		}
	}
	for _, set := range []map[string]string{r.Labels, r.Annotations} {
		for name, text := range set {
			if err := parseTemplate(r.Name, text); err != nil {
				bad.add(node, "rule %q: %s: %v", r.Name, name, err)
			}
		}
	}
}
