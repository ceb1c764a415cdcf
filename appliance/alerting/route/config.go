// Package route says who is told of which alert: the tree of routes with grouping and escalation, the receivers and
// their settings, inhibition and silences. It owns the form of the document that configures them, its check, and how its
// secrets are taken out and put back.
//
// It is pure: it sends nothing, stores nothing and knows no time. It must not import anything of Triward.
package route

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/alertmanager/pkg/labels"
	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"
)

// Bounds of the document.
const (
	MaxDocument  = 128 << 10 // bytes
	MaxRoutes    = 500
	MaxReceivers = 100
	MaxInhibit   = 100
)

// Config is the document as it was checked.
type Config struct {
	Route     *Route         `yaml:"route"`
	Receivers []Receiver     `yaml:"receivers"`
	Inhibit   []*InhibitRule `yaml:"inhibit_rules,omitempty"`
}

// Route is a node of the tree. Empty fields are those of its parent.
type Route struct {
	Receiver       string          `yaml:"receiver,omitempty"`
	Matchers       Matchers        `yaml:"matchers,omitempty"`
	Continue       bool            `yaml:"continue,omitempty"`
	GroupBy        []string        `yaml:"group_by,omitempty"`
	GroupWait      *model.Duration `yaml:"group_wait,omitempty"`
	GroupInterval  *model.Duration `yaml:"group_interval,omitempty"`
	RepeatInterval *model.Duration `yaml:"repeat_interval,omitempty"`
	Escalate       *Escalation     `yaml:"escalate,omitempty"`
	Routes         []*Route        `yaml:"routes,omitempty"`

	key string // of the place in the tree, by what leads there
}

// Escalation is the second step: who is told when nobody took an alert in hand in time.
type Escalation struct {
	After    model.Duration `yaml:"after"`
	Receiver string         `yaml:"receiver"`
}

// InhibitRule mutes the alerts of target while one of source fires that has the same values of Equal.
type InhibitRule struct {
	Source Matchers `yaml:"source_matchers"`
	Target Matchers `yaml:"target_matchers"`
	Equal  []string `yaml:"equal,omitempty"`
}

// Matchers are conditions on labels, all of which must hold: `severity="critical"`, =~, !=, !~.
type Matchers []*labels.Matcher

// UnmarshalYAML reads a list of texts.
func (m *Matchers) UnmarshalYAML(n *yaml.Node) error {
	var texts []string
	if err := n.Decode(&texts); err != nil {
		return err
	}
	for i, text := range texts {
		parsed, err := ParseMatchers(text)
		if err != nil {
			line := n.Line
			if i < len(n.Content) {
				line = n.Content[i].Line
			}
			return fmt.Errorf("line %d: %w", line, err)
		}
		*m = append(*m, parsed...)
	}
	return nil
}

// MarshalYAML writes a list of texts.
func (m Matchers) MarshalYAML() (any, error) {
	texts := make([]string, len(m))
	for i := range m {
		texts[i] = m[i].String()
	}
	return texts, nil
}

// maxRegex bounds the text of a pattern.
const maxRegex = 256

// ParseMatchers reads one or several matchers from a text.
func ParseMatchers(text string) (Matchers, error) {
	if len(text) > 4<<10 {
		return nil, errors.New("a matcher is longer than 4 KiB")
	}
	found, err := labels.ParseMatchers(text)
	if err != nil {
		return nil, fmt.Errorf("matcher %.100q: %w; want label=\"value\", or !=, =~ and !~", text, err)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("matcher %.100q is empty; want label=\"value\", or !=, =~ and !~", text)
	}
	for _, m := range found {
		if len(m.Value) > maxRegex && m.Type >= labels.MatchRegexp {
			return nil, fmt.Errorf("matcher of %q: a pattern of %d bytes; at most %d", m.Name, len(m.Value), maxRegex)
		}
	}
	return found, nil
}

// Match reports whether all matchers hold; an absent label is empty.
func (m Matchers) Match(ls map[string]string) bool {
	for _, one := range m {
		if !one.Matches(ls[one.Name]) {
			return false
		}
	}
	return true
}

// Error is everything that is wrong with the document, each problem with its place and remedy.
type Error struct{ Problems []string }

// Error joins the problems.
func (e *Error) Error() string {
	const shown = 6
	if len(e.Problems) > shown {
		return fmt.Sprintf("routes: %s; and %d more", strings.Join(e.Problems[:shown], "; "), len(e.Problems)-shown)
	}
	return "routes: " + strings.Join(e.Problems, "; ")
}

func (e *Error) add(format string, args ...any) {
	e.Problems = append(e.Problems, fmt.Sprintf(format, args...))
}

var goType = regexp.MustCompile(` in type [\w.*\[\]]+`)

// Parse reads and checks a document. What is wrong with it is told in one *Error.
func Parse(body []byte) (*Config, error) {
	bad := &Error{}
	if len(body) > MaxDocument {
		bad.add("the document has %d bytes; at most %d", len(body), MaxDocument)
		return nil, bad
	}
	var c Config
	dec := yaml.NewDecoder(bytes.NewReader(body))
	dec.KnownFields(true)
	if err := dec.Decode(&c); err != nil {
		if errors.Is(err, io.EOF) {
			bad.add("the document is empty; it wants route and receivers")
			return nil, bad
		}
		if found := badDurations(body); len(found) > 0 {
			for _, text := range found {
				bad.add("%s", text)
			}
			return nil, bad
		}
		texts := []string{err.Error()}
		if typ, ok := errors.AsType[*yaml.TypeError](err); ok {
			texts = typ.Errors
		}
		for _, text := range texts {
			bad.add("%s", goType.ReplaceAllString(strings.TrimPrefix(text, "yaml: "), " here"))
		}
		return nil, bad
	}
	c.check(bad)
	if len(bad.Problems) > 0 {
		return nil, bad
	}
	c.Route.inherit(nil, "{}")
	return &c, nil
}

func (c *Config) check(bad *Error) {
	names := make(map[string]bool)
	if len(c.Receivers) > MaxReceivers {
		bad.add("receivers: %d; at most %d", len(c.Receivers), MaxReceivers)
	}
	for i := range c.Receivers {
		r := &c.Receivers[i]
		place := fmt.Sprintf("receivers[%d]", i)
		switch {
		case r.Name == "":
			bad.add("%s has no name", place)
		case names[r.Name]:
			bad.add("%s: the name %q is taken already", place, r.Name)
		case len(r.Name) > 100:
			bad.add("%s: the name is longer than 100 bytes", place)
		}
		names[r.Name] = true
		r.check(fmt.Sprintf("receiver %q", r.Name), bad)
	}
	if c.Route == nil {
		bad.add("route is missing: it says which receiver gets what no other route takes")
		return
	}
	if c.Route.Receiver == "" {
		bad.add("route.receiver is missing: the root route wants one")
	}
	if len(c.Route.Matchers) > 0 || c.Route.Continue {
		bad.add("route: the root takes every alert; it has no matchers and no continue")
	}
	n := 0
	c.Route.check("route", names, bad, &n, 0)
	if n > MaxRoutes {
		bad.add("%d routes; at most %d", n, MaxRoutes)
	}
	if len(c.Inhibit) > MaxInhibit {
		bad.add("inhibit_rules: %d; at most %d", len(c.Inhibit), MaxInhibit)
	}
	for i, r := range c.Inhibit {
		if r == nil || len(r.Source) == 0 || len(r.Target) == 0 {
			bad.add("inhibit_rules[%d]: want source_matchers and target_matchers", i)
		}
	}
}

func (r *Route) check(place string, names map[string]bool, bad *Error, n *int, depth int) {
	*n++
	if depth > 20 {
		bad.add("%s: routes are nested more than 20 deep", place)
		return
	}
	if r.Receiver != "" && !names[r.Receiver] {
		bad.add("%s.receiver: there is no receiver %q", place, r.Receiver)
	}
	if e := r.Escalate; e != nil {
		if !names[e.Receiver] {
			bad.add("%s.escalate.receiver: there is no receiver %q", place, e.Receiver)
		}
		if d := time.Duration(e.After); d < 10*time.Second || d > 7*24*time.Hour {
			bad.add("%s.escalate.after: %s is out of range: 10s to 7d", place, d)
		}
	}
	between := func(name string, d *model.Duration, least, most time.Duration) {
		if v := d; v != nil && (time.Duration(*v) < least || time.Duration(*v) > most) {
			bad.add("%s.%s: %s is out of range: %s to %s", place, name, time.Duration(*v), least, most)
		}
	}
	between("group_wait", r.GroupWait, 0, time.Hour)
	between("group_interval", r.GroupInterval, time.Second, 24*time.Hour)
	between("repeat_interval", r.RepeatInterval, time.Minute, 31*24*time.Hour)
	for i, name := range r.GroupBy {
		if slices.Contains(r.GroupBy[:i], name) {
			bad.add("%s.group_by: %q is there twice", place, name)
		}
		if name == "..." && len(r.GroupBy) > 1 {
			bad.add("%s.group_by: ... means all labels; it stands alone", place)
		}
	}
	for i, child := range r.Routes {
		at := fmt.Sprintf("%s.routes[%d]", place, i)
		if child == nil {
			bad.add("%s is empty", at)
			continue
		}
		child.check(at, names, bad, n, depth+1)
	}
}

// Defaults of the root route.
const (
	defaultWait     = model.Duration(30 * time.Second)
	defaultInterval = model.Duration(5 * time.Minute)
	defaultRepeat   = model.Duration(4 * time.Hour)
)

// inherit fills empty fields from the parent and names the route's place.
func (r *Route) inherit(parent *Route, key string) {
	if parent == nil {
		parent = &Route{GroupBy: []string{}}
		wait, interval, repeat := defaultWait, defaultInterval, defaultRepeat
		parent.GroupWait, parent.GroupInterval, parent.RepeatInterval = &wait, &interval, &repeat
	}
	if r.Receiver == "" {
		r.Receiver = parent.Receiver
	}
	if r.GroupBy == nil {
		r.GroupBy = parent.GroupBy
	}
	if r.GroupWait == nil {
		r.GroupWait = parent.GroupWait
	}
	if r.GroupInterval == nil {
		r.GroupInterval = parent.GroupInterval
	}
	if r.RepeatInterval == nil {
		r.RepeatInterval = parent.RepeatInterval
	}
	if r.Escalate == nil {
		r.Escalate = parent.Escalate
	}
	r.key = key
	seen := make(map[string]int)
	for _, child := range r.Routes {
		text := "{" + labels.Matchers(child.Matchers).String() + "}"
		seen[text]++
		child.inherit(r, fmt.Sprintf("%s/%s#%d", key, text, seen[text]))
	}
}

// Key names the route's place in the tree by the matchers that lead there, so that it stays the same when other routes
// change.
func (r *Route) Key() string { return r.key }

// For returns the routes that take an alert with the labels, in order.
func (c *Config) For(ls map[string]string) []*Route { return c.Route.match(ls) }

func (r *Route) match(ls map[string]string) []*Route {
	if !r.Matchers.Match(ls) {
		return nil
	}
	var all []*Route
	for _, child := range r.Routes {
		found := child.match(ls)
		all = append(all, found...)
		if len(found) > 0 && !child.Continue {
			break
		}
	}
	if len(all) == 0 {
		all = append(all, r)
	}
	return all
}

// GroupLabels returns those labels by which the route groups.
func (r *Route) GroupLabels(ls map[string]string) map[string]string {
	out := make(map[string]string)
	for name, v := range ls {
		if len(r.GroupBy) == 1 && r.GroupBy[0] == "..." || slices.Contains(r.GroupBy, name) {
			out[name] = v
		}
	}
	return out
}

// Receiver returns the receiver of the name, nil when there is none.
func (c *Config) Receiver(name string) *Receiver {
	for i := range c.Receivers {
		if c.Receivers[i].Name == name {
			return &c.Receivers[i]
		}
	}
	return nil
}

// Escalates reports whether any route has a second step.
func (c *Config) Escalates() bool {
	found := false
	c.All(func(r *Route, _ int) { found = found || r.Escalate != nil })
	return found
}

// All calls fn for every route, parents first, with its depth.
func (c *Config) All(fn func(r *Route, depth int)) { c.Route.each(fn, 0) }

func (r *Route) each(fn func(*Route, int), depth int) {
	fn(r, depth)
	for _, child := range r.Routes {
		child.each(fn, depth+1)
	}
}

// checkURL refuses addresses that cannot be meant or that carry a secret in the clear.
func checkURL(place, raw string, bad *Error, schemes ...string) {
	u, err := url.Parse(raw)
	switch {
	case raw == "":
		bad.add("%s is missing", place)
	case err != nil || u.Host == "" || !slices.Contains(schemes, u.Scheme):
		bad.add("%s: %.100q is no address; want %s://host/path", place, raw, strings.Join(schemes, ":// or "))
	case u.User != nil:
		bad.add("%s: the address holds a password; put it into basic_auth", place)
	case len(raw) > 2048:
		bad.add("%s is longer than 2048 bytes", place)
	}
}
