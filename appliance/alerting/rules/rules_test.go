package rules

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
)

type queries struct{}

func (queries) CheckQuery(q string) error {
	if strings.HasPrefix(q, "(") {
		return errors.New("a bracket is not closed (at byte 0)")
	}
	return nil
}

func (queries) CheckLogQL(q string) (Shape, error) {
	window, ok := map[string]time.Duration{
		"count[5m] > 3": 5 * time.Minute, "count[1m]": time.Minute, "count[6h]": 6 * time.Hour, "count[2d]": 48 * time.Hour,
	}[q]
	if !ok {
		return Shape{}, errors.New("at byte 3: a selector is expected")
	}
	return Shape{Window: window, Reach: window, Lines: "{a=\"b\"}"}, nil
}

func parse(body string) (*File, error) {
	return Parse("file", []byte(body), parser.NewParser(parser.Options{}), queries{})
}

const all = `groups:
  - name: metrics
    interval: 30s
    query_offset: 10s
    limit: 5
    labels: {site: a}
    rules:
      - alert: Hot
        expr: temperature > 30
        for: 1m
        keep_firing_for: 5m
        labels: {severity: warning, site: b}
        annotations: {summary: "{{ $labels.room }} has {{ $value | humanize }}"}
      - alert: Hot
        expr: temperature > 50
      - record: room:temperature:avg
        expr: avg by (room) (temperature)
triward:
  - name: own
    interval: 15s
    labels: {team: ops}
    rules:
      - {alert: Errors, logs: {query: "level:error", window: 5m, by: host, above: 10}, for: 1m}
      - {alert: Quiet, logs: {query: "backup done", window: 1d, below: 1}}
      - {alert: Oom, event: {query: "oom", by: host}}
      - {alert: Gone, silent_agent: {after: 2m, match: {site: a}}}
      - {alert: Still, silent_stream: {query: "service=nginx", by: host, after: 15m}}
      - {alert: Burst, logs: {query: "boom", window: 10s, above: 2}}
`

func TestParse(t *testing.T) {
	f, err := parse(all)
	if err != nil {
		t.Fatal(err)
	}
	if f.Count() != 9 || len(f.Warnings) != 1 || !strings.Contains(f.Warnings[0], `rule "Burst"`) {
		t.Fatalf("%d %v", f.Count(), f.Warnings)
	}
	g := f.Groups[0]
	if g.Interval != 30*time.Second || g.Offset != 10*time.Second || g.Limit != 5 || g.Rules[1].ID != "file/metrics/Hot#2" {
		t.Errorf("%+v", g)
	}
	if hot := g.Rules[0]; hot.For != time.Minute || hot.KeepFiringFor != 5*time.Minute || hot.Labels["site"] != "b" || g.Rules[1].Labels["site"] != "a" || hot.Severity() != "warning" {
		t.Errorf("%+v", hot)
	}
	own := f.Groups[1].Rules
	if own[0].Kind != Logs || *own[0].Above != 10 || own[0].Labels["team"] != "ops" || own[2].Window != 10*time.Minute || own[4].Window != 24*time.Hour {
		t.Errorf("%+v", own)
	}
	for i, want := range []string{"lines in 5m by host > 10: level:error", "lines in 1d < 1: backup done", "event by host, for 10m: oom", "no sign of an agent for 2m", "no line for 15m by host: service=nginx"} {
		if got := own[i].Text(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// Every problem names its line.
func TestProblems(t *testing.T) {
	for body, want := range map[string]string{
		"groups:\n  - name: g\n    rules:\n      - alert: A\n        expr: 'up =='\n":                                     "line 5: ",
		"groups:\n  - name: g\n    rules:\n      - alert: A\n        expr: up\n        colour: red\n":                     "line 6: field colour not found",
		"groups:\n  - name: g\n    rules:\n      - alert: A\n        expr: up\n        for: soon\n":                       `line 6: for: "soon" is no duration`,
		"groups:\n  - name: g\n    rules:\n      - alert: A\n        expr: up\n        annotations: {s: '{{ .X'}\n":       "annotation \"s\"",
		"triward:\n  - name: g\n    rules:\n      - {alert: A, logs: {query: x, window: 5m}}\n":                           "line 4: rule \"A\": logs wants either above or below",
		"triward:\n  - name: g\n    rules:\n      - {alert: A, logs: {query: '(', window: 5m, above: 1}}\n":               "bracket",
		"triward:\n  - name: g\n    rules:\n      - {alert: A, event: {query: x, hold: 1s}}\n":                            "hold 1s is out of range",
		"triward:\n  - name: g\n    rules:\n      - {alert: A, event: {query: x}, for: 1m}\n":                             "takes no for",
		"triward:\n  - name: g\n    rules:\n      - {alert: A, event: {query: x, colour: red}}\n":                         "line 4: unknown field \"colour\"",
		"triward:\n  - name: g\n    rules:\n      - {alert: A}\n":                                                         "exactly one of",
		"triward:\n  - name: g\n    rules:\n      - {silent_agent: {after: 1m}}\n":                                        "no alert",
		"triward:\n  - name: g\n    rules:\n      - {alert: A, silent_stream: {query: x, after: 5m}}\n":                   "wants by",
		"triward:\n  - name: g\n    rules:\n      - {alert: A, silent_agent: {after: 1m}, labels: {x: '{{ nofunc }}'}}\n": "nofunc",
		"groups:\n  - name: g\n  - name: g\n":                                                                             "repeated",
		"groups: [{name: g}]\ntriward: [{name: g}]\n":                                                                     "twice",
		"groups: []\n---\na: b\n":              "second YAML document",
		"groups: [{name: g, interval: 1ms}]\n": "interval",
		"a: [":                                 "line",
	} {
		_, err := parse(body)
		var bad *Error
		if !errors.As(err, &bad) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q:\n got %v\nwant %s", body, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "rulefmt.") {
			t.Errorf("the error names our types: %v", err)
		}
	}
	for _, name := range []string{"", "A", "../x", ".x", strings.Repeat("x", 64), "a b"} {
		if ValidName(name) {
			t.Errorf("name %q is taken", name)
		}
	}
}

func TestTemplates(t *testing.T) {
	f, err := parse(all)
	if err != nil {
		t.Fatal(err)
	}
	r := f.Groups[0].Rules[0]
	r.Labels = map[string]string{"severity": "{{ if gt $value 40.0 }}critical{{ else }}warning{{ end }}", "room": "", "long": strings.Repeat("é", 5000)}
	r.Annotations = map[string]string{"q": `{{ range query "up" }}{{ .Value }}{{ end }}`, "bad": "{{ index $labels 5 }}", "plain": "{ x }"}
	query := func(context.Context, string, time.Time) (promql.Vector, error) {
		return promql.Vector{{F: 7}}, nil
	}
	x := NewExpander(t.Context(), &r, 1000, map[string]string{"__name__": "temperature", "room": "attic", "empty": ""}, 45, query, nil)
	ls := x.Labels()
	if ls["severity"] != "critical" || ls["alertname"] != "Hot" || len(ls["long"]) > MaxExpanded {
		t.Errorf("%v", ls)
	}
	for _, gone := range []string{"__name__", "room", "empty"} {
		if _, ok := ls[gone]; ok {
			t.Errorf("label %s is there", gone)
		}
	}
	a := x.Annotations()
	if a["q"] != "7" || !strings.HasPrefix(a["bad"], "<error expanding template") || a["plain"] != "{ x }" {
		t.Errorf("%v", a)
	}
}

func FuzzFile(f *testing.F) {
	f.Add(all)
	f.Add("groups: &a [*a]")
	f.Fuzz(func(t *testing.T, body string) {
		file, err := parse(body)
		if err == nil && file.Count() > MaxPerFile {
			t.Fatal("too many rules")
		}
	})
}

// What Prometheus no longer takes of a stored file is the matter of that rule alone.
func TestStoredRulesThatPrometheusTakesNoMore(t *testing.T) {
	const body = `groups:
  - name: a
    rules:
      - {alert: Good, expr: up == 0}
      - {record: "smooth:load", expr: "holt_winters(node_load1[1h], 0.5, 0.5)"}
      - {alert: Good, expr: up == 2, annotations: {summary: "{{ gone $value }}"}}
  - name: b
    rules:
      - {alert: Good, expr: up == 3}
`
	if _, err := parse(body); err == nil {
		t.Error("a new file is taken with what is wrong in it")
	}
	f, err := ParseStored("file", []byte(body), parser.NewParser(parser.Options{}), queries{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct {
		group, rule int
		says        string
	}{{0, 0, ""}, {0, 1, "holt_winters"}, {0, 2, "gone"}, {1, 0, ""}} {
		got := f.Groups[want.group].Rules[want.rule].Refused
		if (got == "") != (want.says == "") || !strings.Contains(got, want.says) {
			t.Errorf("rule %d of group %d: %q, want %q", want.rule, want.group, got, want.says)
		}
	}
	if _, err := ParseStored("file", []byte("groups:\n  - name: \"\"\n    rules: []\n"), parser.NewParser(parser.Options{}), queries{}); err == nil {
		t.Error("what is wrong with the file itself is passed over")
	}
}
