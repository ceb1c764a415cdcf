package promapi

import (
	"net/http"
	"slices"
	"time"
)

// RuleGroup is a group of rules in the form of the API.
type RuleGroup struct {
	Name           string    `json:"name"`
	File           string    `json:"file"`
	Rules          []Rule    `json:"rules"`
	Interval       float64   `json:"interval"` // seconds
	Limit          int       `json:"limit"`
	EvaluationTime float64   `json:"evaluationTime"` // seconds
	LastEvaluation time.Time `json:"lastEvaluation"`
}

// Rule is an alerting rule in the form of the API.
type Rule struct {
	State          string            `json:"state"`
	Name           string            `json:"name"`
	Query          string            `json:"query"`
	Duration       float64           `json:"duration"` // seconds
	KeepFiringFor  float64           `json:"keepFiringFor"`
	Labels         map[string]string `json:"labels"`
	Annotations    map[string]string `json:"annotations"`
	Alerts         []Alert           `json:"alerts"`
	Health         string            `json:"health"` // ok, err or unknown
	LastError      string            `json:"lastError,omitempty"`
	EvaluationTime float64           `json:"evaluationTime"`
	LastEvaluation time.Time         `json:"lastEvaluation"`
	Type           string            `json:"type"` // alerting or recording
}

// Alert is an alert that is pending or fires, in the form of the API.
type Alert struct {
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	State       string            `json:"state"`
	ActiveAt    *time.Time        `json:"activeAt,omitempty"`
	Value       string            `json:"value"`
}

// rules answers from what alerting knows.
func (h *handler) rules(w http.ResponseWriter, r *http.Request) {
	wanted := func(name, value string) bool {
		list := r.Form[name]
		return len(list) == 0 || slices.Contains(list, value)
	}
	kind := r.Form.Get("type")
	if kind != "" && kind != "alert" && kind != "record" {
		fail(w, http.StatusBadRequest, "bad_data", errRuleType)
		return
	}
	groups := []RuleGroup{}
	for _, g := range h.opts.Rules() {
		if !wanted("rule_group[]", g.Name) || !wanted("file[]", g.File) {
			continue
		}
		all := g.Rules
		g.Rules = []Rule{}
		for _, rule := range all {
			if kind == "alert" && rule.Type != "alerting" || kind == "record" && rule.Type != "recording" || !wanted("rule_name[]", rule.Name) {
				continue
			}
			if r.Form.Get("exclude_alerts") == "true" {
				rule.Alerts = nil
			}
			g.Rules = append(g.Rules, rule)
		}
		if len(g.Rules) > 0 {
			groups = append(groups, g)
		}
	}
	write(w, http.StatusOK, map[string]any{"status": "success", "data": map[string]any{"groups": groups}})
}

// alerts answers with the alerts of all rules.
func (h *handler) alerts(w http.ResponseWriter) {
	all := []Alert{}
	for _, g := range h.opts.Rules() {
		for _, r := range g.Rules {
			all = append(all, r.Alerts...)
		}
	}
	write(w, http.StatusOK, map[string]any{"status": "success", "data": map[string]any{"alerts": all}})
}
