package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

const dayMs = 24 * 3600 * 1000

type retentionRule struct {
	AgeMs int64 `json:"age_ms"`
	Share int   `json:"share_pct"`
}

type retentionPolicy struct {
	Metrics retentionRule `json:"metrics"`
	Logs    retentionRule `json:"logs"`
	Events  retentionRule `json:"events"`
	Limit   int           `json:"limit_pct"`
	Warn    int           `json:"warn_pct"`
	KeepMs  int64         `json:"keep_ms"`
}

// rules are those of the kinds, by name.
func (p *retentionPolicy) rules() []struct {
	kind string
	rule *retentionRule
} {
	return []struct {
		kind string
		rule *retentionRule
	}{{"metrics", &p.Metrics}, {"logs", &p.Logs}, {"events", &p.Events}}
}

type retentionAnswer struct {
	Policy retentionPolicy `json:"policy"`
	// Defaults is the policy of the configuration of the node asked.
	Defaults retentionPolicy `json:"defaults"`
	Version  uint64          `json:"version"`
	By       string          `json:"by"`
	At       int64           `json:"at"`
	Kinds    []struct {
		Kind   string `json:"kind"`
		Items  uint64 `json:"items"`
		Oldest int64  `json:"oldest"`
		Floor  int64  `json:"floor"`
	} `json:"kinds"`
	Nodes []struct {
		Node      string           `json:"node"`
		State     string           `json:"state"`
		Why       string           `json:"why"`
		Total     int64            `json:"total"`
		Free      int64            `json:"free"`
		UsedPct   float64          `json:"used_pct"`
		Kinds     map[string]int64 `json:"kinds"`
		Queue     int64            `json:"queue"`
		Temporary int64            `json:"temporary"`
		Foreign   int64            `json:"foreign"`
		Pending   bool             `json:"pending"`
		PerDay    int64            `json:"per_day"`
		DaysLeft  *int             `json:"days_left"`
	} `json:"nodes"`
	History []struct {
		Kind   string `json:"kind"`
		From   int64  `json:"from"`
		To     int64  `json:"to"`
		Reason string `json:"reason"`
		At     int64  `json:"at"`
	} `json:"history"`
	Selectors []retentionSelector `json:"selectors"`
}

func newRetention(s streams) *cobra.Command {
	var t target
	c := &cobra.Command{Use: "retention", Short: "See and set how long data is kept", Args: cobra.NoArgs, RunE: needSubcommand}
	t.flags(c)
	c.AddCommand(newRetentionShow(s, &t), newRetentionSet(s, &t), newRetentionReset(s, &t), newRetentionUnselect(&t))
	return c
}

func newRetentionShow(s streams, t *target) *cobra.Command {
	var limit int
	c := &cobra.Command{
		Use: "show", Short: "Show the policy, the disks of the nodes and what was removed", Args: cobra.NoArgs,
		Long: `Shows how long data is kept, how full the disks are, and what retention removed. Percentages are of the room of a
disk: its size without the 320 MiB that always stay free.

Exit code 3: a disk is beyond the line of the warning, or a node does not answer.`,
	}
	c.Flags().IntVar(&limit, "limit", 20, "how many cuts to list at most")
	return asking(s, t, c, func(c *cobra.Command, cl *client, form *outputForm, _ []string) error {
		var raw json.RawMessage
		if err := cl.get(c.Context(), "/v1/retention", url.Values{"limit": {strconv.Itoa(limit)}}, &raw); err != nil {
			return err
		}
		var a retentionAnswer
		if err := json.Unmarshal(raw, &a); err != nil {
			return fmt.Errorf("answer of /v1/retention: %w", err)
		}
		var err error
		if form.json() {
			err = writeJSON(s.out, raw)
		} else {
			err = printRetention(s, &a)
		}
		if err != nil {
			return err
		}
		return warnOfDisks(s, &a)
	})
}

// warnOfDisks says what is to be done about the disks.
func warnOfDisks(s streams, a *retentionAnswer) error {
	var bad error
	for _, n := range a.Nodes {
		what := ""
		switch n.State {
		case "ok":
			continue
		case "warning":
			what = "fills up: grow it, or keep data for less long"
		case "cutting":
			what = "is full to the limit, so the oldest data goes: grow it, or keep data for less long"
		case "stuck":
			what = "is full and no cut helps: " + n.Why
		default:
			what = "is not known: the node does not answer"
		}
		fmt.Fprintf(s.err, "the disk of %s %s\n", n.Node, what)
		bad = errWarnings
	}
	return bad
}

func printRetention(s streams, a *retentionAnswer) error {
	p := &a.Policy
	from := "of the configuration"
	if a.Version > 0 {
		from = fmt.Sprintf("set by %s at %s", printable(a.By), stamp(a.At))
	}
	limit := "never"
	if p.Limit > 0 {
		limit = fmt.Sprintf("from %d %% on, but nothing of the last %d days", p.Limit, p.KeepMs/dayMs)
	}
	fmt.Fprintf(s.out, "policy            %s\ncuts for room     %s\nwarning           from %d %% on\n\n", from, limit, p.Warn)
	tab := newTable(s.out, "kind", "kept for", "share", "items", "oldest", "removed before")
	for _, r := range p.rules() {
		for _, k := range a.Kinds {
			if k.Kind == r.kind {
				tab.row(r.kind, daysText(r.rule.AgeMs), fmt.Sprintf("%d %%", r.rule.Share), strconv.FormatUint(k.Items, 10), dayOf(k.Oldest), dayOf(k.Floor))
			}
		}
	}
	if err := tab.flush(); err != nil {
		return err
	}
	if err := printSelectors(s, a.Selectors); err != nil {
		return err
	}
	fmt.Fprintln(s.out)
	tab = newTable(s.out, "node", "disk", "size", "free", "used", "metrics", "logs", "events", "queue", "others", "a day", "full in")
	for i := range a.Nodes {
		n := &a.Nodes[i]
		if n.State == "unknown" {
			tab.row(n.Node, n.State, "", "", "", "", "", "", "", "", "", "")
			continue
		}
		state, full := n.State, ""
		if n.Pending {
			state += ", deleting"
		}
		if n.DaysLeft != nil {
			full = fmt.Sprintf("%d days", *n.DaysLeft)
		}
		tab.row(n.Node, state, bytesText(n.Total), bytesText(n.Free), fmt.Sprintf("%.0f %%", n.UsedPct), bytesText(n.Kinds["metrics"]),
			bytesText(n.Kinds["logs"]), bytesText(n.Kinds["events"]), bytesText(n.Queue), bytesText(n.Foreign+n.Temporary), bytesText(n.PerDay), full)
	}
	if err := tab.flush(); err != nil || len(a.History) == 0 {
		return err
	}
	fmt.Fprintln(s.out)
	tab = newTable(s.out, "removed", "from", "before", "for", "at")
	for _, h := range a.History {
		tab.row(h.Kind, dayOf(h.From), dayOf(h.To), h.Reason, stamp(h.At))
	}
	return tab.flush()
}

func daysText(ms int64) string { return fmt.Sprintf("%dd", ms/dayMs) }

// dayOf is a day in UTC, between which retention cuts.
func dayOf(ms int64) string {
	if ms == 0 {
		return ""
	}
	return time.UnixMilli(ms).UTC().Format(time.DateOnly)
}

// days is a flag for a number of days, written 30d or 30.
type days struct {
	ms  *int64
	set bool
}

// String implements pflag.Value.
func (d *days) String() string { return "" }

// Type implements pflag.Value.
func (d *days) Type() string { return "days" }

// Set implements pflag.Value.
func (d *days) Set(v string) error {
	n, err := strconv.ParseUint(strings.TrimSuffix(v, "d"), 10, 16)
	if err != nil || n == 0 {
		return errors.New("want a number of days such as 30d")
	}
	*d.ms, d.set = int64(n)*dayMs, true
	return nil
}

func newRetentionSet(s streams, t *target) *cobra.Command {
	var (
		want retentionPolicy
		one  selecting
		yes  bool
	)
	c := &cobra.Command{
		Use: "set", Short: "Set how long data is kept, for the whole cluster", Args: cobra.NoArgs,
		Long: `Changes what the flags name and leaves the rest as it is. Data goes by whole days in UTC, the oldest first: when it is older
than its age, when its kind takes more than its share of the room of a disk, and when a disk is used beyond the limit. The
smallest disk of the cluster decides. What was removed does not come back.

With --select it sets how long the lines of some streams are kept, where that is less long than those of their kind:

  triward retention set --select '{unit="nginx", env!="prod"}' --age 7d

It says first how many lines that removes at once.`,
	}
	ages := make(map[string]*days)
	f := c.Flags()
	for _, r := range want.rules() {
		ages[r.kind] = &days{ms: &r.rule.AgeMs}
		f.Var(ages[r.kind], r.kind+"-age", "how long "+r.kind+" are kept, such as 30d")
		f.IntVar(&r.rule.Share, r.kind+"-share", 0, "percent of the room of a disk that "+r.kind+" may take")
	}
	keep := &days{ms: &want.KeepMs}
	f.IntVar(&want.Limit, "limit", 0, "percent of the room of a disk from which on days go; 0: none goes for want of room")
	f.IntVar(&want.Warn, "warn", 0, "percent of the room of a disk from which on operators are warned")
	f.Var(keep, "keep", "the newest days that never go for want of room, such as 2d")
	f.BoolVar(&yes, "yes", false, "remove at once what the new policy does not keep")
	one.flags(c, true)
	c.RunE = func(c *cobra.Command, _ []string) error {
		cl, err := t.client()
		if err != nil {
			return err
		}
		if f.Changed("select") {
			for _, other := range []string{"metrics-age", "logs-age", "events-age", "metrics-share", "logs-share", "events-share", "limit", "warn", "keep"} {
				if f.Changed(other) {
					return fmt.Errorf("--%s is not for single streams: set it without --select", other)
				}
			}
			return one.set(c, s, cl, yes)
		}
		if one.age.set || f.Changed("kind") {
			return errors.New("--age and --kind are for the streams of --select; without it say --logs-age")
		}
		var a retentionAnswer
		if err := cl.get(c.Context(), "/v1/retention", url.Values{"limit": {"1"}}, &a); err != nil {
			return err
		}
		p, changed := a.Policy, keep.set || f.Changed("limit") || f.Changed("warn")
		now, asked := p.rules(), want.rules()
		for i := range now {
			kind := now[i].kind
			if ages[kind].set {
				now[i].rule.AgeMs, changed = asked[i].rule.AgeMs, true
			}
			if f.Changed(kind + "-share") {
				now[i].rule.Share, changed = asked[i].rule.Share, true
			}
		}
		if f.Changed("limit") {
			p.Limit = want.Limit
		}
		if f.Changed("warn") {
			p.Warn = want.Warn
		}
		if keep.set {
			p.KeepMs = want.KeepMs
		}
		if !changed {
			return errors.New("nothing to set: name what is to change, such as --logs-age 30d")
		}
		if err := agreed(&a.Policy, &p, yes); err != nil {
			return err
		}
		return cl.put(c.Context(), "/v1/retention", struct {
			retentionPolicy
			Version uint64 `json:"version"`
		}{p, a.Version}, nil)
	}
	return c
}

// agreed refuses a change that removes data, unless that was said to be meant.
func agreed(from, to *retentionPolicy, yes bool) error {
	var loses []string
	was, is := from.rules(), to.rules()
	for i := range was {
		if is[i].rule.AgeMs < was[i].rule.AgeMs {
			loses = append(loses, fmt.Sprintf("%s older than %s", is[i].kind, daysText(is[i].rule.AgeMs)))
		}
		if is[i].rule.Share < was[i].rule.Share {
			loses = append(loses, fmt.Sprintf("the oldest %s beyond %d %% of a disk", is[i].kind, is[i].rule.Share))
		}
	}
	if to.Limit > 0 && (to.Limit < from.Limit || from.Limit == 0) {
		loses = append(loses, fmt.Sprintf("the oldest days of disks that are used beyond %d %%", to.Limit))
	}
	if len(loses) > 0 && !yes {
		return fmt.Errorf("this removes for good: %s; repeat it with --yes", strings.Join(loses, ", "))
	}
	return nil
}

func newRetentionReset(s streams, t *target) *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "reset", Short: "Give retention back to the configuration of the nodes", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			var a retentionAnswer
			if err := cl.get(c.Context(), "/v1/retention", url.Values{"limit": {"1"}}, &a); err != nil {
				return err
			}
			if err := agreed(&a.Policy, &a.Defaults, yes); err != nil {
				return err
			}
			return cl.call(c.Context(), http.MethodDelete, "/v1/retention", nil, nil)
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "remove at once what the configuration does not keep")
	return c
}
