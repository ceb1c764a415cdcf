package cli

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"
)

func newUpgrade(s streams) *cobra.Command {
	var t target
	c := &cobra.Command{
		Use: "upgrade", Short: "See how far a rolling upgrade is, and end it", Args: cobra.NoArgs, RunE: needSubcommand,
		Long: `A rolling upgrade installs a new version on one node after the other; each is ready again before the next is stopped.
Versions are mixed meanwhile, and each node can go back to the version before. ` + "`triward upgrade finalize`" + ` ends that: it raises
the format of the cluster's state to what all members know.`,
	}
	t.flags(c)
	c.AddCommand(newUpgradeStatus(s, &t), newUpgradeFinalize(s, &t))
	return c
}

type upgradeAnswer struct {
	Format  uint32 `json:"format"`
	Target  uint32 `json:"target"`
	Blocked string `json:"blocked"`
	Nodes   []struct {
		ID      string `json:"id"`
		Version string `json:"version"`
		Format  uint32 `json:"format"`
	} `json:"nodes"`
}

func newUpgradeStatus(s streams, t *target) *cobra.Command {
	var form outputForm
	c := &cobra.Command{
		Use: "status", Short: "Show the version of each node, the formats it knows and that of the cluster", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			var a upgradeAnswer
			if shown, err := cl.show(c.Context(), s, &form, "/v1/upgrade", nil, &a); err != nil || shown {
				return err
			}
			fmt.Fprintf(s.out, "format of the cluster: %d\n", a.Format)
			switch {
			case a.Blocked != "":
				fmt.Fprintf(s.out, "not to be finalized yet: %s\n", a.Blocked)
			case a.Target > a.Format:
				fmt.Fprintf(s.out, "all members know format %d: `triward upgrade finalize` raises it, and there is no way back to older versions then\n", a.Target)
			default:
				fmt.Fprintln(s.out, "nothing to finalize: every node can go back to any version that knows this format")
			}
			fmt.Fprintln(s.out)
			tab := newTable(s.out, "node", "version", "formats up to")
			for _, n := range a.Nodes {
				known := strconv.FormatUint(uint64(n.Format), 10)
				if n.Format == 0 {
					known = "does not answer"
				}
				tab.row(n.ID, n.Version, known)
			}
			if err := tab.flush(); err != nil {
				return err
			}
			return tellRefusedRules(c.Context(), s, cl)
		},
	}
	form.flag(c)
	return c
}

// tellRefusedRules says how many rules have errors on the node that is asked: a new version may not take what was stored.
func tellRefusedRules(ctx context.Context, s streams, cl *client) error {
	var answer struct {
		Files []struct {
			Error string `json:"error"`
			Rules []struct {
				Error string `json:"error"`
			} `json:"rules"`
		} `json:"files"`
	}
	if err := cl.get(ctx, "/v1/rules", nil, &answer); err != nil {
		return err
	}
	bad := 0
	for _, f := range answer.Files {
		if f.Error != "" {
			bad++
		}
		for _, r := range f.Rules {
			if r.Error != "" {
				bad++
			}
		}
	}
	if bad == 0 {
		return nil
	}
	fmt.Fprintf(s.out, "\n%d rules or files of them have errors as the node that was asked sees them: `triward rules list` says which\n", bad)
	return errWarnings
}

func newUpgradeFinalize(s streams, t *target) *cobra.Command {
	var form outputForm
	var yes bool
	c := &cobra.Command{
		Use:   "finalize",
		Short: "Raise the format of the cluster to what all members know; there is no way back",
		Long: `Raises the format of the cluster's state to the greatest that every member knows, with a vote or without. From then on what
the new version brought is used, and an older version no longer starts on this data. It is refused, naming the node, while
one does not answer or knows less.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			var before, after upgradeAnswer
			if err := cl.get(c.Context(), "/v1/upgrade", nil, &before); err != nil {
				return err
			}
			if before.Target > before.Format && before.Blocked == "" {
				if err := confirmed(s, yes, strconv.FormatUint(uint64(before.Target), 10), fmt.Sprintf("After the format is raised from %d to %d no node can go back to an older version.", before.Format, before.Target)); err != nil {
					return err
				}
			}
			if err := cl.post(c.Context(), "/v1/upgrade/finalize", struct{}{}, &after); err != nil {
				return err
			}
			if form.json() {
				return writeJSON(s.out, after)
			}
			if after.Format == before.Format {
				fmt.Fprintf(s.out, "nothing to finalize: the cluster's format is %d, and no member knows a greater one\n", after.Format)
				return nil
			}
			fmt.Fprintf(s.out, "the cluster's format is %d\n", after.Format)
			return nil
		},
	}
	form.flag(c)
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}
