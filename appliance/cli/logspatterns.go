package cli

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/triward/triward/appliance/api"
)

func newLogsPatterns(s streams, t *target) *cobra.Command {
	l := &logQuestion{t: t, s: s}
	var limit int
	var onlyNew bool
	var since string
	c := l.command(&cobra.Command{
		Use:   "patterns [QUERY]",
		Short: "Print the patterns of lines, most frequent first, and which of them are new",
		Long: "Prints what lines look like when numbers, addresses, times and the like are taken out of them (<*>), how many lines\n" +
			"have each pattern, and when the first and the last of the span came. With --new only patterns that no line before\n" +
			"--since has, as far back as lines are kept. `triward logs query` finds the lines of a pattern by @pattern:\"...\",\n" +
			"which -o json prints.",
		Example: "  triward logs patterns host:web-1\n  triward logs patterns --new --since 24h --start now-24h\n  triward logs patterns 'severity>=warning' --since 7d --limit 20",
	}, "now-1h", func(ctx context.Context, cl *client, q url.Values) error {
		q.Set("limit", strconv.Itoa(limit))
		if onlyNew {
			q.Set("new", "true")
		}
		if since != "" {
			at, err := sinceTime(since, time.Now())
			if err != nil {
				return err
			}
			q.Set("since", strconv.FormatInt(at.UnixNano(), 10))
		}
		var found api.LogPatterns
		if err := cl.get(ctx, "/v1/logs/patterns", q, &found); err != nil {
			return err
		}
		if err := l.form.write(s.out, &found, func() error { return printPatterns(s, &found, onlyNew) }); err != nil {
			return err
		}
		return l.tell(&found.Stats)
	})
	c.Flags().IntVar(&limit, "limit", 50, "how many patterns at most, up to 1000")
	c.Flags().BoolVar(&onlyNew, "new", false, "only patterns that are new since --since")
	c.Flags().StringVar(&since, "since", "", "since when a pattern is new: 24h, 7d, or a time as --start takes it; 24h before --end with --new alone")
	return c
}

// sinceTime reads how long ago, or when.
func sinceTime(text string, now time.Time) (time.Time, error) {
	if at, err := parseTime("now-"+text, now); err == nil {
		return at, nil
	}
	at, err := parseTime(text, now)
	if err != nil {
		return at, fmt.Errorf("--since: want 24h, 7d, or a time as --start takes it: %w", err)
	}
	return at, nil
}

func printPatterns(s streams, found *api.LogPatterns, onlyNew bool) error {
	tab := newTable(s.out, "lines", "share", "new", "first", "last", "worst", "pattern")
	for i := range found.Patterns {
		p := &found.Patterns[i]
		mark := ""
		if p.New {
			mark = "new"
		}
		tab.row(strconv.FormatInt(p.Lines, 10), fmt.Sprintf("%.1f%%", 100*p.Share), mark, nsTime(p.First), nsTime(p.Last), worst(p.Severities), strings.ReplaceAll(p.Pattern, "⏎", " ⏎ "))
	}
	if err := tab.flush(); err != nil {
		return err
	}
	if found.Other > 0 && !onlyNew {
		fmt.Fprintf(s.err, "%d of %d lines have other patterns\n", found.Other, found.Lines)
	}
	if found.Capped {
		fmt.Fprintln(s.err, "there are so many patterns that another one may be more frequent than the last of these")
	}
	if found.Since > 0 && found.KeptFrom > 0 {
		fmt.Fprintf(s.err, "%d patterns are new since %s; lines are kept from %s on\n", found.New, time.UnixMilli(found.Since).Format(time.DateTime), time.UnixMilli(found.KeptFrom).Format(time.DateTime))
	}
	return nil
}

func nsTime(ns string) string {
	n, err := strconv.ParseInt(ns, 10, 64)
	if err != nil {
		return ns
	}
	return time.Unix(0, n).Format(time.DateTime)
}

// worst returns the most severe of the severities that lines have.
func worst(lines map[string]int64) string {
	for _, severity := range []string{"critical", "error", "warning", "notice", "info", "debug"} {
		if lines[severity] > 0 {
			return severity
		}
	}
	return ""
}
