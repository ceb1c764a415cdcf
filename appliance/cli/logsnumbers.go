package cli

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"
)

// numbersAnswer is the answer of Loki's API to a query for numbers: Prometheus' form, and what it cost.
type numbersAnswer struct {
	Data struct {
		promData
		Stats struct {
			Summary struct {
				Lines   int64   `json:"totalLinesProcessed"`
				Bytes   int64   `json:"totalBytesProcessed"`
				Seconds float64 `json:"execTime"`
			} `json:"summary"`
			Triward struct {
				Considered int `json:"blocksConsidered"`
				Skipped    int `json:"blocksSkipped"`
				Opened     int `json:"blocksOpened"`
			} `json:"triward"`
		} `json:"stats"`
	} `json:"data"`
	Warnings []string `json:"warnings"`
}

// numbers prints the numbers of a query in LogQL: at the end of the span, or with a step over all of it.
func (l *logQuestion) numbers(c *cobra.Command, query string, step time.Duration) error {
	for _, name := range []string{"archive", "limit", "oldest", "ids"} {
		if c.Flags().Changed(name) {
			return fmt.Errorf("--%s is of queries for lines; this one is for numbers", name)
		}
	}
	from, to, err := l.when.times()
	if err != nil {
		return err
	}
	ns := func(t time.Time) []string { return []string{strconv.FormatInt(max(t.UnixNano(), 0), 10)} }
	path, asked := "/loki/api/v1/query", url.Values{"query": {query}, "time": ns(to)}
	switch {
	case step > 0 && from.Before(to):
		path, asked = "/loki/api/v1/query_range", url.Values{
			"query": {query}, "start": ns(from), "end": ns(to), "step": {strconv.FormatFloat(step.Seconds(), 'f', -1, 64)},
		}
	case step != 0:
		return errors.New("want --start before --end and a --step above 0")
	case c.Flags().Changed("start"):
		return errors.New("--start needs --step; without it the query is evaluated at --end alone, over the time in its brackets")
	}
	cl, err := l.t.client()
	if err != nil {
		return err
	}
	var answer numbersAnswer
	shown, err := cl.show(c.Context(), l.s, &l.form, path, asked, &answer)
	if err != nil {
		return err
	}
	tellNode(l.s.err, cl.answered)
	if !shown {
		if err := printProm(l.s.out, &answer.Data.promData); err != nil {
			return err
		}
	}
	if l.stats {
		sum, blocks := &answer.Data.Stats.Summary, &answer.Data.Stats.Triward
		fmt.Fprintf(l.s.err, "%d lines (%s) looked at in %.1f ms; of %d blocks %d opened, %d passed over\n",
			sum.Lines, bytesText(sum.Bytes), sum.Seconds*1000, blocks.Considered, blocks.Opened, blocks.Skipped)
	}
	for _, w := range answer.Warnings {
		fmt.Fprintf(l.s.err, "warning: %s\n", printable(w))
	}
	if len(answer.Warnings) > 0 {
		return errWarnings
	}
	return nil
}
