package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

// configVersion is a version of a group's configuration.
type configVersion struct {
	Group   string `json:"group"`
	Version uint64 `json:"version"`
	Hash    string `json:"hash"`
	Body    string `json:"body"`
	Author  string `json:"author"`
	At      int64  `json:"at"`
	Note    string `json:"note"`
	From    uint64 `json:"from"`
}

// configCheck is what is wrong with a text, and how it differs from the newest one.
type configCheck struct {
	OK       bool `json:"ok"`
	Problems []struct {
		Line int    `json:"line"`
		Key  string `json:"key"`
		Text string `json:"text"`
	} `json:"problems"`
	Diff []diffLine `json:"diff"`
}

type diffLine struct{ Op, Text string }

const configsPath = "/v1/agent/configs"

func groupPath(group string) string { return configsPath + "/groups/" + url.PathEscape(group) }

func newAgentConfigs(s streams, t *target) *cobra.Command {
	c := &cobra.Command{
		Use: "config", Short: "See and change the configuration of agents by group", Args: cobra.NoArgs, RunE: needSubcommand,
		Long: `Every group of agents may have a configuration: a part of agent.yaml with the keys heartbeat, metrics, logs and journal.
A group without one has that of the group "default". Agents learn of a change by their next sign of life, check it, keep
it on their disk and say what became of it. What agent.yaml of a host sets itself stays as it is there.`,
	}
	c.AddCommand(newConfigGroups(s, t), newConfigGet(s, t), newConfigSet(s, t), newConfigDiff(s, t), newConfigHistory(s, t),
		newConfigRollback(s, t), newConfigRemove(s, t))
	return c
}

func newConfigGroups(s streams, t *target) *cobra.Command {
	c := &cobra.Command{Use: "groups", Short: "List the groups and how many of their agents have the newest version", Args: cobra.NoArgs}
	return asking(s, t, c, func(c *cobra.Command, cl *client, form *outputForm, _ []string) error {
		var answer struct {
			Groups []struct {
				configVersion
				Own    bool           `json:"own"`
				Agents int            `json:"agents"`
				Drift  map[string]int `json:"drift"`
			} `json:"groups"`
		}
		if shown, err := cl.show(c.Context(), s, form, configsPath, nil, &answer); err != nil || shown {
			return err
		}
		tab := newTable(s.out, "group", "version", "agents", "current", "pending", "refused", "changed", "by", "note")
		for _, g := range answer.Groups {
			version := strconv.FormatUint(g.Version, 10)
			switch {
			case g.Version == 0:
				version = "none"
			case !g.Own:
				version += " of default"
			}
			tab.row(g.Group, version, strconv.Itoa(g.Agents), strconv.Itoa(g.Drift["current"]+g.Drift["own"]+g.Drift["none"]), strconv.Itoa(g.Drift["pending"]),
				strconv.Itoa(g.Drift["refused"]), timeText(g.At), printable(g.Author), printable(g.Note))
		}
		return tab.flush()
	})
}

func newConfigGet(s streams, t *target) *cobra.Command {
	var version uint64
	c := &cobra.Command{Use: "get GROUP", Short: "Print the configuration of a group", Args: cobra.ExactArgs(1)}
	c.Flags().Uint64Var(&version, "version", 0, "another version than the newest")
	return asking(s, t, c, func(c *cobra.Command, cl *client, form *outputForm, args []string) error {
		var v configVersion
		if shown, err := cl.show(c.Context(), s, form, groupPath(args[0]), versionQuery("version", version), &v); err != nil || shown {
			return err
		}
		if v.Version == 0 {
			return fmt.Errorf("group %s has no configuration of its own: its agents have that of the group default", args[0])
		}
		fmt.Fprintf(s.err, "version %d of group %s, %s by %s\n", v.Version, v.Group, timeText(v.At), printable(v.Author))
		_, err := io.WriteString(s.out, v.Body)
		return err
	})
}

func versionQuery(name string, version uint64) url.Values {
	return url.Values{name: {strconv.FormatUint(version, 10)}}
}

// newest is the version that a change replaces: the one named, else the newest; 0 when there is none.
func (c *client) newest(ctx context.Context, group string, cmd *cobra.Command, named uint64) (uint64, error) {
	if cmd.Flags().Changed("version") {
		return named, nil
	}
	var v configVersion
	err := c.get(ctx, groupPath(group), nil, &v)
	return v.Version, err
}

func newConfigSet(s streams, t *target) *cobra.Command {
	var version uint64
	var note string
	var check bool
	c := &cobra.Command{
		Use: "set GROUP FILE", Short: "Make a file the configuration of a group; - reads standard input", Args: cobra.ExactArgs(2),
		Long: `The text is checked as every agent checks it: what is wrong is named by line and key, and nothing is changed. Give
--version with the one that was read when others may change it at the same time.`,
	}
	c.Flags().Uint64Var(&version, "version", 0, "the version that is replaced; the newest when left out")
	c.Flags().StringVar(&note, "note", "", "why, for the history")
	c.Flags().BoolVar(&check, "check", false, "only say what is wrong and what would change")
	return asking(s, t, c, func(c *cobra.Command, cl *client, form *outputForm, args []string) error {
		body, err := readDocument(args[1], s.in)
		if err != nil {
			return err
		}
		var raw json.RawMessage
		if err := cl.post(c.Context(), configsPath+"/check", map[string]any{"body": string(body), "group": args[0]}, &raw); err != nil {
			return err
		}
		var checked configCheck
		if err := json.Unmarshal(raw, &checked); err != nil {
			return fmt.Errorf("answer of %s/check: %w", configsPath, err)
		}
		for _, p := range checked.Problems {
			place := args[1]
			if p.Line > 0 {
				place += ":" + strconv.Itoa(p.Line)
			}
			if p.Key != "" {
				place += ": " + p.Key
			}
			fmt.Fprintf(s.err, "%s: %s\n", place, printable(p.Text))
		}
		if !checked.OK {
			return fmt.Errorf("%s cannot be used: %d problems; nothing was changed", args[1], len(checked.Problems))
		}
		if check {
			if form.json() {
				return writeJSON(s.out, raw)
			}
			return printDiff(s.out, checked.Diff)
		}
		base, err := cl.newest(c.Context(), args[0], c, version)
		if err != nil {
			return err
		}
		if err := cl.put(c.Context(), groupPath(args[0]), map[string]any{"body": string(body), "version": base, "note": note}, &raw); err != nil {
			return err
		}
		return printChanged(s, form, raw)
	})
}

func printChanged(s streams, form *outputForm, raw json.RawMessage) error {
	if form.json() {
		return writeJSON(s.out, raw)
	}
	var v configVersion
	if err := json.Unmarshal(raw, &v); err != nil {
		return fmt.Errorf("answer of the change: %w", err)
	}
	_, err := fmt.Fprintf(s.out, "group %s has version %d; agents take it within half a minute (triward agents list)\n", v.Group, v.Version)
	return err
}

func printDiff(w io.Writer, lines []diffLine) error {
	if len(lines) == 0 {
		_, err := fmt.Fprintln(w, "no difference")
		return err
	}
	for _, l := range lines {
		text := l.Op + printable(l.Text)
		if l.Op == "@" {
			text = "@@ line " + l.Text + " @@"
		}
		if _, err := fmt.Fprintln(w, text); err != nil {
			return err
		}
	}
	return nil
}

func newConfigDiff(s streams, t *target) *cobra.Command {
	var from, to uint64
	c := &cobra.Command{Use: "diff GROUP", Short: "Show what the newest version changed, or how two versions differ", Args: cobra.ExactArgs(1)}
	c.Flags().Uint64Var(&from, "from", 0, "the earlier version; the one before --to when left out")
	c.Flags().Uint64Var(&to, "to", 0, "the later version; the newest when left out")
	return asking(s, t, c, func(c *cobra.Command, cl *client, form *outputForm, args []string) error {
		q := versionQuery("from", from)
		q.Set("to", strconv.FormatUint(to, 10))
		var answer struct {
			Diff []diffLine `json:"diff"`
		}
		if shown, err := cl.show(c.Context(), s, form, groupPath(args[0])+"/diff", q, &answer); err != nil || shown {
			return err
		}
		return printDiff(s.out, answer.Diff)
	})
}

func newConfigHistory(s streams, t *target) *cobra.Command {
	c := &cobra.Command{Use: "history GROUP", Short: "List the versions of a group's configuration", Args: cobra.ExactArgs(1)}
	return asking(s, t, c, func(c *cobra.Command, cl *client, form *outputForm, args []string) error {
		var answer struct {
			Versions []configVersion `json:"versions"`
		}
		if shown, err := cl.show(c.Context(), s, form, groupPath(args[0])+"/history", nil, &answer); err != nil || shown {
			return err
		}
		tab := newTable(s.out, "version", "changed", "by", "hash", "note")
		for _, v := range answer.Versions {
			tab.row(strconv.FormatUint(v.Version, 10), timeText(v.At), printable(v.Author), v.Hash, printable(v.Note))
		}
		return tab.flush()
	})
}

func newConfigRollback(s streams, t *target) *cobra.Command {
	var version uint64
	var note string
	c := &cobra.Command{
		Use: "rollback GROUP VERSION", Short: "Make the text of an earlier version the newest one", Args: cobra.ExactArgs(2),
	}
	c.Flags().Uint64Var(&version, "version", 0, "the version that is replaced; the newest when left out")
	c.Flags().StringVar(&note, "note", "", "why, for the history")
	return asking(s, t, c, func(c *cobra.Command, cl *client, form *outputForm, args []string) error {
		to, err := strconv.ParseUint(args[1], 10, 53)
		if err != nil || to == 0 {
			return fmt.Errorf("version %q: want the number of an earlier one (triward agents config history %s)", args[1], args[0])
		}
		base, err := cl.newest(c.Context(), args[0], c, version)
		if err != nil {
			return err
		}
		var raw json.RawMessage
		if err := cl.post(c.Context(), groupPath(args[0])+"/rollback", map[string]any{"to": to, "version": base, "note": note}, &raw); err != nil {
			return err
		}
		return printChanged(s, form, raw)
	})
}

func newConfigRemove(s streams, t *target) *cobra.Command {
	var version uint64
	c := &cobra.Command{
		Use:   "remove GROUP",
		Short: "Remove a group's configuration and its history: its agents have that of the group default then",
		Args:  cobra.ExactArgs(1),
	}
	c.Flags().Uint64Var(&version, "version", 0, "the version that is removed; the newest when left out")
	c.RunE = func(c *cobra.Command, args []string) error {
		cl, err := t.client()
		if err != nil {
			return err
		}
		base, err := cl.newest(c.Context(), args[0], c, version)
		if err != nil {
			return err
		}
		if err := cl.call(c.Context(), "DELETE", groupPath(args[0])+"?"+versionQuery("version", base).Encode(), nil, nil); err != nil {
			return err
		}
		_, err = fmt.Fprintf(s.out, "group %s has no configuration of its own any more\n", args[0])
		return err
	}
	return c
}

func newAgentsSetGroup(s streams, t *target) *cobra.Command {
	return &cobra.Command{
		Use: "set-group GROUP AGENT...", Short: "Put agents into a group; it need not have a configuration", Args: cobra.MinimumNArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			for _, id := range args[1:] {
				if err := cl.put(c.Context(), "/v1/agents/"+url.PathEscape(id)+"/group", map[string]string{"group": args[0]}, nil); err != nil {
					return fmt.Errorf("agent %s: %w", id, err)
				}
				if _, err := fmt.Fprintf(s.out, "agent %s is in group %s\n", id, args[0]); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// agentCondition is how an agent stands, as parts of a table.
type agentCondition struct {
	SpoolBytes   *int64 `json:"spool_bytes"`
	SpoolBatches *int64 `json:"spool_batches"`
	SpoolLimit   *int64 `json:"spool_limit"`
	LagMS        *int64 `json:"lag_ms"`
	ClockOffset  *int64 `json:"clock_offset_ms"`
	LostItems    int64  `json:"lost_items"`
	Config       struct {
		Drift         string   `json:"drift"`
		WantedGroup   string   `json:"wanted_group"`
		WantedVersion uint64   `json:"wanted_version"`
		Group         string   `json:"group"`
		Version       uint64   `json:"version"`
		Error         string   `json:"error"`
		Own           []string `json:"own"`
	} `json:"config"`
}

// drift is the state of the configuration in a word, with the versions where they differ.
func (c *agentCondition) drift() string {
	k := &c.Config
	switch k.Drift {
	case "current":
		return fmt.Sprintf("current %d", k.WantedVersion)
	case "own":
		return fmt.Sprintf("current %d, %d own", k.WantedVersion, len(k.Own))
	case "pending", "refused":
		return fmt.Sprintf("%s %d (has %d)", k.Drift, k.WantedVersion, k.Version)
	case "none":
		return ""
	}
	return k.Drift
}

// spanText is a span of milliseconds; "" when unknown.
func spanText(ms *int64) string {
	if ms == nil {
		return ""
	}
	text := strings.TrimSuffix(strconv.FormatFloat(float64(*ms)/1000, 'f', 1, 64), ".0")
	if text == "-0" {
		text = "0"
	}
	return text + "s"
}

func (c *agentCondition) spool() string {
	if c.SpoolBytes == nil {
		return ""
	}
	return bytesText(*c.SpoolBytes)
}

// waiting is what waits on the host for the cluster.
func (c *agentCondition) waiting() string {
	if c.SpoolBytes == nil || c.SpoolBatches == nil || c.SpoolLimit == nil {
		return ""
	}
	return fmt.Sprintf("%d batches, %s on disk of %s", *c.SpoolBatches, bytesText(*c.SpoolBytes), bytesText(*c.SpoolLimit))
}

func countText(n int64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatInt(n, 10)
}

func groupText(group string) string {
	if group == "" {
		return "default"
	}
	return group
}
