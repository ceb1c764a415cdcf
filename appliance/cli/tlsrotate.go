package cli

import (
	"github.com/spf13/cobra"
)

func newTLSRotate(s streams) *cobra.Command {
	var t target
	c := &cobra.Command{
		Use: "rotate", Short: "Make a new CA for the agents of the cluster", Args: cobra.NoArgs,
		Long: `The new CA signs what agents are given from now on: at enrollment, and when they renew, at the latest when two thirds of
the life of their certificate are over (20 days). The CA before it stays accepted, so that no agent is cut off. Another
rotation is refused until every certificate of the CA before is over, 30 days later; an agent that was off all that time
has to be enrolled anew after it. To shut out one agent now, revoke it.`,
	}
	t.flags(c)
	return asking(s, &t, c, func(c *cobra.Command, cl *client, form *outputForm, _ []string) error {
		var answer struct {
			CAs []struct {
				KeySHA256 string `json:"key_sha256"`
				CreatedAt int64  `json:"created_at"`
				Expires   int64  `json:"expires"`
				Signs     bool   `json:"signs"`
			} `json:"cas"`
		}
		if shown, err := cl.showPost(c.Context(), s, form, "/v1/tls/agents/rotate", struct{}{}, &answer); err != nil || shown {
			return err
		}
		tab := newTable(s.out, "CA of agents", "made", "good until", "")
		for _, ca := range answer.CAs {
			what := "accepted still"
			if ca.Signs {
				what = "signs"
			}
			tab.row(ca.KeySHA256[:min(16, len(ca.KeySHA256))], timeText(ca.CreatedAt), timeText(ca.Expires), what)
		}
		return tab.flush()
	})
}
