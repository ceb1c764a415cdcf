package cli

import (
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"
)

type apiTokenAnswer struct {
	Token   string `json:"token"`
	ID      string `json:"id"`
	Name    string `json:"name"`
	Role    string `json:"role"`
	Created int64  `json:"created"`
	Expires int64  `json:"expires"`
	By      string `json:"by"`
	Node    string `json:"node"`
}

func newToken(s streams) *cobra.Command {
	var t target
	c := &cobra.Command{
		Use: "token", Short: "API tokens, with which programs ask and send", Args: cobra.NoArgs, RunE: needSubcommand,
		Long: `Tokens for programs. Those with which agents and nodes join are made by ` + "`triward agents token create`" + ` and
` + "`triward cluster token create`" + `.`,
	}
	t.flags(c)
	c.AddCommand(newTokenList(s, &t), newTokenCreate(s, &t), newTokenRevoke(s, &t))
	return c
}

func newTokenList(s streams, t *target) *cobra.Command {
	var form outputForm
	c := &cobra.Command{
		Use: "list", Short: "List the API tokens", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var answer struct {
				Tokens []apiTokenAnswer `json:"tokens"`
			}
			if shown, err := ask(c, s, t, &form, "/v1/tokens/api", nil, &answer); err != nil || shown {
				return err
			}
			tab := newTable(s.out, "token", "name", "role", "made by", "made", "until")
			for _, a := range answer.Tokens {
				until := timeText(a.Expires)
				if until == "" {
					until = "for ever"
				}
				tab.row(a.ID, a.Name, a.Role, a.By, timeText(a.Created), until)
			}
			return tab.flush()
		},
	}
	form.flag(c)
	return c
}

func newTokenCreate(s streams, t *target) *cobra.Command {
	var form outputForm
	var role string
	var life time.Duration
	c := &cobra.Command{
		Use:   "create NAME",
		Short: "Make an API token and print it once",
		Long: `The token is sent as "Authorization: Bearer TOKEN", or given to this program in TRIWARD_TOKEN. It never has more rights
than whoever made it has at the moment, and ends with that user. The role ingest only sends: remote write, Loki push and
the JSON lists of /monitor.`,
		Example: "  triward token create prometheus --role ingest --ttl 8760h",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			body := map[string]any{"name": args[0], "role": role, "life_s": int64(life.Seconds())}
			var a apiTokenAnswer
			if shown, err := cl.showPost(c.Context(), s, &form, "/v1/tokens/api", body, &a); err != nil || shown {
				return err
			}
			fmt.Fprintln(s.out, a.Token)
			until := "for ever"
			if a.Expires > 0 {
				until = "until " + timeText(a.Expires)
			}
			_, err = fmt.Fprintf(s.err, "token %s, %s, good %s; it is shown this once\n", a.ID, a.Role, until)
			return err
		},
	}
	form.flag(c)
	roleFlag(c, &role, "viewer", personRoles+", or ingest", "viewer", "operator", "administrator", "auditor", "ingest")
	c.Flags().DurationVar(&life, "ttl", 0, "how long it is good for; 0: for ever")
	return c
}

func newTokenRevoke(s streams, t *target) *cobra.Command {
	return &cobra.Command{
		Use: "revoke TOKEN", Short: "End an API token, named by its id in `triward token list`", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			if err := cl.call(c.Context(), http.MethodDelete, "/v1/tokens/api/"+url.PathEscape(args[0]), nil, nil); err != nil {
				return err
			}
			_, err = fmt.Fprintf(s.out, "token %s is revoked\n", args[0])
			return err
		},
	}
}
