package alerting

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/triward/triward/appliance/alerting/rules"
	"github.com/triward/triward/appliance/alerting/state"

	"github.com/prometheus/prometheus/promql/parser"
)

// Now is the log time that states are as of, in milliseconds.
func (s *Service) Now() int64 { return s.cfg.Meta.LogTime() }

// seriesPoints is about how many points a line of an alert has; previewPoints how many a preview evaluates.
const (
	seriesPoints  = 120
	previewPoints = 2000
)

// AlertSeries is what an alert's rule looks at, over time. Lists are null where there is no value.
type AlertSeries struct {
	Start     int64      `json:"start"` // ms
	Step      int64      `json:"step"`  // ms
	Values    []*float64 `json:"values"`
	Threshold *float64   `json:"threshold"` // the rule compares with it; null when it does not compare with a number
	Query     string     `json:"query"`
}

// Series returns the line of an alert of a rule on metrics or in LogQL: the side of its comparison that has labels, for the
// labels of the alert.
func (s *Service) Series(ctx context.Context, id string, start, end int64) (AlertSeries, error) {
	b := s.board
	b.refresh()
	b.mu.RLock()
	a, ok := b.alerts[id]
	var r *rules.Rule
	if ok {
		r = b.ruleIndex()[a.rec.Rule]
	}
	b.mu.RUnlock()
	if !ok || r == nil {
		return AlertSeries{}, fmt.Errorf("alert %.64q: %w", id, ErrNotFound)
	}
	if r.Kind != rules.Metrics && r.Kind != rules.LogQL {
		return AlertSeries{}, fmt.Errorf("alert %s is of a rule of kind %s, which has no line: %w", id, r.Kind, ErrState)
	}
	if end <= start {
		return AlertSeries{}, fmt.Errorf("the end is before the start: %w", ErrInvalid)
	}
	step := max((end-start)/seriesPoints/1000*1000, 1000)
	start -= start % step
	query, threshold, ask := r.Shape.Compared, r.Shape.Threshold, s.cfg.Logs.LogQLRange
	if r.Kind == rules.Metrics {
		query, threshold = compared(s.cfg.Metrics.Parser(), r.Expr)
		ask = s.cfg.Metrics.Range
	}
	out := AlertSeries{Start: start, Step: step, Query: query, Threshold: threshold, Values: []*float64{}}
	found, err := ask(ctx, query, start, end, step)
	if err != nil {
		return out, err
	}
	n := int((end-start)/step) + 1
	out.Values = make([]*float64, n)
	if at := likest(found, a.rec.Labels); at >= 0 {
		for i, t := range found[at].T {
			if k := int((t - start) / step); k >= 0 && k < n && !math.IsNaN(found[at].V[i]) && !math.IsInf(found[at].V[i], 0) {
				out.Values[k] = &found[at].V[i]
			}
		}
	}
	return out, nil
}

// compared takes a comparison with a number apart. Of an expression that is none it returns the whole.
func compared(p parser.Parser, expr string) (query string, threshold *float64) {
	e, err := p.ParseExpr(expr)
	if err != nil {
		return expr, nil
	}
	for {
		switch x := e.(type) {
		case *parser.ParenExpr:
			e = x.Expr
			continue
		case *parser.BinaryExpr:
			if x.Op == parser.LAND || x.Op == parser.LUNLESS {
				e = x.LHS
				continue
			}
			if !x.Op.IsComparisonOperator() || x.ReturnBool {
				return e.String(), nil
			}
			if n, ok := literal(x.RHS); ok {
				return x.LHS.String(), &n
			}
			if n, ok := literal(x.LHS); ok {
				return x.RHS.String(), &n
			}
		}
		return e.String(), nil
	}
}

func literal(e parser.Expr) (float64, bool) {
	switch x := e.(type) {
	case *parser.NumberLiteral:
		return x.Val, true
	case *parser.ParenExpr:
		return literal(x.Expr)
	case *parser.UnaryExpr:
		if n, ok := literal(x.Expr); ok && x.Op == parser.SUB {
			return -n, true
		}
	}
	return 0, false
}

// likest finds the series whose labels are among those of the alert; the one with the most of them.
func likest(found []Series, ls map[string]string) int {
	best, at := -1, -1
	for i := range found {
		n := 0
		for name, v := range found[i].Labels {
			if name == "__name__" {
				continue
			}
			if ls[name] != v {
				n = -1
				break
			}
			n++
		}
		if n > best {
			best, at = n, i
		}
	}
	return at
}

// PreviewRequest asks when rules on metrics and in LogQL would have fired.
type PreviewRequest struct {
	Name      string `json:"name"`
	Body      string `json:"body"`
	HoursBack int    `json:"hours,omitempty"` // 168 when 0, at most that
}

// Preview says for each rule when it would have fired.
type Preview struct {
	Start int64         `json:"start"` // ms
	End   int64         `json:"end"`
	Step  int64         `json:"step"`
	Rules []RulePreview `json:"rules"`
}

// RulePreview is the preview of a rule.
type RulePreview struct {
	Name   string    `json:"name"`
	Group  string    `json:"group"`
	Kind   string    `json:"kind"`
	Note   string    `json:"note,omitempty"` // why there is none
	Fired  int       `json:"fired"`          // how often
	Alerts []Firings `json:"alerts"`         // those that fired longest, at most MaxPreview
}

// Firings are the times at which one alert would have fired.
type Firings struct {
	Labels map[string]string `json:"labels"`
	Spans  []Span            `json:"spans"`
	total  int64
}

// Span is a time from and to, in ms.
type Span struct {
	From int64 `json:"from"`
	To   int64 `json:"to"`
}

// Bounds of previews.
const (
	MaxPreview      = 20
	maxPreviewRules = 50
	maxPreviewHours = 168
	// previewTime is how long the preview of one rule in LogQL may read lines.
	previewTime = 8 * time.Second
)

// Preview evaluates the rules on metrics and in LogQL of a file over the past, in steps of at least the group's interval,
// and says when each would have fired.
func (s *Service) Preview(ctx context.Context, req PreviewRequest) (Preview, error) {
	if req.HoursBack == 0 {
		req.HoursBack = maxPreviewHours
	}
	if req.HoursBack < 1 || req.HoursBack > maxPreviewHours {
		return Preview{}, fmt.Errorf("hours: want 1 to %d: %w", maxPreviewHours, ErrInvalid)
	}
	f, err := s.parse(req.Name, []byte(req.Body))
	if err != nil {
		return Preview{}, err
	}
	if f.Count() > maxPreviewRules {
		return Preview{}, fmt.Errorf("%d rules; a preview takes at most %d: %w", f.Count(), maxPreviewRules, ErrInvalid)
	}
	end := s.cfg.Meta.LogTime()
	span := int64(req.HoursBack) * 3600_000
	step := max(span/previewPoints/1000*1000, 15_000)
	out := Preview{Start: end - span, End: end, Step: step, Rules: []RulePreview{}}
	for gi := range f.Groups {
		g := &f.Groups[gi]
		for ri := range g.Rules {
			r := &g.Rules[ri]
			p := RulePreview{Name: r.Name, Group: g.Name, Kind: string(r.Kind), Alerts: []Firings{}}
			if r.Kind != rules.Metrics && r.Kind != rules.LogQL {
				p.Note = "there is a preview for alerts on metrics and in LogQL only"
				out.Rules = append(out.Rules, p)
				continue
			}
			found, err := s.past(ctx, r, out.Start, end, step)
			if err != nil {
				if ctx.Err() != nil {
					return out, err
				}
				p.Note = err.Error()
				out.Rules = append(out.Rules, p)
				continue
			}
			p.take(ctx, s, r, found, step)
			out.Rules = append(out.Rules, p)
		}
	}
	return out, nil
}

// past is when the condition of a rule held.
func (s *Service) past(ctx context.Context, r *rules.Rule, start, end, step int64) ([]Series, error) {
	if r.Kind == rules.Metrics {
		return s.cfg.Metrics.Range(ctx, r.Expr, start, end, step)
	}
	limited, cancel := context.WithTimeout(ctx, previewTime)
	defer cancel()
	found, err := s.cfg.Logs.LogQLRange(limited, r.Expr, start, end, step)
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		return nil, fmt.Errorf("%d hours of lines were not read within %s; ask for fewer hours", (end-start)/3600_000, previewTime)
	}
	return found, err
}

// take finds the spans in which the state machine would have had the alerts fire.
func (p *RulePreview) take(ctx context.Context, s *Service, r *rules.Rule, found []Series, step int64) {
	for i := range found {
		x := rules.NewExpander(ctx, r, 0, found[i].Labels, 0, s.templateQuery, nil)
		one := Firings{Labels: x.Labels(), Spans: firingSpans(r, found[i].T, step)}
		for _, sp := range one.Spans {
			one.total += sp.To - sp.From
			p.Fired++
		}
		if len(one.Spans) > 0 {
			p.Alerts = append(p.Alerts, one)
		}
	}
	slices.SortStableFunc(p.Alerts, func(a, b Firings) int {
		if a.total != b.total {
			return int(min(max(b.total-a.total, -1), 1))
		}
		return strings.Compare(fmt.Sprint(a.Labels), fmt.Sprint(b.Labels))
	})
	p.Alerts = p.Alerts[:min(len(p.Alerts), MaxPreview)]
}

// firingSpans runs one alert through the state machine at the times at which its condition held.
func firingSpans(r *rules.Rule, held []int64, step int64) []Span {
	rule := state.Rule{ID: "preview", For: r.For.Milliseconds(), KeepFiringFor: r.KeepFiringFor.Milliseconds()}
	var spans []Span
	active := map[string]*state.Alert{}
	advance := func(t int64, results []state.Result) {
		changes, _ := state.Evaluate(rule, t, active, results)
		for _, c := range changes {
			was := active[c.ID]
			if c.Alert == nil {
				delete(active, c.ID)
				continue
			}
			active[c.ID] = c.Alert
			switch {
			case c.Alert.Phase == state.Firing && (was == nil || was.Phase != state.Firing):
				spans = append(spans, Span{t, t})
			case c.Alert.Phase == state.Resolved && was != nil && was.Phase == state.Firing:
				spans[len(spans)-1].To = t
			}
		}
	}
	const maxSpans = 500
	for i, t := range held {
		if len(spans) >= maxSpans {
			break
		}
		if i > 0 {
			for gap := held[i-1] + step; gap < t && len(active) > 0 && !resolved(active); gap += step {
				advance(gap, nil)
			}
		}
		advance(t, []state.Result{{ID: "a"}})
	}
	if n := len(held); n > 0 {
		if a := active["a"]; a != nil && a.Phase == state.Firing {
			spans[len(spans)-1].To = held[n-1] + step
		}
	}
	return spans
}

func resolved(active map[string]*state.Alert) bool {
	for _, a := range active {
		if a.Phase != state.Resolved {
			return false
		}
	}
	return true
}
