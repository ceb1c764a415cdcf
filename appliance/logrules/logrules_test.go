package logrules

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/alerting/rules"
	"github.com/triward/triward/logstore/logql"
)

func TestCheck(t *testing.T) {
	three := 3.0
	for text, want := range map[string]rules.Shape{
		`sum by (host) (count_over_time({app="a"} |= "x" [5m])) > 3`: {
			Window: 5 * time.Minute, Reach: 5 * time.Minute, Lines: `{app="a"} |= "x"`, Keeps: true,
			Compared: `sum by (host) (count_over_time({app="a"} |= "x" [5m]))`, Threshold: &three,
		},
		`3 < rate({app="a"}[1m] offset 1d) and on () absent_over_time({app="b"}[1h])`: {
			Window: time.Hour, Reach: 24*time.Hour + time.Minute, Lines: `{app="a"}`, Absent: true,
			Compared: `rate({app="a"}[1m] offset 24h)`, Threshold: &three,
		},
		`label_replace(rate({app="a"}[1m]), "x", "$1", "host", "(.*)")`: {
			Window: time.Minute, Reach: time.Minute, Lines: `{app="a"}`, Compared: `label_replace(rate({app="a"}[1m]), "x", "$1", "host", "(.*)")`,
		},
		`rate({app="a"}[1m]) > bool 3`: {
			Window: time.Minute, Reach: time.Minute, Lines: `{app="a"}`, Keeps: true, Compared: `rate({app="a"}[1m]) > bool 3`,
		},
	} {
		got, err := Check(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if (got.Threshold == nil) != (want.Threshold == nil) || got.Threshold != nil && *got.Threshold != *want.Threshold {
			t.Errorf("%s: threshold %v", text, got.Threshold)
		}
		got.Compared, want.Compared = strings.ReplaceAll(got.Compared, " ", ""), strings.ReplaceAll(want.Compared, " ", "")
		got.Threshold, want.Threshold = nil, nil
		if got != want {
			t.Errorf("%s:\n got %+v\nwant %+v", text, got, want)
		}
	}
	for text, want := range map[string]string{
		`{app="a"} |= "x"`:                               `it gives lines, and a rule wants numbers`,
		`vector(1) > 0`:                                  "looks at no lines",
		`1 + 1`:                                          "looks at no lines",
		`count_over_time({app="a"} [5m)`:                 "at byte ",
		"sum(\n  count_over_time({app=} [5m]))":          "line 2",
		`rate({app=~".*"}[5m])`:                          "at byte ",
		strings.Repeat(" ", maxText+1):                   "at most 8192",
		"0" + strings.Repeat(` + rate({a="b"}[1m])`, 17): "17 functions over ranges; at most 16",
	} {
		if _, err := Check(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: %v, want %q", text, err, want)
		}
	}
}

// holed is a source that says what befell its lines.
type holed struct {
	memory
	st logql.SourceStats
}

func (h holed) Lines(ctx context.Context, q *logql.Query, fn func(*logql.Line) bool) (logql.SourceStats, error) {
	_, err := h.memory.Lines(ctx, q, fn)
	return h.st, err
}

// An answer that lines are missing from is none: it would end an alert that holds.
func TestAnswersAreWhole(t *testing.T) {
	const at = 1_700_000_000_000
	lines := memory{{T: at*1e6 - 1, Labels: wire.LabelsFromMap(map[string]string{"app": "a"}), Severity: wire.SeverityError, Text: []byte("x")}}
	const query = `sum by (detected_level) (count_over_time({app="a"}[1m]))`
	for name, c := range map[string]struct {
		st   logql.SourceStats
		want error
	}{"whole": {}, "damaged": {logql.SourceStats{Partial: true, Damaged: []string{"block 7"}}, errPartial}, "cut": {logql.SourceStats{Expired: true}, errExpired}} {
		l := Logs{Source: holed{lines, c.st}}
		got, err := l.Instant(t.Context(), query, at)
		if err != c.want || err == nil && (len(got) != 1 || got[0].V != 1 || got[0].T != at || got[0].Labels["detected_level"] != "error") {
			t.Errorf("%s: %v %v", name, got, err)
		}
		series, err := l.Range(t.Context(), query, at-60_000, at+60_000, 60_000)
		if err != c.want || err == nil && (len(series) != 1 || len(series[0].V) != 1 || series[0].T[0] != at) {
			t.Errorf("%s: %+v %v", name, series, err)
		}
	}
	l := Logs{Source: lines}
	if got, err := l.Instant(t.Context(), `sum(rate({app="a"} | line_format "{{ now | unixEpoch }}" | regexp "(?P<v>.*)" | unwrap v [1s])) > 0`, at); err != nil || len(got) != 1 || got[0].V != at/1000 {
		t.Errorf("the clock of templates: %v %v", got, err)
	}
}

func TestAnswersAreBounded(t *testing.T) {
	const at = 1_700_000_000_000
	var lines memory
	for i := range maxAnswer + 1 {
		lines = append(lines, logql.Line{T: at*1e6 - 1, Labels: wire.LabelsFromMap(map[string]string{"app": "a", "n": time.Duration(i).String()}), Text: []byte("x")})
	}
	if _, err := (Logs{Source: lines}).Instant(t.Context(), `count_over_time({app="a"}[1m])`, at); err == nil || !strings.Contains(err.Error(), "10001 series, at most 10000") {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := (Logs{Source: lines}).Instant(ctx, `count_over_time({app="a"}[1m])`, at); err == nil {
		t.Error("it does not end with its context")
	}
}
