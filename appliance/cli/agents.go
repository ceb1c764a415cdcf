package cli

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

type agentAnswer struct {
	ID       string   `json:"agent_id"`
	Hostname string   `json:"hostname"`
	State    string   `json:"state"`
	OS       string   `json:"os"`
	Version  string   `json:"version"`
	IPs      []string `json:"ips"`
	LastBeat int64    `json:"heartbeat_at"`
	LastData int64    `json:"last_sample"`
	Group    string   `json:"group"`
	Created  int64    `json:"created_at"`

	CertExpires int64  `json:"cert_expires"`
	CertSerial  string `json:"cert_serial"`
	Revoked     bool   `json:"revoked"`
	RevokedAt   int64  `json:"revoked_at"`
	RevokedBy   string `json:"revoked_by"`
	agentCondition
}

// state is the agent's state as a word; revoked comes before all others.
func (a *agentAnswer) state() string {
	if a.Revoked {
		return "revoked"
	}
	return a.State
}

// timeText is a time in milliseconds since 1970; "" for 0.
func timeText(ms int64) string {
	if ms == 0 {
		return ""
	}
	return time.UnixMilli(ms).Format("2006-01-02 15:04:05")
}

func newAgents(s streams) *cobra.Command {
	var t target
	c := &cobra.Command{Use: "agents", Short: "See the agents and let new ones in", Args: cobra.NoArgs, RunE: needSubcommand}
	t.flags(c)
	c.AddCommand(newAgentsList(s, &t), newAgentsShow(s, &t), newAgentsRevoke(s, &t), newAgentsSetGroup(s, &t), newAgentConfigs(s, &t), newTokenGroup(s, &t, "agent"))
	return c
}

func newAgentsList(s streams, t *target) *cobra.Command {
	var form outputForm
	c := &cobra.Command{
		Use:   "list",
		Short: "List the agents",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			var answer struct {
				Agents []agentAnswer `json:"agents"`
			}
			if shown, err := cl.show(c.Context(), s, &form, "/v1/agents", nil, &answer); err != nil || shown {
				return err
			}
			tab := newTable(s.out, "agent", "host", "state", "group", "version", "config", "clock", "spool", "lag", "last seen", "certificate until")
			for _, a := range answer.Agents {
				tab.row(a.ID, a.Hostname, a.state(), groupText(a.Group), a.Version, a.drift(), spanText(a.ClockOffset), a.spool(), spanText(a.LagMS),
					timeText(max(a.LastBeat, a.LastData)), timeText(a.CertExpires))
			}
			return tab.flush()
		},
	}
	form.flag(c)
	return c
}

func newAgentsShow(s streams, t *target) *cobra.Command {
	var form outputForm
	c := &cobra.Command{
		Use: "show AGENT", Short: "Show all that is known of an agent", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			var a agentAnswer
			if shown, err := cl.show(c.Context(), s, &form, "/v1/agents/"+url.PathEscape(args[0]), nil, &a); err != nil || shown {
				return err
			}
			rows := [][2]string{
				{"agent", a.ID},
				{"host", a.Hostname},
				{"state", a.state()},
				{"group", groupText(a.Group)},
				{"configuration", a.drift()},
				{"refused because", a.Config.Error},
				{"kept by host", strings.Join(a.Config.Own, " ")},
				{"clock is off by", spanText(a.ClockOffset)},
				{"waits there", a.waiting()},
				{"lag", spanText(a.LagMS)},
				{"lost items", countText(a.LostItems)},
				{"version", a.Version},
				{"os", a.OS},
				{"addresses", strings.Join(a.IPs, " ")},
				{"enrolled", timeText(a.Created)},
				{"last heartbeat", timeText(a.LastBeat)},
				{"last sample", timeText(a.LastData)},
				{"certificate", a.CertSerial},
				{"good until", timeText(a.CertExpires)},
			}
			if a.Revoked {
				rows = append(rows, [2]string{"revoked", timeText(a.RevokedAt) + " by " + a.RevokedBy})
			}
			for _, r := range rows {
				if r[1] != "" {
					fmt.Fprintf(s.out, "%-15s %s\n", r[0], printable(strings.ReplaceAll(r[1], "\n", "; ")))
				}
			}
			return nil
		},
	}
	form.flag(c)
	return c
}

func newAgentsRevoke(s streams, t *target) *cobra.Command {
	return &cobra.Command{
		Use:   "revoke AGENT",
		Short: "Take an agent's access away for good",
		Long: `Its certificate is refused from now on and its connections end within five seconds on every node. What it sent stays.
The host may be enrolled anew with a new token, as a new agent.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			if err := cl.post(c.Context(), "/v1/agents/"+url.PathEscape(args[0])+"/revoke", struct{}{}, nil); err != nil {
				return err
			}
			_, err = fmt.Fprintf(s.out, "agent %s is revoked\n", args[0])
			return err
		},
	}
}

// tokenAnswer is a new join token; its text is shown this once.
type tokenAnswer struct {
	Token   string `json:"token"`
	Expires int64  `json:"expires"`
	Uses    int    `json:"uses_left"`
}

// useOf is the command that redeems a join token. What cannot be found out about the cluster is left to the reader.
func (c *client) useOf(ctx context.Context, kind string) string {
	var here struct {
		Node string `json:"node"`
	}
	var about clusterAnswer
	node := clusterNode{URL: "https://NODE:8443", AgentURL: "https://NODE:8001"}
	if c.get(ctx, "/v1/session", nil, &here) == nil && c.get(ctx, "/v1/cluster", nil, &about) == nil {
		for _, n := range about.Nodes {
			if n.ID == here.Node {
				node = n
			}
		}
	}
	if kind == "node" {
		return "on the new node: TRIWARD_JOIN_TOKEN=... triward cluster join --addr " + node.URL
	}
	return "on the host: TRIWARD_TOKEN=... triward-agent enroll --url " + node.AgentURL
}

// newTokenGroup is `token create` for agents or nodes.
func newTokenGroup(s streams, t *target, kind string) *cobra.Command {
	tokens := &cobra.Command{Use: "token", Short: "Tokens with which a new " + kind + " joins", Args: cobra.NoArgs, RunE: needSubcommand}
	var form outputForm
	var uses int
	var life time.Duration
	var note, group string
	var cidrs []string
	create := &cobra.Command{
		Use:   "create",
		Short: "Make a token and print it once",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			body := map[string]any{"kind": kind, "uses": uses, "life_s": int64(life.Seconds()), "note": note}
			if len(cidrs) > 0 {
				body["cidrs"] = cidrs
			}
			if group != "" {
				body["group"] = group
			}
			var tok tokenAnswer
			if shown, err := cl.showPost(c.Context(), s, &form, "/v1/tokens/join", body, &tok); err != nil || shown {
				return err
			}
			fmt.Fprintln(s.out, tok.Token)
			fmt.Fprintf(s.err, "good for %d use(s) until %s; with it,\n  %s\n", uses,
				time.UnixMilli(tok.Expires).Format("2006-01-02 15:04"), cl.useOf(c.Context(), kind))
			return nil
		},
	}
	form.flag(create)
	create.Flags().IntVar(&uses, "uses", 1, "how many may join with it")
	create.Flags().DurationVar(&life, "ttl", time.Hour, "how long it is good for")
	create.Flags().StringVar(&note, "note", "", "what it is for")
	if kind == "agent" {
		create.Flags().StringSliceVar(&cidrs, "cidr", nil, "where from it may be used, such as 10.1.0.0/16; may be repeated")
		create.Flags().StringVar(&group, "group", "", "group of the agents that it lets in")
	}
	tokens.AddCommand(create)
	return tokens
}
