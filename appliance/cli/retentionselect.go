package cli

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"
)

type retentionSelector struct {
	Kind   string `json:"kind"`
	Select string `json:"select"`
	AgeMs  int64  `json:"age_ms"`
	By     string `json:"by"`
	At     int64  `json:"at"`
	Before int64  `json:"before"`
	Lines  uint64 `json:"lines"`
	Days   int    `json:"days"`
	CutAt  int64  `json:"cut_at"`
}

type selectorPreview struct {
	Select     string `json:"select"`
	Everything bool   `json:"everything"`
	Before     int64  `json:"before"`
	Oldest     int64  `json:"oldest"`
	Days       int    `json:"days"`
	Streams    int    `json:"streams"`
	Lines      int64  `json:"lines"`
	Total      int64  `json:"total"`
	Bytes      int64  `json:"bytes"`
}

// selecting are the flags of a rule for single streams.
type selecting struct {
	sel, kind string
	age       days
	ageMs     int64
}

func (x *selecting) flags(c *cobra.Command, age bool) {
	c.Flags().StringVar(&x.sel, "select", "", `only the streams that this picks, such as {unit="nginx"}`)
	c.Flags().StringVar(&x.kind, "kind", "logs", "with --select: logs or events")
	if age {
		x.age.ms = &x.ageMs
		c.Flags().Var(&x.age, "age", "with --select: how long their lines are kept, such as 7d")
	}
}

// set sets a rule after it has shown what it removes.
func (x *selecting) set(c *cobra.Command, s streams, cl *client, yes bool) error {
	if !x.age.set {
		return errors.New("how long are the lines to be kept? give --age, such as --age 7d")
	}
	var p selectorPreview
	err := cl.get(c.Context(), "/v1/retention/selectors/preview", url.Values{
		"kind": {x.kind}, "select": {x.sel}, "age": {strconv.FormatInt(x.ageMs/dayMs, 10) + "d"},
	}, &p)
	if err != nil {
		return err
	}
	if p.Lines == 0 {
		fmt.Fprintf(s.err, "%s picks none of the %s before %s yet\n", printable(p.Select), x.kind, dayOf(p.Before))
	} else {
		size := "" // of lines that are not in blocks yet it is not known
		if p.Bytes > 0 {
			size = ", at least " + bytesText(p.Bytes) + " of text"
		}
		fmt.Fprintf(s.err, "%s picks %d of %d %s before %s: on %d days from %s on, of up to %d streams%s\n",
			printable(p.Select), p.Lines, p.Total, x.kind, dayOf(p.Before), p.Days, dayOf(p.Oldest), p.Streams, size)
	}
	switch {
	case p.Everything && !yes:
		return fmt.Errorf("this picks everything there is of %s; repeat it with --yes if that is meant, or use --%s-age", x.kind, x.kind)
	case p.Lines > 0 && !yes:
		return errors.New("this removes them for good; repeat it with --yes")
	}
	return cl.put(c.Context(), "/v1/retention/selectors", map[string]any{
		"kind": x.kind, "select": x.sel, "age_ms": x.ageMs, "everything": yes,
	}, nil)
}

func newRetentionUnselect(t *target) *cobra.Command {
	var x selecting
	c := &cobra.Command{
		Use: "unselect", Short: "Take a rule for some streams away", Args: cobra.NoArgs,
		Long: `Takes a rule for some streams away: their lines are kept as long as all of their kind from then on. What it has removed does
not come back.`,
		RunE: func(c *cobra.Command, _ []string) error {
			if x.sel == "" {
				return errors.New("which rule? give --select as `triward retention show` lists it")
			}
			cl, err := t.client()
			if err != nil {
				return err
			}
			q := url.Values{"kind": {x.kind}, "select": {x.sel}}
			return cl.call(c.Context(), http.MethodDelete, "/v1/retention/selectors?"+q.Encode(), nil, nil)
		},
	}
	x.flags(c, false)
	return c
}

// printSelectors lists the rules for single streams, if there are or were any.
func printSelectors(s streams, list []retentionSelector) error {
	if len(list) == 0 {
		return nil
	}
	fmt.Fprintln(s.out)
	tab := newTable(s.out, "streams of", "selector", "kept for", "removed before", "lines removed", "at")
	for _, r := range list {
		kept := "no rule now"
		if r.AgeMs > 0 {
			kept = daysText(r.AgeMs)
		}
		at := ""
		if r.CutAt > 0 {
			at = stamp(r.CutAt)
		}
		tab.row(r.Kind, printable(r.Select), kept, dayOf(r.Before), strconv.FormatUint(r.Lines, 10), at)
	}
	return tab.flush()
}
