package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// errDiffers says that the nodes do not hold the same.
var errDiffers = errors.New("the nodes differ")

type verifyRequest struct {
	Deep  bool     `json:"deep,omitempty"`
	Kinds []string `json:"kinds,omitempty"`
	From  int64    `json:"from,omitempty"`
	To    int64    `json:"to,omitempty"`
}

type verifyDay struct {
	Kind    string `json:"kind"`
	Day     int64  `json:"day"`
	Verdict string `json:"verdict"`
	Count   uint64 `json:"count"`
	Want    uint64 `json:"want"`
	Error   string `json:"error"`
}

type verifyAnswer struct {
	Name    string `json:"name"`
	Verdict string `json:"verdict"`
	Index   uint64 `json:"index"`
	Digest  string `json:"digest"`
	State   string `json:"state"`
	Days    int    `json:"days"`
	Items   uint64 `json:"items"`
	Nodes   []struct {
		Node     string      `json:"node"`
		Answered bool        `json:"answered"`
		Error    string      `json:"error"`
		Done     int         `json:"done"`
		All      int         `json:"all"`
		Doing    string      `json:"doing"`
		Read     int64       `json:"read"`
		Equal    int         `json:"equal"`
		Days     []verifyDay `json:"days"`
	} `json:"nodes"`
	Differences []struct {
		What  string            `json:"what"`
		Kind  string            `json:"kind"`
		Day   int64             `json:"day"`
		Table string            `json:"table"`
		Key   string            `json:"key"`
		Nodes map[string]string `json:"nodes"`
		Odd   []string          `json:"odd"`
	} `json:"differences"`
	Notes []string `json:"notes"`
}

func newClusterVerify(s streams, t *target) *cobra.Command {
	var form outputForm
	var r verifyRequest
	var from, to string
	c := &cobra.Command{
		Use:   "verify",
		Short: "Compare what all nodes hold at one index of the log",
		Long: `Has every node record at exactly one entry of the log what it holds, and compares that: the digests of all samples, lines
and events by kind and day, and the hash of the metadata (users, rules, alerts and the rest). What differs is named: the
node, the kind, the day, the records of the metadata.

With --deep every node also reads all its files and compares them with their checksums, and reads what its stores answer
about those kinds and days and compares it with what was accepted. That takes as long as reading it takes (scrub.verify_rate of the nodes). A day to which data comes all the
while, as the present one, cannot be read so: it is said, and compared by the digests only. A node that reads nothing more for
ten minutes, or reads for a day, is not waited for.

Exit codes: 0 equal, 1 something differs, 3 a node did not answer or could not read everything.`,
		Example: "  triward cluster verify\n  triward cluster verify --deep --kind metrics --from now-7d --to now-1d -o json",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var err error
			if r.From, err = optionalTime(from); err != nil {
				return fmt.Errorf("--from: %w", err)
			}
			if r.To, err = optionalTime(to); err != nil {
				return fmt.Errorf("--to: %w", err)
			}
			a, raw, err := verifyCluster(c.Context(), s, t, r, !form.json())
			if err != nil {
				return err
			}
			if form.json() {
				err = writeJSON(s.out, raw)
			} else {
				err = printVerify(s, a, r.Deep)
			}
			switch {
			case err != nil:
				return err
			case a.Verdict == "differs":
				return errDiffers
			case a.Verdict != "equal":
				return errWarnings
			}
			return nil
		},
	}
	form.flag(c)
	f := c.Flags()
	f.BoolVar(&r.Deep, "deep", false, "every node reads what it stores and compares it with what was accepted")
	f.StringSliceVar(&r.Kinds, "kind", nil, "metrics, logs or events; all when absent")
	f.StringVar(&from, "from", "", "days from this time on: RFC 3339, Unix seconds, now-7d")
	f.StringVar(&to, "to", "", "days before this time")
	_ = c.RegisterFlagCompletionFunc("kind", cobra.FixedCompletions([]string{"metrics", "logs", "events"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

func optionalTime(text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	t, err := parseTime(text, time.Now())
	return t.UnixMilli(), err
}

// verifyPoll is how often the node is asked, verifyTell how often a line is written.
const (
	verifyPoll = 300 * time.Millisecond
	verifyTell = 2 * time.Second
)

// verifyCluster begins a comparison and waits for its end.
func verifyCluster(ctx context.Context, s streams, t *target, r verifyRequest, tell bool) (*verifyAnswer, json.RawMessage, error) {
	cl, err := t.client()
	if err != nil {
		return nil, nil, err
	}
	var a verifyAnswer
	if err := cl.post(ctx, "/v1/cluster/verify", r, &a); err != nil {
		return nil, nil, err
	}
	told, toldAt := "", time.Time{}
	for {
		var raw json.RawMessage
		if err := cl.get(ctx, "/v1/cluster/verify/"+url.PathEscape(a.Name), nil, &raw); err != nil {
			return nil, nil, err
		}
		a = verifyAnswer{}
		if err := json.Unmarshal(raw, &a); err != nil {
			return nil, nil, fmt.Errorf("answer of /v1/cluster/verify: %w", err)
		}
		if a.Verdict != "running" {
			return &a, raw, nil
		}
		if now := verifyProgress(&a); tell && now != told && now != "" && time.Since(toldAt) > verifyTell {
			told, toldAt = now, time.Now()
			fmt.Fprintln(s.err, now)
		}
		wait := time.NewTimer(verifyPoll)
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return nil, nil, ctx.Err()
		}
	}
}

func verifyProgress(a *verifyAnswer) string {
	var parts []string
	for _, n := range a.Nodes {
		switch {
		case n.Doing != "" && n.Doing != "days":
			parts = append(parts, fmt.Sprintf("%s %s (%d MiB)", n.Node, n.Doing, n.Read>>20))
		case n.All > 0:
			parts = append(parts, fmt.Sprintf("%s %d of %d days (%d MiB)", n.Node, n.Done, n.All, n.Read>>20))
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return "read: " + strings.Join(parts, ", ")
}

func printVerify(s streams, a *verifyAnswer, deep bool) error {
	fmt.Fprintf(s.out, "at entry %d: %s\n", a.Index, map[string]string{
		"equal": "all nodes hold the same", "differs": "the nodes differ", "incomplete": "what could be compared is the same",
	}[a.Verdict])
	fmt.Fprintf(s.out, "compared   %d items of %d kinds and days\n", a.Items, a.Days)
	if a.Digest != "" {
		fmt.Fprintf(s.out, "digest     %s\nstate      %s\n", a.Digest, a.State)
	}
	fmt.Fprintln(s.out)
	heads := []string{"node", "answer"}
	if deep {
		heads = append(heads, "stored as accepted", "not compared")
	}
	tab := newTable(s.out, heads...)
	for _, n := range a.Nodes {
		answer := "recorded"
		if !n.Answered {
			answer = "none"
		}
		if n.Error != "" {
			answer += ": " + n.Error
		}
		row := []string{n.Node, answer}
		if deep {
			left := 0
			for _, d := range n.Days {
				if d.Verdict != "differs" && d.Verdict != "damaged" {
					left++
				}
			}
			row = append(row, strconv.Itoa(n.Equal), strconv.Itoa(left))
		}
		tab.row(row...)
	}
	if err := tab.flush(); err != nil {
		return err
	}
	return printDifferences(s, a)
}

func printDifferences(s streams, a *verifyAnswer) error {
	if len(a.Differences) > 0 {
		fmt.Fprintln(s.out)
		tab := newTable(s.out, "differs", "nodes", "what each holds")
		for _, d := range a.Differences {
			what := "metadata"
			switch {
			case d.Kind != "":
				what = d.Kind + " of " + time.UnixMilli(d.Day*dayMs).UTC().Format(time.DateOnly)
				if d.What == "store" {
					what = "stored " + what
				}
			case d.What == "file":
				what = "damaged " + d.Table + " " + d.Key
			case d.Table != "":
				what = strings.TrimSpace("metadata " + d.Table + " " + d.Key)
			}
			var each []string
			for node, v := range d.Nodes {
				each = append(each, node+": "+v)
			}
			slices.Sort(each)
			tab.row(what, strings.Join(d.Odd, ", "), strings.Join(each, "; "))
		}
		if err := tab.flush(); err != nil {
			return err
		}
	}
	for _, n := range a.Nodes {
		for _, d := range n.Days {
			if d.Verdict == "changing" || d.Verdict == "partial" {
				fmt.Fprintf(s.out, "\n%s: %s of %s is %s: compared by the digest only", n.Node, d.Kind, time.UnixMilli(d.Day*dayMs).UTC().Format(time.DateOnly), d.Verdict)
			}
		}
	}
	for _, n := range a.Notes {
		fmt.Fprintf(s.out, "\n%s", n)
	}
	if len(a.Notes) > 0 {
		fmt.Fprintln(s.out)
	}
	return nil
}
