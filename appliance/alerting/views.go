package alerting

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/prometheus/common/model"

	"github.com/triward/triward/appliance/alerting/route"
	"github.com/triward/triward/appliance/alerting/rules"
	"github.com/triward/triward/appliance/alerting/state"
)

// AlertView is an alert as it is shown. Times are log times in milliseconds, absent for never.
type AlertView struct {
	ID          string            `json:"id"`
	Rule        string            `json:"rule"`
	Name        string            `json:"name"`
	Severity    string            `json:"severity"`
	State       state.Shown       `json:"state"`
	Kind        rules.Kind        `json:"kind,omitempty"`
	Expr        string            `json:"expr,omitempty"`
	LogQuery    string            `json:"log_query,omitempty"` // for the lines that the rule looks at, narrowed to the alert where that can be
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	Value       *float64          `json:"value"` // when the state last changed; null when it is no number
	ActiveAt    int64             `json:"active_at"`
	FiredAt     int64             `json:"fired_at,omitempty"`
	ResolvedAt  int64             `json:"resolved_at,omitempty"`
	EscalatedAt int64             `json:"escalated_at,omitempty"`
	Ack         *AckView          `json:"ack,omitempty"`
	Assigned    *AssignView       `json:"assigned,omitempty"`
	Escalates   bool              `json:"escalates,omitempty"` // its route has a second step that was not taken
	SilencedBy  []string          `json:"silenced_by,omitempty"`
	InhibitedBy string            `json:"inhibited_by,omitempty"`
	Receivers   []string          `json:"receivers"`
}

// AckView says who took an alert in hand.
type AckView struct {
	By      string `json:"by"`
	At      int64  `json:"at"`
	Comment string `json:"comment,omitempty"`
}

// AssignView says who is to look after an alert.
type AssignView struct {
	To string `json:"to"`
	By string `json:"by"`
	At int64  `json:"at"`
}

// AlertFilter chooses alerts.
type AlertFilter struct {
	States   []state.Shown // none: all but resolved
	Matchers route.Matchers
	Limit    int
}

// AlertList is an answer.
type AlertList struct {
	At     int64          `json:"at"` // log time
	Alerts []AlertView    `json:"alerts"`
	Counts map[string]int `json:"counts"` // by state, of all alerts
	More   bool           `json:"more"`   // there are others beyond the limit
}

// severities in the order in which they are shown; others come after.
var severities = map[string]int{"critical": 1, "error": 2, "warning": 3, "info": 4}

func severityRank(s string) int {
	if n, ok := severities[s]; ok {
		return n
	}
	return len(severities) + 1
}

// Alerts lists alerts: the worst first, then the newest.
func (s *Service) Alerts(f AlertFilter) AlertList {
	b := s.board
	b.refresh()
	b.mu.RLock()
	defer b.mu.RUnlock()
	out := AlertList{At: s.cfg.Meta.LogTime(), Alerts: []AlertView{}, Counts: make(map[string]int)}
	var found []*state.Alert
	for _, a := range b.alerts {
		shown := a.rec.Shown()
		out.Counts[string(shown)]++
		wanted := len(f.States) == 0 && a.rec.Phase != state.Resolved || slices.Contains(f.States, shown)
		if wanted && f.Matchers.Match(a.rec.Labels) {
			found = append(found, a.rec)
		}
	}
	slices.SortFunc(found, func(x, y *state.Alert) int {
		return cmp.Or(cmp.Compare(severityRank(x.Labels["severity"]), severityRank(y.Labels["severity"])),
			cmp.Compare(y.FiredAt, x.FiredAt), cmp.Compare(x.ID, y.ID))
	})
	if f.Limit > 0 && len(found) > f.Limit {
		found, out.More = found[:f.Limit], true
	}
	index := b.ruleIndex()
	for _, a := range found {
		out.Alerts = append(out.Alerts, b.view(a, index))
	}
	return out
}

// Alert returns one alert.
func (s *Service) Alert(id string) (AlertView, error) {
	b := s.board
	b.refresh()
	b.mu.RLock()
	defer b.mu.RUnlock()
	a, ok := b.alerts[id]
	if !ok {
		return AlertView{}, fmt.Errorf("alert %.64q: %w", id, ErrNotFound)
	}
	return b.view(a.rec, b.ruleIndex()), nil
}

// ruleIndex finds rules by id. mu is held.
func (b *board) ruleIndex() map[string]*rules.Rule {
	out := make(map[string]*rules.Rule)
	for _, f := range b.files {
		if f.parsed == nil {
			continue
		}
		for gi := range f.parsed.Groups {
			for ri := range f.parsed.Groups[gi].Rules {
				r := &f.parsed.Groups[gi].Rules[ri]
				out[r.ID] = r
			}
		}
	}
	return out
}

func number(v state.Value) *float64 {
	f := float64(v)
	if f != f || f > 1.7e308 || f < -1.7e308 {
		return nil
	}
	return &f
}

// view makes the shown form of an alert. mu is held.
func (b *board) view(a *state.Alert, index map[string]*rules.Rule) AlertView {
	v := AlertView{
		ID: a.ID, Rule: a.Rule, Name: a.Labels["alertname"], Severity: a.Labels["severity"], State: a.Shown(), Labels: a.Labels,
		Annotations: a.Annotations, Value: number(a.Value), ActiveAt: a.ActiveAt, FiredAt: a.FiredAt, ResolvedAt: a.ResolvedAt,
		EscalatedAt: a.EscalatedAt, SilencedBy: a.SilencedBy, InhibitedBy: a.InhibitedBy, Receivers: []string{},
	}
	if v.Annotations == nil {
		v.Annotations = map[string]string{}
	}
	if a.Ack != nil {
		v.Ack = &AckView{By: a.Ack.By, At: a.Ack.At, Comment: a.Ack.Comment}
	}
	if a.Assigned != nil {
		v.Assigned = &AssignView{To: a.Assigned.To, By: a.Assigned.By, At: a.Assigned.At}
	}
	if r := index[a.Rule]; r != nil {
		v.Kind, v.Expr, v.LogQuery = r.Kind, r.Text(), linesOf(r, a.Labels)
	}
	if b.routes.cfg != nil {
		for _, r := range b.routes.cfg.For(a.Labels) {
			if r.Escalate != nil && a.Phase == state.Firing && a.EscalatedAt == 0 && a.EscalateBy == "" && !a.Muted() {
				v.Escalates = true
			}
			if !slices.Contains(v.Receivers, r.Receiver) {
				v.Receivers = append(v.Receivers, r.Receiver)
			}
		}
	}
	return v
}

// linesOf is a query for the lines of an alert: those that its rule looks at, of its labels where these are labels of lines.
func linesOf(r *rules.Rule, ls map[string]string) string {
	q := r.LogQuery()
	if q == "" || r.Language != rules.LanguageLogQL || !r.Shape.Keeps {
		return q
	}
	for _, name := range slices.Sorted(maps.Keys(ls)) {
		if _, own := r.Labels[name]; !own && name != model.AlertNameLabel && model.LegacyValidation.IsValidLabelName(name) {
			q += fmt.Sprintf(" | %s=%q", name, ls[name])
		}
	}
	return q
}

// HistoryFilter chooses history records.
type HistoryFilter struct {
	Alert      string // id; "" for all
	What       []string
	Matchers   route.Matchers
	Start, End int64 // ms; End 0 for no end
	Before     string
	Limit      int
}

// HistoryRecord is a record with its place.
type HistoryRecord struct {
	Key string `json:"key"`
	state.History
}

// HistoryPage is an answer, newest first.
type HistoryPage struct {
	Records []HistoryRecord `json:"records"`
	Next    string          `json:"next,omitempty"` // Before of the next page
}

// maxHistoryRead bounds the records read for one page.
const maxHistoryRead = MaxHistory + 1000

// History lists what happened, newest first.
func (s *Service) History(f HistoryFilter) HistoryPage {
	b := s.board
	b.refresh()
	b.mu.RLock()
	keys := slices.Clone(b.history)
	b.mu.RUnlock()
	end := len(keys)
	if f.Before != "" {
		end, _ = slices.BinarySearch(keys, f.Before)
	}
	if f.End > 0 {
		at, _ := slices.BinarySearch(keys, fmt.Sprintf("%013d", f.End))
		end = min(end, at)
	}
	start := fmt.Sprintf("%013d", max(f.Start, 0))
	page := HistoryPage{Records: []HistoryRecord{}}
	for i, read := end-1, 0; i >= 0 && keys[i] >= start && read < maxHistoryRead; i, read = i-1, read+1 {
		v, ok := s.cfg.Meta.Get(BucketHistory, keys[i])
		var h state.History
		if !ok || json.Unmarshal(v.Data, &h) != nil {
			continue
		}
		switch {
		case f.Alert != "" && h.Alert != f.Alert && !slices.Contains(h.Alerts, f.Alert):
		case len(f.What) > 0 && !slices.Contains(f.What, h.What):
		case !f.Matchers.Match(h.Labels):
		case len(page.Records) == f.Limit:
			page.Next = page.Records[len(page.Records)-1].Key
			return page
		default:
			page.Records = append(page.Records, HistoryRecord{keys[i], h})
		}
	}
	return page
}

// RuleView is a rule as it is shown.
type RuleView struct {
	ID           string            `json:"id"`
	Kind         rules.Kind        `json:"kind"`
	Name         string            `json:"name"`
	Language     rules.Language    `json:"language,omitempty"` // of expr: promql or logql; absent for other kinds
	Expr         string            `json:"expr"`
	LogQuery     string            `json:"log_query,omitempty"` // for the lines that the rule looks at
	ForMs        int64             `json:"for_ms,omitempty"`
	KeepFiringMs int64             `json:"keep_firing_for_ms,omitempty"`
	Labels       map[string]string `json:"labels"`
	Annotations  map[string]string `json:"annotations"`
	Enabled      bool              `json:"enabled"`
	State        string            `json:"state"` // inactive, pending or firing; recording of a recording rule
	Alerts       int               `json:"alerts"`
	Error        string            `json:"error,omitempty"` // why it is not evaluated as it should be
	Since        int64             `json:"since,omitempty"` // of the error
	IntervalMs   int64             `json:"interval_ms"`
	Group        string            `json:"group"`
}

// FileView is a file of rules as it is shown.
type FileView struct {
	Name      string     `json:"name"`
	Version   uint64     `json:"version"`
	Origin    string     `json:"origin"`
	Enabled   bool       `json:"enabled"`
	Off       []string   `json:"off"`
	UpdatedBy string     `json:"updated_by"`
	UpdatedAt int64      `json:"updated_at"`
	Error     string     `json:"error,omitempty"`
	Warnings  []string   `json:"warnings"`
	Rules     []RuleView `json:"rules"`
}

// Files lists the files with their rules and how these stand.
func (s *Service) Files() []FileView {
	b := s.board
	b.refresh()
	b.mu.RLock()
	defer b.mu.RUnlock()
	out := []FileView{}
	for _, name := range b.fileNames() {
		f := b.files[name]
		if f.rec.Removed {
			continue
		}
		v := FileView{
			Name: name, Version: f.rec.Version, Origin: f.rec.Origin, Enabled: !f.rec.Disabled, Off: append([]string{}, f.rec.Off...),
			UpdatedBy: f.rec.UpdatedBy, UpdatedAt: f.rec.UpdatedAt, Rules: []RuleView{}, Warnings: []string{},
		}
		if f.err != nil {
			v.Error = f.err.Error()
		}
		if f.parsed != nil {
			v.Warnings = append(v.Warnings, f.parsed.Warnings...)
			for gi := range f.parsed.Groups {
				g := &f.parsed.Groups[gi]
				for ri := range g.Rules {
					v.Rules = append(v.Rules, b.ruleView(f, g, &g.Rules[ri], s.interval(g)))
				}
			}
		}
		out = append(out, v)
	}
	return out
}

// ruleView makes the shown form of a rule. mu is held.
func (b *board) ruleView(f *heldFile, g *rules.Group, r *rules.Rule, interval int64) RuleView {
	v := RuleView{
		ID: r.ID, Kind: r.Kind, Name: r.Name, Language: r.Language, Expr: r.Text(), LogQuery: r.LogQuery(), ForMs: r.For.Milliseconds(), KeepFiringMs: r.KeepFiringFor.Milliseconds(),
		Labels: orEmpty(r.Labels), Annotations: orEmpty(r.Annotations), Enabled: f.active(r), State: "inactive", IntervalMs: interval, Group: g.Name,
	}
	for _, a := range b.byRule[r.ID] {
		switch a.Phase {
		case state.Firing:
			v.State = string(state.Firing)
			v.Alerts++
		case state.Pending:
			if v.State == "inactive" {
				v.State = string(state.Pending)
			}
			v.Alerts++
		}
	}
	if h, ok := b.health[r.ID]; ok {
		v.Error, v.Since = h.rec.Error, h.rec.Since
	}
	if r.Refused != "" { // also before this node leads, and evaluates it
		v.Error = r.Refused
	}
	if r.Kind == rules.Record {
		v.State = "recording"
	}
	return v
}

func orEmpty(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

// SilenceView is a silence as it is shown.
type SilenceView struct {
	route.Silence
	State  string `json:"state"`  // pending, active or expired
	Alerts int    `json:"alerts"` // that it matches and that are not over
}

// Silences lists silences: those that hold first, then by their end.
func (s *Service) Silences() []SilenceView {
	b := s.board
	b.refresh()
	now := s.cfg.Meta.LogTime()
	b.mu.RLock()
	defer b.mu.RUnlock()
	out := []SilenceView{}
	for _, id := range slices.Sorted(maps.Keys(b.silences)) {
		h := b.silences[id]
		v := SilenceView{Silence: h.rec, State: h.rec.State(now)}
		if v.State != "expired" {
			for _, a := range b.alerts {
				if a.rec.Phase != state.Resolved && h.matchers.Match(a.rec.Labels) {
					v.Alerts++
				}
			}
		}
		out = append(out, v)
	}
	rank := map[string]int{"active": 0, "pending": 1, "expired": 2}
	slices.SortStableFunc(out, func(x, y SilenceView) int {
		return cmp.Or(cmp.Compare(rank[x.State], rank[y.State]), cmp.Compare(x.EndsAt, y.EndsAt))
	})
	return out
}
