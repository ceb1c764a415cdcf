package cli

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/triward/triward/appliance/api"
)

// logQuestion is what questions about lines have in common: a query, a span of time, the form of the answer.
type logQuestion struct {
	t     *target
	s     streams
	form  outputForm
	when  span
	stats bool
	room  string // a day that was brought back, to ask of that
}

// command makes a command that takes a query; ask gets its parameters.
func (l *logQuestion) command(c *cobra.Command, start string, ask func(ctx context.Context, cl *client, q url.Values) error) *cobra.Command {
	c.Args = cobra.MaximumNArgs(1)
	c.ValidArgsFunction = completeQuery(l.t)
	c.RunE = func(c *cobra.Command, args []string) error {
		q, cl, err := l.ask(strings.Join(args, ""))
		if err == nil && l.room != "" {
			err = askRoom(c, cl, l.room, q)
		}
		if err != nil {
			return err
		}
		return ask(c.Context(), cl, q)
	}
	l.flags(c, start)
	c.Flags().StringVar(&l.room, "archive", "", "id of a day that `triward logs import` brought back, to ask of that")
	return c
}

func (l *logQuestion) flags(c *cobra.Command, start string) {
	l.form.flag(c)
	l.when.flags(c, start)
	c.Flags().BoolVar(&l.stats, "stats", false, "say what the answer cost")
}

func (l *logQuestion) ask(text string) (url.Values, *client, error) {
	q := url.Values{"query": {text}}
	if err := l.when.set(q); err != nil {
		return nil, nil, err
	}
	cl, err := l.t.client()
	return q, cl, err
}

// tell prints what an answer cost, when asked for, and always what is missing in it, which is errWarnings then.
func (l *logQuestion) tell(st *api.LogStats) error { return tellStats(l.s.err, st, l.stats) }

func tellStats(w io.Writer, st *api.LogStats, all bool) error {
	if all {
		fmt.Fprintf(w, "%d lines (%s) looked at in %.1f ms; of %d blocks %d opened, %d counted without reading lines, passed over: %d by header, %d by word index, %d by filter, %d by what their lines have in common",
			st.Lines, bytesText(st.Bytes), st.Ms, st.Considered, st.Blocks, st.Counted, st.SkippedHeader, st.SkippedIndex, st.SkippedFilter, st.SkippedTemplates)
		if st.Pending > 0 {
			fmt.Fprintf(w, "; %d are not in the word index yet", st.Pending)
		}
		fmt.Fprintln(w)
	}
	tellNode(w, st.Node)
	if st.Partial {
		places := strings.Join(st.Damaged, ", ")
		if places != "" {
			places = ": " + places
		}
		others := "the other nodes that answered lack parts too"
		if st.Unasked {
			others = "no other node could be asked"
		}
		fmt.Fprintf(w, "warning: lines are missing, because parts are damaged on the node that was asked%s, and %s; try again, or ask one with --node\n", printable(places), others)
	}
	if st.Expired {
		fmt.Fprintln(w, "warning: retention took the oldest lines of the span away while it was read")
	}
	if st.Partial {
		return errWarnings
	}
	return nil
}

// tellNode says which node answered in place of the one that was asked, if one did.
func tellNode(w io.Writer, node string) {
	if node != "" {
		fmt.Fprintf(w, "note: node %s answered, as lines are damaged on the node that was asked\n", printable(node))
	}
}

func newLogsHits(s streams, t *target) *cobra.Command {
	l := &logQuestion{t: t, s: s}
	var field string
	var step time.Duration
	var top int
	c := l.command(&cobra.Command{
		Use:     "hits [QUERY]",
		Short:   "Count lines over time, by severity or by the values of a field",
		Example: "  triward logs hits error --start now-6h --step 10m\n  triward logs hits 'sshd failed' --field host --top 5",
	}, "now-1h", func(ctx context.Context, cl *client, q url.Values) error {
		if step != 0 {
			q.Set("step", step.String())
		}
		if field != "" {
			q.Set("field", field)
			q.Set("top", strconv.Itoa(top))
		}
		var h api.LogHits
		if err := cl.get(ctx, "/v1/logs/hits", q, &h); err != nil {
			return err
		}
		if err := l.form.write(s.out, &h, func() error { return printHits(s.out, &h) }); err != nil {
			return err
		}
		if h.Capped && !l.form.json() {
			fmt.Fprintln(s.err, "there are so many values that another one may be more frequent than these")
		}
		return l.tell(&h.Stats)
	})
	c.Flags().StringVar(&field, "field", "", "count by the values of this label or field")
	c.Flags().IntVar(&top, "top", 10, "how many values are told apart, the most frequent ones")
	c.Flags().DurationVar(&step, "step", 0, "width of an interval; chosen when absent")
	return c
}

// printHits prints a row for each interval with lines, and a column for each severity or value.
func printHits(out io.Writer, h *api.LogHits) error {
	heads, columns := []string{"time", "lines"}, [][]int64{}
	add := func(name string, counts []int64) {
		if len(counts) > 0 {
			heads, columns = append(heads, printable(name)), append(columns, counts)
		}
	}
	for _, s := range h.Series {
		add(s.Severity+s.Value, s.Counts)
	}
	add("(other)", h.Other)
	add("(without)", h.Without)
	tab := newTable(out, heads...)
	n := 0
	for _, c := range columns {
		n = max(n, len(c))
	}
	for i := range n {
		total, cells := int64(0), []string{}
		for _, c := range columns {
			v := int64(0)
			if i < len(c) {
				v = c[i]
			}
			total += v
			cells = append(cells, strconv.FormatInt(v, 10))
		}
		if total > 0 {
			at := time.UnixMilli(h.T0 + int64(i)*h.Step).Format("2006-01-02 15:04:05")
			tab.row(append([]string{at, strconv.FormatInt(total, 10)}, cells...)...)
		}
	}
	return tab.flush()
}

func newLogsTop(s streams, t *target) *cobra.Command {
	l := &logQuestion{t: t, s: s}
	var limit int
	c := &cobra.Command{
		Use:     "top FIELD [QUERY]",
		Short:   "Print the most frequent values of a label or field",
		Example: "  triward logs top host error\n  triward logs top user 'sshd failed' --start now-7d --limit 50",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			q, cl, err := l.ask(strings.Join(args[1:], ""))
			if err != nil {
				return err
			}
			q.Set("field", args[0])
			q.Set("limit", strconv.Itoa(limit))
			var f api.Facet
			if err := cl.get(c.Context(), "/v1/logs/facets", q, &f); err != nil {
				return err
			}
			err = l.form.write(s.out, &f, func() error {
				tab := newTable(s.out, f.Field, "lines")
				for _, v := range f.Values {
					tab.row(v.Value, strconv.FormatInt(v.Count, 10))
				}
				return tab.flush()
			})
			if err != nil {
				return err
			}
			if f.Capped && !l.form.json() {
				fmt.Fprintln(s.err, "there are so many values that another one may be more frequent than the last of these")
			}
			return l.tell(&f.Stats)
		},
	}
	l.flags(c, "now-1h")
	c.Flags().IntVar(&limit, "limit", 20, "how many values at most, up to 1000")
	return c
}

func newLogsLabels(s streams, t *target) *cobra.Command {
	var form outputForm
	var when span
	c := &cobra.Command{
		Use:     "labels [NAME]",
		Short:   "Print the names of the labels of streams, or the values of one",
		Example: "  triward logs labels\n  triward logs labels host",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			l := &logQuestion{t: t, s: s, when: when}
			q, cl, err := l.ask("")
			if err != nil {
				return err
			}
			q.Del("query")
			path := "/v1/logs/labels"
			if len(args) == 1 {
				path += "/" + url.PathEscape(args[0]) + "/values"
				q.Set("limit", "10000")
			}
			var answer struct {
				Labels, Values []string
				Stats          api.LogStats
			}
			if err := cl.get(c.Context(), path, q, &answer); err != nil {
				return err
			}
			list := append(answer.Labels, answer.Values...)
			err = form.write(s.out, list, func() error {
				for _, v := range list {
					if _, err := fmt.Fprintln(s.out, printable(v)); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				return err
			}
			return l.tell(&answer.Stats)
		},
	}
	form.flag(c)
	when.flags(c, "now-30d")
	return c
}

func newLogsSeries(s streams, t *target) *cobra.Command {
	var form outputForm
	var when span
	var limit int
	c := &cobra.Command{
		Use:     "series [QUERY]",
		Short:   "Print the streams that have lines, with their labels",
		Example: "  triward logs series host:web-1",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			l := &logQuestion{t: t, s: s, when: when}
			q, cl, err := l.ask(strings.Join(args, ""))
			if err != nil {
				return err
			}
			q.Set("limit", strconv.Itoa(limit))
			var answer api.LogStreams
			if err := cl.get(c.Context(), "/v1/logs/series", q, &answer); err != nil {
				return err
			}
			err = form.write(s.out, &answer, func() error {
				tab := newTable(s.out, "kind", "stream")
				for i := range answer.Streams {
					tab.row(answer.Streams[i].Kind, seriesName(answer.Streams[i].Labels))
				}
				return tab.flush()
			})
			if err != nil {
				return err
			}
			if answer.More && !form.json() {
				fmt.Fprintln(s.err, "there are more; raise --limit or ask for less")
			}
			return l.tell(&answer.Stats)
		},
	}
	form.flag(c)
	when.flags(c, "now-24h")
	c.Flags().IntVar(&limit, "limit", 1000, "how many streams at most, up to 50000")
	return c
}

func newLogsContext(s streams, t *target) *cobra.Command {
	var form outputForm
	var before, after int
	c := &cobra.Command{
		Use:   "context ID",
		Short: "Print the lines of the same stream around a line",
		Long: "Prints the neighbours of a line in its stream, oldest first; the line itself is marked with >. ID is what\n" +
			"`triward logs query --ids` prints in front of a line: its time and its position in the log of the cluster.",
		Example: "  triward logs query 'out of memory' --ids --limit 1\n  triward logs context 1764237600123456789.48211.3 --before 20 --after 5",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			at, pos, ok := strings.Cut(args[0], ".")
			if _, err := strconv.ParseInt(at, 10, 64); err != nil || !ok {
				return fmt.Errorf("id %.60q: want TIME.INDEX.ORDINAL as `triward logs query --ids` prints it", args[0])
			}
			cl, err := t.client()
			if err != nil {
				return err
			}
			q := url.Values{"t": {at}, "pos": {pos}, "before": {strconv.Itoa(before)}, "after": {strconv.Itoa(after)}}
			var around api.LogAround
			if err := cl.get(c.Context(), "/v1/logs/context", q, &around); err != nil {
				return err
			}
			err = form.write(s.out, &around, func() error {
				for i := range around.Rows {
					mark := "  "
					if i == around.At {
						mark = "> "
					}
					if _, err := fmt.Fprintln(s.out, mark+rowLine(&around.Rows[i])); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				return err
			}
			return tellStats(s.err, &around.Stats, false)
		},
	}
	form.flag(c)
	c.Flags().IntVar(&before, "before", 10, "lines before it, up to 500")
	c.Flags().IntVar(&after, "after", 10, "lines after it, up to 500")
	return c
}
