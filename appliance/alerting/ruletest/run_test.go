package ruletest_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	. "github.com/triward/triward/appliance/alerting/ruletest"
	"github.com/triward/triward/appliance/logrules"
)

const ruleFile = `
groups:
  - name: g
    rules:
      - record: job:up:sum
        expr: sum by (job) (up)
      - alert: Down
        expr: up == 0
        for: 2m
        labels: {severity: page}
        annotations: {summary: "{{ $labels.instance }} is down"}
triward:
  - name: own
    rules:
      - {alert: Oom, event: {query: oom}}
`

const testFile = `
rule_files: [rules.yaml]
evaluation_interval: 1m
tests:
  - name: down
    interval: 1m
    start_timestamp: 2026-01-02T03:04:05Z
    input_series:
      - {series: 'up{job="a", instance="i1"}', values: '1 0x10'}
      - {series: 'up{job="a", instance="i2"}', values: '1x11'}
    alert_rule_test:
      - {eval_time: 2m, alertname: Down}
      - eval_time: 3m
        alertname: Down
        exp_alerts:
          - exp_labels: {severity: page, instance: i1, job: a}
            exp_annotations: {summary: i1 is down}
    promql_expr_test:
      - expr: job:up:sum
        eval_time: 4m
        exp_samples: [{labels: 'job:up:sum{job="a"}', value: 1}]
`

func try(t *testing.T, tests string) (int, []Failure, error) {
	t.Helper()
	dir := t.TempDir()
	for name, body := range map[string]string{"rules.yaml": ruleFile, "tests.yaml": tests} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Run(t.Context(), filepath.Join(dir, "tests.yaml"), logrules.Over)
}

func TestUnitTestsOfRules(t *testing.T) {
	n, failures, err := try(t, testFile)
	if err != nil || n != 1 || len(failures) != 0 {
		t.Fatalf("%d %v %v", n, failures, err)
	}
	for change, want := range map[string]string{
		"eval_time: 2m,|eval_time: 3m,":                    "want none",
		"exp_annotations: {summary: i1 is|x: {s":           "field x not found",
		"summary: i1 is down|summary: i1 is up":            "is up",
		"instance: i1, job: a|instance: i2":                "i2",
		"value: 1}|value: 2}":                              "job:up:sum",
		"eval_time: 3m\n|eval_time: 2m\n":                  "got  none",
		"expr: job:up:sum|expr: 'sum('":                    "sum(",
		"rules.yaml]|none.yaml]":                           "there is no file",
		"2026-01-02T03:04:05Z|soon":                        "is no time",
		"evaluation_interval: 1m|group_eval_order: [g, g]": "twice",
		"eval_time: 4m|eval_time: 4y":                      "evaluations",
	} {
		from, to, _ := strings.Cut(change, "|")
		if !strings.Contains(testFile, from) {
			t.Fatalf("%q is not there", from)
		}
		_, failures, err := try(t, strings.Replace(testFile, from, to, 1))
		text := ""
		for _, f := range failures {
			text += f.Test + ": " + f.What
		}
		if err != nil {
			text = err.Error()
		}
		if !strings.Contains(text, want) {
			t.Errorf("%s: %q, want %q", change, text, want)
		}
	}
	if _, _, err := try(t, "groups: []\n"); err == nil || !strings.Contains(err.Error(), "groups") {
		t.Errorf("a file of rules: %v", err)
	}
}
