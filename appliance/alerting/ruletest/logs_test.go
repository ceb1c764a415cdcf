package ruletest_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/triward/triward/appliance/alerting/ruletest"
	"github.com/triward/triward/appliance/logrules"
)

const logRules = `
groups:
  - name: sums
    rules:
      - {alert: Storm, expr: "sum(host:errors:rate1m) > 0.5"}
logql:
  - name: lines
    labels: {team: ops}
    rules:
      - record: host:errors:rate1m
        expr: sum by (host) (rate({source="journal"} | detected_level="error" [1m]))
      - alert: ManyFailedLogins
        expr: sum by (host) (count_over_time({source="journal"} |= "Failed password" [5m])) > 3
        for: 1m
        labels: {severity: warning}
        annotations: {summary: "{{ $labels.host }}: {{ $value }} failed"}
`

const logTests = `
rule_files: [rules.yaml]
evaluation_interval: 1m
tests:
  - name: logins
    start_timestamp: 2026-01-02T03:04:05Z
    input_logs:
      - stream: '{host="web1", source="journal"}'
        lines:
          - {at: 61s, text: "Failed password for root", times: 4, every: 1s}
          - {at: 70s, text: "Accepted password for ada"}
          - {at: 181s, text: "broken", severity: error, times: 60, every: 1s}
      - stream: '{host="web2", source="journal"}'
        lines:
          - {at: 61s, text: "Failed password for root", fields: {user: root}}
    alert_rule_test:
      - {eval_time: 2m, alertname: ManyFailedLogins}
      - eval_time: 3m
        alertname: ManyFailedLogins
        exp_alerts:
          - exp_labels: {severity: warning, host: web1, team: ops}
            exp_annotations: {summary: "web1: 4 failed"}
      - {eval_time: 7m, alertname: ManyFailedLogins}
      - {eval_time: 3m, alertname: Storm}
      - eval_time: 4m
        alertname: Storm
        exp_alerts: [{}]
    logql_expr_test:
      - expr: sum by (user) (count_over_time({host="web2"} | user="root" [5m]))
        eval_time: 4m
        exp_samples: [{labels: '{user="root"}', value: 1}]
    promql_expr_test:
      - expr: host:errors:rate1m
        eval_time: 4m
        exp_samples: [{labels: 'host:errors:rate1m{host="web1", team="ops"}', value: 1}]
`

func tryLogs(t *testing.T, tests, body string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"rules.yaml": body, "tests.yaml": tests} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, failures, err := ruletest.Run(t.Context(), filepath.Join(dir, "tests.yaml"), logrules.Over)
	var text strings.Builder
	for _, f := range failures {
		text.WriteString(f.Test + ": " + f.What)
	}
	if err != nil {
		text.WriteString(err.Error())
	}
	return text.String()
}

func TestUnitTestsOfRulesInLogQL(t *testing.T) {
	if got := tryLogs(t, logTests, logRules); got != "" {
		t.Fatal(got)
	}
	for _, c := range []struct{ from, to, want string }{
		{"times: 4, every: 1s", "times: 3, every: 1s", "got  none"},
		{"eval_time: 7m", "eval_time: 6m", "want none"},
		{"web1: 4 failed", "web1: 5 failed", "4 failed"},
		{"severity: error, times: 60", "severity: error, times: 6", "Storm"},
		{"severity: error", "severity: bad", "severity"},
		{"exp_samples: [{labels: '{user", "exp_samples: [{labels: '{other", "user"},
		{"times: 4, every: 1s", "times: 4", "every"},
		{"expr: sum by (user) (count", "expr: sum by (user) (cuont", "byte"},
		{`stream: '{host="web2", source="journal"}'`, "stream: '{host'", "stream"},
	} {
		if !strings.Contains(logTests, c.from) {
			t.Fatalf("%q is not there", c.from)
		}
		if got := tryLogs(t, strings.Replace(logTests, c.from, c.to, 1), logRules); !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", c.to, got, c.want)
		}
	}
	if got := tryLogs(t, logTests, strings.Replace(logRules, "[5m]", "[48h]", 1)); !strings.Contains(got, "rules.yaml: line 13: ") || !strings.Contains(got, "at most 1d") {
		t.Errorf("a rule that cannot be used: %q", got)
	}
}
