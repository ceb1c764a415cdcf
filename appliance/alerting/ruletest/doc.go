// Package ruletest runs unit tests of rule files: the files that `promtool test rules` takes, with the same verdict, and beside
// that rules in LogQL over lines that the test makes up. Groups of Prometheus are evaluated with Prometheus' own engine,
// those in LogQL as a leader evaluates them; no cluster is asked.
//
// Groups of Triward's own kinds in a rule file are passed over: they look at events and agents, which such a test does not
// have. Of Triward the package imports package alerting and what is below it; LogQL it reaches by the interface LogQL.
package ruletest

import (
	"fmt"
	"time"

	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"
)

// file is a file of tests.
type file struct {
	RuleFiles      []string       `yaml:"rule_files"`
	Interval       model.Duration `yaml:"evaluation_interval"`
	GroupEvalOrder []string       `yaml:"group_eval_order"`
	FuzzyCompare   bool           `yaml:"fuzzy_compare"`
	Tests          []group        `yaml:"tests"`
}

// group is one test: series, and what is to come of them.
type group struct {
	Name           string            `yaml:"name"`
	Interval       model.Duration    `yaml:"interval"`
	Start          instant           `yaml:"start_timestamp"`
	Series         []series          `yaml:"input_series"`
	Logs           []stream          `yaml:"input_logs"`
	Alerts         []alertCase       `yaml:"alert_rule_test"`
	Exprs          []exprCase        `yaml:"promql_expr_test"`
	LogExprs       []exprCase        `yaml:"logql_expr_test"`
	ExternalLabels map[string]string `yaml:"external_labels"`
	ExternalURL    string            `yaml:"external_url"`
}

type series struct {
	Series string `yaml:"series"`
	Values string `yaml:"values"`
}

type alertCase struct {
	EvalTime  model.Duration `yaml:"eval_time"`
	Alertname string         `yaml:"alertname"`
	ExpAlerts []struct {
		Labels      map[string]string `yaml:"exp_labels"`
		Annotations map[string]string `yaml:"exp_annotations"`
	} `yaml:"exp_alerts"`
}

type exprCase struct {
	Expr       string         `yaml:"expr"`
	EvalTime   model.Duration `yaml:"eval_time"`
	ExpSamples []struct {
		Labels    string  `yaml:"labels"`
		Value     float64 `yaml:"value"`
		Histogram string  `yaml:"histogram"`
	} `yaml:"exp_samples"`
}

// instant is a time written as RFC 3339 or as seconds since 1970.
type instant struct{ time.Time }

// UnmarshalYAML implements yaml.Unmarshaler.
func (t *instant) UnmarshalYAML(n *yaml.Node) error {
	var sec float64
	if n.Decode(&sec) == nil {
		t.Time = time.UnixMilli(int64(sec * 1000)).UTC()
		return nil
	}
	at, err := time.Parse(time.RFC3339Nano, n.Value)
	if err != nil {
		return fmt.Errorf("line %d: %.60q is no time; want seconds since 1970 or one such as 2026-01-02T03:04:05Z", n.Line, n.Value)
	}
	t.Time = at
	return nil
}

// Failure is one thing that did not come as it was expected.
type Failure struct {
	Test string
	What string
}
