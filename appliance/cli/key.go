package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

func newKey(s streams) *cobra.Command {
	var t target
	c := &cobra.Command{Use: "key", Short: "See and change the keys that seal the cluster's secrets", Args: cobra.NoArgs, RunE: needSubcommand}
	t.flags(c)
	c.AddCommand(newKeyStatus(s, &t), newKeyRotate(s, &t))
	return c
}

// keyNode is a node's part of the key ring as GET /v1/cluster tells it; nil Keys: it has none.
type keyNode struct {
	Node     string   `json:"node"`
	State    string   `json:"state"` // same, other, none, unknown
	Active   string   `json:"active,omitempty"`
	Keys     []string `json:"keys,omitempty"`
	Recovery string   `json:"recovery,omitempty"`
}

func newKeyStatus(s streams, t *target) *cobra.Command {
	var form outputForm
	c := &cobra.Command{
		Use:   "status",
		Short: "Show which node holds the key ring and whether all hold the same",
		Long: `Shows the names of the keys, never the keys. Every node must hold the same ring, or it cannot open what the others
sealed. A node without one takes it from another by itself. The recovery recipient is the public half of the recovery
key that was printed when the cluster was founded.

Exit code 3: a node has no ring, or another one.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			var a clusterAnswer
			if err := cl.get(c.Context(), "/v1/cluster", nil, &a); err != nil {
				return err
			}
			rows, bad := keyRows(&a)
			if form.json() {
				if err := writeJSON(s.out, map[string]any{"nodes": rows}); err != nil {
					return err
				}
			} else {
				tab := newTable(s.out, "node", "ring", "sealing key", "older keys", "recovery recipient")
				for _, r := range rows {
					older := ""
					if len(r.Keys) > 1 {
						older = strings.Join(r.Keys[1:], " ")
					}
					tab.row(r.Node, r.State, r.Active, older, r.Recovery)
				}
				if err := tab.flush(); err != nil {
					return err
				}
			}
			if len(bad) > 0 {
				return fmt.Errorf("%w: the key ring is not the same everywhere: %s", errWarnings, strings.Join(bad, ", "))
			}
			return nil
		},
	}
	form.flag(c)
	return c
}

// keyRows compares the rings of the nodes with the first that one holds.
func keyRows(a *clusterAnswer) (rows []keyNode, bad []string) {
	var first *ringAnswer
	for i := range a.Nodes {
		n := &a.Nodes[i]
		r := keyNode{Node: n.ID}
		switch {
		case n.Role == "unreachable":
			r.State = "unknown"
			bad = append(bad, n.ID+" does not answer")
		case n.Ring == nil:
			r.State = "none"
			bad = append(bad, n.ID+" has none")
		default:
			r.Active, r.Keys, r.Recovery, r.State = n.Ring.Active, n.Ring.Keys, n.Ring.Recovery, "same"
			if first == nil {
				first = n.Ring
			}
			if n.Ring.Active != first.Active || !slices.Equal(n.Ring.Keys, first.Keys) || n.Ring.Recovery != first.Recovery {
				r.State = "other"
				bad = append(bad, n.ID+" has another")
			}
		}
		rows = append(rows, r)
	}
	return rows, bad
}

func newKeyRotate(s streams, t *target) *cobra.Command {
	var form outputForm
	c := &cobra.Command{
		Use:   "rotate",
		Short: "Make a new key that seals the cluster's secrets, and seal them anew",
		Long: `One node makes the key, every member takes it and confirms, an entry of the log makes it the one that seals, and what was
sealed with older keys is sealed anew. A node that does not answer stops it before anything has changed. Older keys stay in
the ring, and so does the recovery key. Backups made from now on hold the new ring.

Exit code 3: the new key seals, and not everything is sealed anew yet; repeat to go on.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			var done struct {
				Key      string `json:"key"`
				Resealed int    `json:"resealed"`
				Warning  string `json:"warning,omitempty"`
			}
			if err := cl.post(c.Context(), "/v1/keys/rotate", map[string]any{}, &done); err != nil {
				return err
			}
			if form.json() {
				err = writeJSON(s.out, done)
			} else {
				_, err = fmt.Fprintf(s.out, "key %s seals now; %d value(s) sealed anew\n", done.Key, done.Resealed)
			}
			if err == nil && done.Warning != "" {
				return fmt.Errorf("%w: %s", errWarnings, done.Warning)
			}
			return err
		},
	}
	form.flag(c)
	return c
}
