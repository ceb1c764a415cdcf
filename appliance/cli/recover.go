package cli

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/user"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/triward/triward/agent/owner"
	"github.com/triward/triward/appliance"
)

func newClusterRecover(s streams) *cobra.Command {
	var path string
	var yes, cut bool
	c := &cobra.Command{
		Use:   "recover",
		Short: "Go on with this node alone when the majority of the cluster is lost for good",
		Long: `For the day on which more than half of the voters are lost and will not come back. Run on a node that is left and
stopped, it makes this node the only member of its cluster, which goes on from everything that this node holds.

What it costs: what the lost nodes had acknowledged and this node had not yet received is lost, data and changes alike: a user
who was removed or a token that was revoked in the last moments may be there again. Sessions, invitations and join tokens
end. The members that are given up cannot come back with what they have; their machines join anew, emptied.

A node whose log is damaged at its end is refused; with --cut-damaged-log it goes on without what comes from there on, which it
says. Restore a backup instead where that is newer.

If several nodes are left, choose the one whose log reaches furthest: the command prints how far that is and changes
nothing before it is confirmed. If a majority can still be started, start it instead. Run by root, it acts as the user that
owns data_dir.`,
		Example: "  systemctl stop triward\n  triward cluster recover",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			by := operatorName()
			cfg, err := appliance.LoadConfig(path)
			if err != nil {
				return err
			}
			if err := cfg.Resolve(); err != nil {
				return err
			}
			if err := owner.Become(cfg.DataDir, serviceUser); err != nil {
				return err
			}
			plan, err := cfg.PlanRecovery(c.Context())
			if err != nil {
				return err
			}
			if err := plan.Agreed(cut); err != nil {
				return err
			}
			sayRecovery(s.out, &cfg, plan)
			if err := confirmed(s, yes, plan.Cluster, "This cannot be undone."); err != nil {
				return err
			}
			log := slog.New(slog.NewTextHandler(s.err, &slog.HandlerOptions{Level: slog.LevelWarn}))
			if err := appliance.Recover(c.Context(), cfg, by, cut, log, func(name string) { fmt.Fprintln(s.err, name) }); err != nil {
				return err
			}
			with := withConfig(path)
			fmt.Fprintf(s.out, "node %s is the only member of cluster %s\n", cfg.NodeID, plan.Cluster)
			fmt.Fprintf(s.err, "\nWhat comes next:\n\n  %s\n  %striward cluster token create   # for each machine that is to join, emptied\n", startCommand(path), with.env)
			return nil
		},
	}
	configFlag(c, &path)
	c.Flags().BoolVar(&cut, "cut-damaged-log", false, "give up the entries at the end of this node's log that are damaged, acknowledged ones among them")
	c.Flags().BoolVar(&yes, "yes-lose-unreplicated", false, "do not ask: what only the lost nodes had is lost")
	return c
}

// operatorName is who runs this command, by the system's word.
func operatorName() string {
	if name := os.Getenv("SUDO_USER"); name != "" {
		return name
	}
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return fmt.Sprintf("uid %d", os.Getuid())
}

// sayRecovery spells out what a recovery would do.
func sayRecovery(w io.Writer, cfg *appliance.Config, p *appliance.RecoveryPlan) {
	newest := max(p.LogTime, p.LastStamp)
	fmt.Fprintf(w, "node %s of cluster %s holds the log up to entry %d, of %s\n", cfg.NodeID, p.Cluster, p.Last, time.UnixMilli(newest).UTC().Format(time.RFC3339))
	if n := p.Unapplied(); n > 0 {
		fmt.Fprintf(w, "  %d entries of it are not in its stores yet; they are kept and applied\n", n)
	}
	if p.Again {
		fmt.Fprintln(w, "  a recovery was begun here before and is gone on with")
	}
	if p.Damage != "" {
		fmt.Fprintf(w, "  its log is damaged: %s; it is cut before entry %d\n", p.Damage, p.Cut)
	}
	for _, m := range p.Lost {
		part := "read-only"
		if m.Voter {
			part = "voter"
		}
		fmt.Fprintf(w, "  given up: %s (%s, %s)\n", m.ID, part, m.Addr)
	}
	fmt.Fprintln(w, "lost for good:")
	if p.Damage != "" {
		fmt.Fprintf(w, "  %d entries that this node held from %d on, acknowledged ones among them\n", p.GivenUp, p.Cut)
	}
	fmt.Fprint(w, `  what the members given up had acknowledged and this node had not received: data, and changes of users, tokens and rules
  sessions, invitations and join tokens
never switch on two of those given up again before they are emptied: where they
do not reach this node, which ends them, they would go on together as the cluster of before
`)
	if len(p.Answering) > 0 {
		fmt.Fprintf(w, "these answer now: %s. Stop them: they are refused from now on\n", strings.Join(p.Answering, ", "))
	}
}
