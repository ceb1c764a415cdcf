package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/spf13/cobra"
)

// memberChange is the answer to a change of the members.
type memberChange struct {
	Node      string `json:"node"`
	Leader    string `json:"leader"`
	Voters    int    `json:"voters"`
	Tolerates int    `json:"tolerates"`
	Note      string `json:"note"`
	Pending   string `json:"pending"`
}

// membershipCommands change who is a member, who votes and who leads.
func membershipCommands(s streams, t *target) []*cobra.Command {
	return []*cobra.Command{newClusterTransfer(s, t), newClusterRemove(s, t), newClusterPromote(s, t), newClusterDemote(s, t)}
}

// changeMembers asks for a change and prints how the cluster is then.
func changeMembers(c *cobra.Command, t *target, form *outputForm, s streams, path string, body any, done string) error {
	cl, err := t.client()
	if err != nil {
		return err
	}
	var a memberChange
	if shown, err := cl.showPost(c.Context(), s, form, path, body, &a); err != nil || shown {
		return err
	}
	fmt.Fprintf(s.out, "%s; %d voter(s), %d of them may fail at once\n", done, a.Voters, a.Tolerates)
	for _, more := range []string{a.Pending, a.Note} {
		if more != "" {
			fmt.Fprintf(s.err, "note: %s\n", more)
		}
	}
	return nil
}

func nodePath(id, verb string) string { return "/v1/cluster/nodes/" + url.PathEscape(id) + "/" + verb }

func newClusterTransfer(s streams, t *target) *cobra.Command {
	var form outputForm
	c := &cobra.Command{
		Use:     "transfer-leader [NODE]",
		Short:   "Have another node lead, before work on the one that does",
		Long:    `Hands leadership to the voter named, or to any that has caught up. Writes wait for well under a second.`,
		Example: "  triward cluster transfer-leader\n  triward cluster transfer-leader n2",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			body, done := map[string]string{}, "another node leads"
			if len(args) > 0 {
				body["to"], done = args[0], "node "+args[0]+" leads"
			}
			return changeMembers(c, t, &form, s, "/v1/cluster/transfer-leader", body, done)
		},
	}
	form.flag(c)
	return c
}

func newClusterRemove(s streams, t *target) *cobra.Command {
	var form outputForm
	var yes bool
	c := &cobra.Command{
		Use:   "remove NODE",
		Short: "Take a node out of the cluster for good",
		Long: `Takes a node out: one that is to go, or one that is lost and will not come back. It need not be up. A node that leads hands
leadership over first. It is refused, with the reason, when those who stay and answer would be no majority.

The node is told when it next asks, ends, and does not start again: its certificate no longer lets it in. Its machine can
join again later with a new token: ` + "`triward cluster join --discard-data`" + `. A removed machine still holds the cluster's
keys until its TLS directory is deleted there.`,
		Example: "  triward cluster remove n3\n  triward cluster remove n3 --yes",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := confirmed(s, yes, args[0], "Removing node "+args[0]+" cannot be undone: to come back it joins anew and takes everything from the others."); err != nil {
				return err
			}
			return changeMembers(c, t, &form, s, nodePath(args[0], "remove"), struct{}{}, "node "+args[0]+" is no member any more")
		},
	}
	form.flag(c)
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

func newClusterPromote(s streams, t *target) *cobra.Command {
	var form outputForm
	c := &cobra.Command{
		Use:   "promote NODE",
		Short: "Let a read-only node have a vote as soon as it has caught up",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return changeMembers(c, t, &form, s, nodePath(args[0], "promote"), struct{}{}, "node "+args[0]+" is to have a vote")
		},
	}
	form.flag(c)
	return c
}

func newClusterDemote(s streams, t *target) *cobra.Command {
	var form outputForm
	c := &cobra.Command{
		Use:   "demote NODE",
		Short: "Take a node's vote away: it goes on receiving everything and answering reads",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return changeMembers(c, t, &form, s, nodePath(args[0], "demote"), struct{}{}, "node "+args[0]+" has no vote")
		},
	}
	form.flag(c)
	return c
}

// errNotConfirmed says that nothing was done.
var errNotConfirmed = errors.New("not confirmed: nothing was done")

// confirmed has a person type what is at stake, unless yes says that this was done elsewhere.
func confirmed(s streams, yes bool, word, warning string) error {
	if yes {
		return nil
	}
	if !isTerminal(s.in) {
		return fmt.Errorf("%s Confirm with --yes", warning)
	}
	fmt.Fprintf(s.err, "%s\nType %s to go on: ", warning, word)
	line, err := bufio.NewReader(io.LimitReader(s.in, 1<<10)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read confirmation: %w", err)
	}
	if strings.TrimSpace(line) != word {
		return errNotConfirmed
	}
	return nil
}
