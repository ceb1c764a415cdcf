package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/triward/triward/appliance/api"
)

func newLogsSuggest(s streams, t *target) *cobra.Command {
	var form outputForm
	var when span
	var limit int
	c := &cobra.Command{
		Use:     "suggest QUERY",
		Short:   "List what goes on from a query: words, names of fields and values",
		Long:    "Lists what goes on from the end of a query, the most frequent first, and in how many of the newest lines each was seen.\nThe shell completes the query of `logs query` and `logs tail` with the same (see `triward completion --help`).",
		Example: "  triward logs suggest 'severity:error conn'\n  triward logs suggest host:web --start now-7d",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			raw, err := suggestions(c.Context(), cl, &when, args[0], limit)
			if err != nil {
				return err
			}
			if form.json() {
				return writeJSON(s.out, raw)
			}
			var found api.LogSuggestions
			if err := json.Unmarshal(raw, &found); err != nil {
				return fmt.Errorf("suggestions of the answer: %w", err)
			}
			return printSuggestions(s, args[0], &found)
		},
	}
	form.flag(c)
	when.flags(c, "now-24h")
	c.Flags().IntVar(&limit, "limit", 10, "how many at most, 1 to 50")
	return c
}

func suggestions(ctx context.Context, cl *client, when *span, text string, limit int) (raw json.RawMessage, err error) {
	q := url.Values{"query": {text}, "limit": {strconv.Itoa(limit)}}
	if err := when.set(q); err != nil {
		return nil, err
	}
	err = cl.get(ctx, "/v1/logs/suggest", q, &raw)
	return raw, err
}

func printSuggestions(s streams, text string, found *api.LogSuggestions) error {
	w := newTable(s.out, "query", "kind", "lines")
	for i := range found.Items {
		it := &found.Items[i]
		lines := strconv.FormatInt(it.Lines, 10)
		if it.Lead {
			lines = "not looked for"
		}
		w.row(printable(completed(text, it)), it.Kind, lines)
	}
	if found.Partial {
		fmt.Fprintln(s.err, "something damaged on this node was left out; another node may know more")
	}
	return w.flush()
}

// completed is the query with the suggestion in its place.
func completed(text string, it *api.LogSuggestion) string {
	if it.From < 0 || it.From > it.To || it.To > len(text) {
		return it.Insert
	}
	return text[:it.From] + it.Insert + text[it.To:]
}

// completionTime bounds how long a shell waits.
const completionTime = 3 * time.Second

// completeQuery completes the query of a command by the lines of the cluster; without one it knows nothing.
func completeQuery(t *target) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, typed string) (out []cobra.Completion, _ cobra.ShellCompDirective) {
		const how = cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace | cobra.ShellCompDirectiveKeepOrder
		if len(args) > 0 {
			return nil, how
		}
		cl, err := t.client()
		if err != nil {
			return nil, how
		}
		ctx, cancel := context.WithTimeout(c.Context(), completionTime)
		defer cancel()
		raw, err := suggestions(ctx, cl, &span{start: "now-24h", end: "now"}, typed, 20)
		var found api.LogSuggestions
		if err != nil || json.Unmarshal(raw, &found) != nil {
			return nil, how
		}
		for i := range found.Items {
			if all := completed(typed, &found.Items[i]); printable(all) == all && !strings.ContainsAny(all, "\t\n") {
				out = append(out, all)
			}
		}
		return out, how
	}
}
