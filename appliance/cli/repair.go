package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/triward/triward/agent/owner"
	"github.com/triward/triward/appliance"
	"github.com/triward/triward/appliance/repair"
)

// nodeRepair is what a node says of damage to its data.
type nodeRepair struct {
	State   string `json:"state"`
	Doing   string `json:"doing"`
	Done    int64  `json:"done_bytes"`
	Total   int64  `json:"total_bytes"`
	Refused string `json:"refused"`
	Damage  []struct {
		Part    string `json:"part"`
		Place   string `json:"place"`
		FoundAt int64  `json:"found_at"`
	} `json:"damage"`
	More int `json:"more"`
}

// printRepairs says which nodes are damaged and what is done about it.
func printRepairs(w io.Writer, nodes []clusterNode) {
	for i := range nodes {
		n, r := &nodes[i], nodes[i].Repair
		if r == nil || r.State == repair.StateWhole {
			continue
		}
		fmt.Fprintf(w, "\n%s: data %s", n.ID, r.State)
		if r.Doing != "" {
			fmt.Fprintf(w, ": %s", r.Doing)
		}
		if r.Total > 0 {
			fmt.Fprintf(w, ", %s of %s", bytesText(r.Done), bytesText(r.Total))
		}
		fmt.Fprintln(w)
		for _, d := range r.Damage {
			fmt.Fprintf(w, "  %s: %s, found %s\n", d.Part, d.Place, stamp(d.FoundAt))
		}
		if r.More > 0 {
			fmt.Fprintf(w, "  and %d more places\n", r.More)
		}
		if r.Refused != "" {
			fmt.Fprintf(w, "  not repaired yet: %s\n", r.Refused)
		}
	}
}

func newClusterRepair(s streams, t *target) *cobra.Command {
	var from, node, path string
	var offline, recheck bool
	c := &cobra.Command{
		Use: "repair --node NODE (--from NODE | --recheck)", Short: "Have a damaged node take its data from a node that you name, or read again what it calls damaged", Args: cobra.NoArgs,
		Long: `Nodes repair themselves: one that finds damage takes the state of a member that is whole. Only where the same data is
damaged on a majority is that refused until somebody decides which node is right; that is what this is for. The node
that is named compares what it holds with what the cluster accepted, and gives nothing when it differs.

With --recheck the node reads again all its files and the days that it calls damaged, compares them with what was accepted,
and lets go of damage that it does not find any more. While it reads, answers over these days are not marked. Use it when
nodes call data damaged that is not, or repairs did not help.

The order is kept until the repair is done, and written into the audit log. A node that does not start because of its
damage, in a cluster without a majority, is told with --offline, on its own machine: the order is read at its next start.`,
		Example: "  triward cluster repair --node n2 --from n3\n  triward cluster repair --node n2 --recheck\n  triward cluster repair --offline --from n3",
	}
	c.Flags().StringVar(&from, "from", "", "node whose data is right")
	c.Flags().StringVar(&node, "node", "", "damaged node; not with --offline")
	c.Flags().BoolVar(&recheck, "recheck", false, "read again what is called damaged, and let go of what is not; in place of --from")
	c.Flags().BoolVar(&offline, "offline", false, "leave the order in the data directory of the node on this machine")
	configFlag(c, &path)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if recheck {
			if node == "" || from != "" || offline {
				return errors.New("--recheck takes --node, and neither --from nor --offline")
			}
			return orderRecheck(c, s, t, node)
		}
		if from == "" || offline == (node != "") {
			return errors.New("name the node whose data is right with --from, and the damaged one with --node or, on its own machine, --offline")
		}
		if offline {
			return orderOffline(s, path, from)
		}
		cl, err := t.client()
		if err != nil {
			return err
		}
		if err := cl.post(c.Context(), "/v1/cluster/repair", map[string]string{"node": node, "from": from}, nil); err != nil {
			return err
		}
		fmt.Fprintf(s.out, "node %s takes its data from node %s; `triward cluster status` shows how far it is\n", node, from)
		return nil
	}
	return c
}

func orderRecheck(c *cobra.Command, s streams, t *target, node string) error {
	cl, err := t.client()
	if err != nil {
		return err
	}
	if err := cl.post(c.Context(), "/v1/cluster/repair", map[string]any{"node": node, "recheck": true}, nil); err != nil {
		return err
	}
	fmt.Fprintf(s.out, "node %s reads again what it calls damaged; `triward cluster status` shows what is left\n", node)
	return nil
}

func newClusterScrub(s streams, t *target) *cobra.Command {
	c := &cobra.Command{
		Use: "scrub", Short: "Have a node look for damage in all that it keeps, now", Args: cobra.NoArgs,
		Long: `Has the node that is asked (--addr) read all it keeps and compare it with checksums and with what was accepted, as
each node does by itself from time to time (scrub.every). It returns at once; damage is repaired by itself, and shows in
` + "`triward cluster status`" + ` and as an event.`,
		RunE: func(c *cobra.Command, _ []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			if err := cl.post(c.Context(), "/v1/cluster/scrub", nil, nil); err != nil {
				return err
			}
			fmt.Fprintln(s.out, "the node looks for damage; `triward cluster status` shows what it finds")
			return nil
		},
	}
	return c
}

func orderOffline(s streams, path, from string) error {
	cfg, err := appliance.LoadConfig(path)
	if err != nil {
		return err
	}
	if err := cfg.Resolve(); err != nil {
		return err
	}
	if err := cfg.Initialised(); err != nil {
		return err
	}
	if strings.EqualFold(from, cfg.NodeID) {
		return errors.New("a node cannot be repaired from itself")
	}
	if err := owner.Become(cfg.DataDir, serviceUser); err != nil {
		return err
	}
	if err := repair.WriteOrder(cfg.DataDir, from); err != nil {
		return err
	}
	fmt.Fprintf(s.out, "node %s takes its data from node %s when it starts; start it again: %s\n", cfg.NodeID, from, startCommand(path))
	return nil
}
