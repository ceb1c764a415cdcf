package rules

import (
	"slices"
	"strings"
	"testing"
	"time"
)

const inLogQL = `groups:
  - name: metrics
    rules:
      - {alert: Hot, expr: temperature > 30}
logql:
  - name: lines
    interval: 1m
    query_offset: 30s
    limit: 7
    labels: {site: a, team: ops}
    rules:
      - alert: Many
        expr: |
          count[5m] > 3
        for: 2m
        keep_firing_for: 10m
        labels: {site: b, severity: warning}
        annotations: {summary: "{{ $labels.host }}"}
      - record: host:lines:rate1m
        expr: count[1m]
`

func TestRulesInLogQL(t *testing.T) {
	f, err := parse(inLogQL)
	if err != nil {
		t.Fatal(err)
	}
	if !f.LogQL || f.Count() != 3 || len(f.Warnings) != 0 {
		t.Fatalf("%+v", f)
	}
	g := f.Groups[1]
	if g.Interval != time.Minute || g.Offset != 30*time.Second || g.Limit != 7 || g.Name != "lines" {
		t.Errorf("%+v", g)
	}
	many, rate := g.Rules[0], g.Rules[1]
	if many.Kind != LogQL || many.Language != LanguageLogQL || many.Expr != "count[5m] > 3" || many.ID != "file/lines/Many" || many.For != 2*time.Minute ||
		many.KeepFiringFor != 10*time.Minute || many.Labels["site"] != "b" || many.Labels["team"] != "ops" || many.LogQuery() != `{a="b"}` || many.Text() != many.Expr {
		t.Errorf("%+v", many)
	}
	if rate.Kind != Record || rate.Language != LanguageLogQL || rate.Labels["site"] != "a" {
		t.Errorf("%+v", rate)
	}
	if hot := f.Groups[0].Rules[0]; hot.Language != LanguagePromQL || hot.LogQuery() != "" {
		t.Errorf("%+v", hot)
	}
	if kinds := f.Kinds(); kinds["metrics"] != 1 || kinds["logql"] != 1 || kinds["record_logql"] != 1 {
		t.Errorf("%v", kinds)
	}
	if f, err := parse("groups: []\n"); err != nil || f.LogQL {
		t.Errorf("a file without: %+v %v", f, err)
	}
}

func TestProblemsOfRulesInLogQL(t *testing.T) {
	const head = "logql:\n  - name: g\n    rules:\n      - alert: A\n        expr: "
	for body, want := range map[string]string{
		head + "'{a=\"b\"}'\n":                                                          "line 5: rule \"A\": expr: at byte 3: a selector is expected",
		head + "temperature > 3\n":                                                      "rules on metrics stand below groups",
		head + "count[2d]\n":                                                            "a range of 2d; at most 1d",
		head + "count[1m]\n        colour: red\n":                                       "line 6: unknown field \"colour\"",
		head + "count[1m]\n        for: soon\n":                                         `line 6: for: "soon" is no duration`,
		head + "count[1m]\n        labels: {x: '{{ nofunc }}'}\n":                       "nofunc",
		head + "count[1m]\n        record: b\n":                                         "either alert or record",
		head + "''\n":                                                                   "it has no expr",
		"logql: [{name: g, rules: [{expr: 'count[1m]'}]}]\n":                            "a rule has no alert",
		"logql: [{name: g, rules: [{record: a, for: 1m, expr: 'count[1m]'}]}]\n":        "takes no for",
		"logql: [{name: g, colour: red}]\n":                                             "field colour not found",
		"logql: [{rules: []}]\n":                                                        "has no name",
		"logql: [{name: g, limit: -1}]\n":                                               "limit -1",
		"groups: [{name: g}]\nlogql: [{name: g}]\n":                                     "twice",
		"groups:\n  - name: g\n    rules:\n      - {alert: A, expr: 'count[5m] > 3'}\n": `line 4: group "g", rule 1, "A": could not parse expression: 1:1: parse error: binary expression must contain only scalar and instant vector types; it is LogQL: write the group below logql`,
	} {
		if _, err := parse(body); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q:\n got %v\nwant %s", body, err, want)
		}
	}
}

// What is taken and may surprise is said.
func TestWarningsOfRulesInLogQL(t *testing.T) {
	for body, want := range map[string]string{
		"interval: 2m, rules: [{alert: A, expr: 'count[1m]'}]":                                    "lines between are never looked at",
		"rules: [{alert: A, expr: 'count[6h]'}]":                                                  "reads 6h of lines every 15s",
		"rules: [{record: a, expr: 'count[1m]'}]":                                                 "query_offset: 30s",
		"interval: 1m, query_offset: 30s, rules: [{record: a, expr: 'count[1m]'}]":                "",
		"interval: 1m, rules: [{alert: A, expr: 'count[1m]'}, {alert: B, expr: 'count[5m] > 3'}]": "",
	} {
		f, err := parse("logql: [{name: g, " + body + "}]\n")
		if err != nil {
			t.Fatal(body, err)
		}
		if want == "" && len(f.Warnings) > 0 || want != "" && !slices.ContainsFunc(f.Warnings, func(w string) bool { return strings.Contains(w, want) }) {
			t.Errorf("%s: %q, want %q", body, f.Warnings, want)
		}
	}
}
