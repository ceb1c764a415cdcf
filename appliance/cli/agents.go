package cli

import (
	"context"
	"encoding/json"
	"fmt"
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
}

func newAgents(s streams) *cobra.Command {
	var t target
	c := &cobra.Command{Use: "agents", Short: "See the agents and let new ones in", Args: cobra.NoArgs, RunE: needSubcommand}
	t.flags(c)
	c.AddCommand(newAgentsList(s, &t), newTokenGroup(s, &t, "agent"))
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
			var raw json.RawMessage
			if err := cl.get(c.Context(), "/v1/agents", nil, &raw); err != nil {
				return err
			}
			if form.json() {
				return writeJSON(s.out, raw)
			}
			var answer struct {
				Agents []agentAnswer `json:"agents"`
			}
			if err := json.Unmarshal(raw, &answer); err != nil {
				return fmt.Errorf("answer of /v1/agents: %w", err)
			}
			tab := newTable(s.out, "agent", "host", "state", "os", "version", "last seen")
			for _, a := range answer.Agents {
				seen := ""
				if last := max(a.LastBeat, a.LastData); last > 0 {
					seen = time.UnixMilli(last).Format("2006-01-02 15:04:05")
				}
				tab.row(a.ID, a.Hostname, a.State, a.OS, a.Version, seen)
			}
			return tab.flush()
		},
	}
	form.flag(c)
	return c
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
	return "on the host, with the ca.pem that `triward cluster ca` prints on a node: " +
		"triward-agent register --url " + node.AgentURL + " --ca ca.pem --token ..."
}

// newTokenGroup is `token create` for agents or nodes.
func newTokenGroup(s streams, t *target, kind string) *cobra.Command {
	group := &cobra.Command{Use: "token", Short: "Tokens with which a new " + kind + " joins", Args: cobra.NoArgs, RunE: needSubcommand}
	var form outputForm
	var uses int
	var life time.Duration
	var note string
	create := &cobra.Command{
		Use:   "create",
		Short: "Make a token and print it once",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			var raw json.RawMessage
			body := map[string]any{"kind": kind, "uses": uses, "life_s": int64(life.Seconds()), "note": note}
			if err := cl.post(c.Context(), "/v1/tokens/join", body, &raw); err != nil {
				return err
			}
			if form.json() {
				return writeJSON(s.out, raw)
			}
			var tok tokenAnswer
			if err := json.Unmarshal(raw, &tok); err != nil {
				return fmt.Errorf("answer of /v1/tokens/join: %w", err)
			}
			fmt.Fprintln(s.out, tok.Token)
			fmt.Fprintf(s.err, "good for %d use(s) until %s; with it,\n  %s\n", uses,
				time.UnixMilli(tok.Expires).Format("2006-01-02 15:04"), cl.useOf(c.Context(), kind))
			return nil
		},
	}
	form.flag(create)
	create.Flags().IntVar(&uses, "uses", 1, "how many may join with it")
	create.Flags().DurationVar(&life, "life", time.Hour, "how long it is good for")
	create.Flags().StringVar(&note, "note", "", "what it is for")
	group.AddCommand(create)
	return group
}
