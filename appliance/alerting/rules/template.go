package rules

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/template"
	"go.yaml.in/yaml/v3"
)

func fieldError(n *yaml.Node, names []string) error {
	names = slices.Clone(names)
	slices.Sort(names)
	return fmt.Errorf("line %d: unknown field %.60q; known are %s", n.Line, n.Value, strings.Join(names, ", "))
}

const templateHead = "{{$labels := .Labels}}{{$externalLabels := .ExternalLabels}}{{$externalURL := .ExternalURL}}{{$value := .Value}}"

// Bounds of what templates give, in bytes: one label or annotation, all annotations of an alert, all its labels.
const (
	MaxExpanded    = 4 << 10
	MaxAnnotations = 32 << 10
	MaxLabels      = 16 << 10
)

// QueryFunc answers queries of templates.
type QueryFunc func(ctx context.Context, query string, t time.Time) (promql.Vector, error)

func parseTemplate(name, text string) error {
	if !strings.Contains(text, "{{") {
		return nil
	}
	data := template.AlertTemplateData(nil, nil, "", promql.Sample{})
	return template.NewTemplateExpander(context.Background(), templateHead+text, "__alert_"+name, data, 0, nil, new(url.URL), nil).ParseTest()
}

// Expander expands the templates of one element of a rule's result.
type Expander struct {
	ctx    context.Context
	rule   *Rule
	t      int64
	query  QueryFunc
	data   any
	url    *url.URL
	labels map[string]string
}

// NewExpander makes one for an element with labels and value, at t (milliseconds). external is the address of the
// cluster for people.
func NewExpander(ctx context.Context, r *Rule, t int64, labels map[string]string, value float64, query QueryFunc, external *url.URL) *Expander {
	if external == nil {
		external = new(url.URL)
	}
	return &Expander{
		ctx: ctx, rule: r, t: t, query: query, url: external, labels: labels,
		data: template.AlertTemplateData(labels, map[string]string{}, external.String(), promql.Sample{F: value}),
	}
}

func (e *Expander) expand(text string) string {
	if !strings.Contains(text, "{{") {
		return clip(text)
	}
	out, err := template.NewTemplateExpander(e.ctx, templateHead+text, "__alert_"+e.rule.Name, e.data, model.Time(e.t),
		template.QueryFunc(e.query), e.url, nil).Expand()
	if err != nil {
		out = fmt.Sprintf("<error expanding template: %s>", err)
	}
	return clip(out)
}

func clip(s string) string {
	if len(s) <= MaxExpanded {
		return s
	}
	return strings.ToValidUTF8(s[:MaxExpanded-3], "") + "..."
}

// Labels returns the labels of the alert: the element's without its metric name, the rule's over them, and its name.
func (e *Expander) Labels() map[string]string {
	out := make(map[string]string, len(e.labels)+len(e.rule.Labels)+1)
	for name, v := range e.labels {
		if name != model.MetricNameLabel && v != "" {
			out[name] = clip(v)
		}
	}
	for name, text := range e.rule.Labels {
		if v := e.expand(text); v != "" {
			out[name] = v
		} else {
			delete(out, name)
		}
	}
	out[model.AlertNameLabel] = e.rule.Name
	return out
}

// Annotations returns the annotations of the alert. Those beyond MaxAnnotations are left out, the last by name first.
func (e *Expander) Annotations() map[string]string {
	out := make(map[string]string, len(e.rule.Annotations))
	room := MaxAnnotations
	for _, name := range slices.Sorted(maps.Keys(e.rule.Annotations)) {
		v := e.expand(e.rule.Annotations[name])
		if room -= len(name) + len(v); room < 0 {
			break
		}
		out[name] = v
	}
	return out
}

// CheckLabels refuses labels that are too many or too long to keep.
func CheckLabels(ls map[string]string) error {
	size := 0
	for name, v := range ls {
		size += len(name) + len(v)
	}
	if len(ls) > maxLabels || size > MaxLabels {
		return fmt.Errorf("an alert would have %d labels of %d bytes, at most %d of %d are possible; aggregate the condition", len(ls), size, maxLabels, MaxLabels)
	}
	return nil
}

const maxLabels = 64
