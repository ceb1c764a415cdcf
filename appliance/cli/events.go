package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/triward/triward/appliance/api"
)

type eventAnswer struct {
	Events []json.RawMessage `json:"events"`
	Next   string            `json:"next"`
	Stats  api.LogStats      `json:"stats"`
}

func newEvents(s streams) *cobra.Command {
	var t target
	c := &cobra.Command{Use: "events", Short: "List events of hosts and of the cluster, or follow them as they come", Args: cobra.NoArgs, RunE: needSubcommand}
	t.flags(c)
	c.AddCommand(newEventsQuery(s, &t), newEventsTail(s, &t))
	return c
}

// eventFilter is the flags that choose events.
type eventFilter struct {
	hosts, kinds, sources []string
	severity              string
}

func (f *eventFilter) flags(c *cobra.Command) {
	c.Flags().StringSliceVar(&f.hosts, "host", nil, "only of these hosts")
	c.Flags().StringSliceVar(&f.kinds, "kind", nil, "only of these kinds, such as unit_failed,oom_kill")
	c.Flags().StringSliceVar(&f.sources, "source", nil, "only of these sources: agent, cluster, alerts, api")
	c.Flags().StringVar(&f.severity, "severity", "", "at least this severe: debug, info, notice, warning, error or critical")
	_ = c.RegisterFlagCompletionFunc("severity", cobra.FixedCompletions(eventSeverities, cobra.ShellCompDirectiveNoFileComp))
}

var eventSeverities = []string{"debug", "info", "notice", "warning", "error", "critical"}

// query is the filter in the language of the search box, for the live subscription.
func (f *eventFilter) query(text string) (string, error) {
	var all []string
	if text != "" {
		all = append(all, "("+text+")")
	}
	for _, of := range []struct {
		field  string
		values []string
	}{{"host", f.hosts}, {"name", f.kinds}, {"source", f.sources}} {
		var some []string
		for _, v := range of.values {
			quoted := `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(v) + `"`
			some = append(some, of.field+":"+quoted)
			if of.field == "host" { // a sender without an agent names itself in agent_id
				some = append(some, "(agent_id:"+quoted+" -host:*)")
			}
		}
		if len(some) > 0 {
			all = append(all, "("+strings.Join(some, " OR ")+")")
		}
	}
	if f.severity != "" {
		if !slices.Contains(eventSeverities, f.severity) {
			return "", fmt.Errorf("--severity %q: want %s", f.severity, strings.Join(eventSeverities, ", "))
		}
		all = append(all, "severity>="+f.severity)
	}
	return strings.Join(all, " AND "), nil
}

func newEventsQuery(s streams, t *target) *cobra.Command {
	var form outputForm
	var filter eventFilter
	var when span
	var limit int
	c := &cobra.Command{
		Use:     "query [QUERY]",
		Short:   "List events, newest first",
		Example: "  triward events query --severity warning --start now-7d\n  triward events query --kind unit_failed --host web1 'nginx'",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if limit < 1 {
				return errors.New("--limit must be at least 1")
			}
			cl, err := t.client()
			if err != nil {
				return err
			}
			q := url.Values{
				"query": {strings.Join(args, "")}, "host": {strings.Join(filter.hosts, ",")}, "kind": {strings.Join(filter.kinds, ",")},
				"source": {strings.Join(filter.sources, ",")}, "severity": {filter.severity},
			}
			if err := when.set(q); err != nil {
				return err
			}
			var all api.LogStats
			err = pages(c.Context(), cl, "/v1/events", q, limit, func(a *eventAnswer) (int, string, error) {
				all.Add(&a.Stats)
				return len(a.Events), a.Next, printEvents(s.out, &form, a.Events)
			})
			if err != nil {
				return err
			}
			return tellStats(s.err, &all, false)
		},
	}
	form.flag(c)
	filter.flags(c)
	when.flags(c, "now-24h")
	c.Flags().IntVar(&limit, "limit", 200, "most events to print")
	return c
}

// printEvents prints one event a line.
func printEvents(out io.Writer, form *outputForm, rows []json.RawMessage) error {
	for _, raw := range rows {
		if form.json() {
			if _, err := fmt.Fprintf(out, "%s\n", raw); err != nil {
				return err
			}
			continue
		}
		var e api.EventRow
		if err := json.Unmarshal(raw, &e); err != nil {
			return fmt.Errorf("event of the answer: %w", err)
		}
		if _, err := fmt.Fprintln(out, eventLine(&e)); err != nil {
			return err
		}
	}
	return nil
}

func eventLine(e *api.EventRow) string {
	when := e.T
	if ns, err := strconv.ParseInt(e.T, 10, 64); err == nil {
		when = time.Unix(0, ns).Format("2006-01-02 15:04:05.000")
	}
	host := e.Host
	if host == "" {
		host = "-"
	}
	text := strings.ReplaceAll(e.Message, "\n", " ⏎ ")
	if e.Title != "" && !strings.HasPrefix(e.Message, strings.TrimSuffix(e.Title, "…")) {
		text = e.Title + ": " + text
	}
	if e.Count > 1 {
		text = fmt.Sprintf("%dx %s", e.Count, text)
	}
	var tags []string
	for _, k := range slices.Sorted(maps.Keys(e.Tags)) {
		tags = append(tags, k+"="+e.Tags[k])
	}
	if len(tags) > 0 {
		text += "  [" + strings.Join(tags, " ") + "]"
	}
	return printable(fmt.Sprintf("%s %-8s %-18s %s: %s", when, e.Severity, e.Kind, host, text))
}

func newEventsTail(s streams, t *target) *cobra.Command {
	var form outputForm
	var filter eventFilter
	var backlog int
	c := &cobra.Command{
		Use:     "tail [QUERY]",
		Short:   "Print events as they come, until interrupted; none is left out, also when the connection is lost",
		Example: "  triward events tail --severity warning",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			query, err := filter.query(strings.Join(args, ""))
			if err != nil {
				return err
			}
			cl, err := t.client()
			if err != nil {
				return err
			}
			f := &follower{
				client: cl, kind: "events", query: query, backlog: min(max(backlog, 0), 200), s: s,
				print: func(rows []json.RawMessage) error { return printEvents(s.out, &form, rows) },
			}
			return f.run(c.Context())
		},
	}
	form.flag(c)
	filter.flags(c)
	c.Flags().IntVarP(&backlog, "lines", "n", 10, "begin with this many events that are there (at most 200)")
	return c
}
