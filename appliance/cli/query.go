package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// promAnswer is Prometheus' answer to a query.
type promAnswer struct {
	Data     promData `json:"data"`
	Warnings []string `json:"warnings"`
}

type promData struct {
	ResultType string          `json:"resultType"`
	Result     json.RawMessage `json:"result"`
}

type promSeries struct {
	Metric map[string]string    `json:"metric"`
	Value  []json.RawMessage    `json:"value"`
	Values [][2]json.RawMessage `json:"values"`
}

func newQuery(s streams) *cobra.Command {
	var t target
	c := &cobra.Command{Use: "query", Short: "Ask for metrics with PromQL", Args: cobra.NoArgs, RunE: needSubcommand}
	t.flags(c)
	c.AddCommand(newQueryInstant(s, &t), newQueryRange(s, &t))
	return c
}

func needSubcommand(c *cobra.Command, _ []string) error { return c.Help() }

func newQueryInstant(s streams, t *target) *cobra.Command {
	var form outputForm
	var at string
	c := &cobra.Command{
		Use:     "instant QUERY",
		Short:   "Evaluate a query at one moment",
		Example: "  triward query instant node_load1\n  triward query instant 'sum by (host) (rate(node_cpu_seconds_total{mode!=\"idle\"}[1m]))'",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			q := url.Values{"query": args[:1]}
			if at != "" {
				when, err := parseTime(at, time.Now())
				if err != nil {
					return err
				}
				q.Set("time", promTime(when))
			}
			return runQuery(c, s, t, &form, "/api/v1/query", q)
		},
	}
	form.flag(c)
	c.Flags().StringVar(&at, "time", "", "moment: RFC 3339, Unix seconds, now or now-1h; default now")
	return c
}

func newQueryRange(s streams, t *target) *cobra.Command {
	var form outputForm
	var when span
	var step time.Duration
	c := &cobra.Command{
		Use:     "range QUERY",
		Short:   "Evaluate a query over a span of time",
		Example: "  triward query range node_load1 --start now-15m --step 30s",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			from, to, err := when.times()
			if err != nil {
				return err
			}
			if !from.Before(to) || step <= 0 {
				return fmt.Errorf("want --start before --end and a --step above 0")
			}
			q := url.Values{"query": args[:1], "start": {promTime(from)}, "end": {promTime(to)}}
			q.Set("step", strconv.FormatFloat(step.Seconds(), 'f', -1, 64))
			return runQuery(c, s, t, &form, "/api/v1/query_range", q)
		},
	}
	form.flag(c)
	when.flags(c, "now-1h")
	c.Flags().DurationVar(&step, "step", time.Minute, "distance of the points")
	return c
}

// span is a span of time as flags name it.
type span struct{ start, end string }

// flags adds --start, with the default start, and --end.
func (s *span) flags(c *cobra.Command, start string) {
	c.Flags().StringVar(&s.start, "start", start, "from: RFC 3339, Unix seconds, now or now-1h")
	c.Flags().StringVar(&s.end, "end", "now", "to")
}

func (s *span) times() (from, to time.Time, err error) {
	now := time.Now()
	if from, err = parseTime(s.start, now); err != nil {
		return from, to, fmt.Errorf("--start: %w", err)
	}
	if to, err = parseTime(s.end, now); err != nil {
		return from, to, fmt.Errorf("--end: %w", err)
	}
	return from, to, nil
}

// set puts the span into the values of a question about lines or events, in nanoseconds.
func (s *span) set(q url.Values) error {
	from, to, err := s.times()
	if err != nil {
		return err
	}
	if !from.Before(to) {
		return errors.New("want --start before --end")
	}
	q.Set("start", strconv.FormatInt(max(from.UnixNano(), 0), 10))
	q.Set("end", strconv.FormatInt(to.UnixNano(), 10))
	return nil
}

func runQuery(c *cobra.Command, s streams, t *target, form *outputForm, path string, q url.Values) error {
	cl, err := t.client()
	if err != nil {
		return err
	}
	var answer promAnswer
	if shown, err := cl.show(c.Context(), s, form, path, q, &answer); err != nil || shown {
		return err
	}
	for _, w := range answer.Warnings {
		fmt.Fprintf(s.err, "warning: %s\n", printable(w))
	}
	return printProm(s.out, &answer.Data)
}

func printProm(out io.Writer, d *promData) error {
	if d.ResultType == "scalar" || d.ResultType == "string" {
		var v []json.RawMessage
		if err := json.Unmarshal(d.Result, &v); err != nil || len(v) != 2 {
			return fmt.Errorf("the answer is not Prometheus' form")
		}
		_, err := fmt.Fprintln(out, printable(unquote(v[1])))
		return err
	}
	var list []promSeries
	if err := json.Unmarshal(d.Result, &list); err != nil {
		return fmt.Errorf("the answer is not Prometheus' form: %w", err)
	}
	tab := newTable(out, "series", "time", "value")
	for _, ser := range list {
		name := seriesName(ser.Metric)
		if len(ser.Value) == 2 {
			tab.row(name, promMoment(ser.Value[0]), unquote(ser.Value[1]))
		}
		for _, p := range ser.Values {
			tab.row(name, promMoment(p[0]), unquote(p[1]))
		}
	}
	return tab.flush()
}

func seriesName(m map[string]string) string {
	var parts []string
	for k, v := range m {
		if k != "__name__" {
			parts = append(parts, k+"="+strconv.Quote(v))
		}
	}
	slices.Sort(parts)
	if len(parts) == 0 && m["__name__"] != "" {
		return m["__name__"]
	}
	return m["__name__"] + "{" + strings.Join(parts, ", ") + "}"
}

func unquote(raw json.RawMessage) string {
	var text string
	if json.Unmarshal(raw, &text) != nil {
		return string(raw)
	}
	return text
}

func promMoment(raw json.RawMessage) string {
	sec, err := strconv.ParseFloat(string(raw), 64)
	if err != nil {
		return string(raw)
	}
	return time.UnixMilli(int64(sec * 1000)).Format("2006-01-02 15:04:05")
}

func promTime(t time.Time) string {
	return strconv.FormatFloat(float64(t.UnixMilli())/1000, 'f', 3, 64)
}

// parseTime reads a moment: RFC 3339, Unix seconds, now, now-1h or now+5m.
func parseTime(text string, now time.Time) (time.Time, error) {
	if rest, ok := strings.CutPrefix(text, "now"); ok {
		if rest == "" {
			return now, nil
		}
		d, err := time.ParseDuration(strings.TrimPrefix(rest, "+"))
		if days, ok := strings.CutSuffix(rest, "d"); err != nil && ok {
			var n int
			n, err = strconv.Atoi(days)
			d = time.Duration(n) * 24 * time.Hour
		}
		if err == nil {
			return now.Add(d), nil
		}
	}
	if sec, err := strconv.ParseFloat(text, 64); err == nil && sec > 0 && sec < 1e11 {
		return time.UnixMilli(int64(sec * 1000)), nil
	}
	if when, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return when, nil
	}
	return time.Time{}, fmt.Errorf("time %q: want RFC 3339, Unix seconds, now or now-1h", text)
}
