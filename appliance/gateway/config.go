package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/problem"
)

// heartbeatAnswer tells the agent, besides the time, which configuration its group has as far as this node knows: an
// agent that has another one asks for it.
type heartbeatAnswer struct {
	ServerTime int64  `json:"server_time_ms"`
	Config     bool   `json:"config"` // that the members behind it mean something
	Version    uint64 `json:"config_version"`
	Hash       string `json:"config_hash"`
	Group      string `json:"config_group"`
}

// configAnswer is the configuration that an agent is to have: as the text that was set, and as the JSON of it.
type configAnswer struct {
	Agent     string          `json:"agent_id"`
	Type      string          `json:"config_type"`
	Group     string          `json:"group"` // that it is of: the agent's, or the default group
	Version   uint64          `json:"version"`
	Hash      string          `json:"hash"`
	UpdatedAt int64           `json:"updated_at,omitempty"` // log time, milliseconds
	Body      string          `json:"body"`
	Content   json.RawMessage `json:"content"`
}

// config answers an agent with the configuration of its group. It holds all that was acknowledged before: a node that
// lags behind must not take an agent back.
func (g *Gateway) config(w http.ResponseWriter, r *http.Request, agent *auth.Agent) error {
	if id := r.URL.Query().Get("agent_id"); id != "" && id != agent.ID {
		return problem.New(http.StatusForbidden, fmt.Sprintf("agent_id is %.64q, the certificate is of agent %s", id, agent.ID)).
			WithHint("an agent may ask for its own configuration only")
	}
	// A whole group asks at once when something was set for it.
	if err := g.together.do(r.Context(), g.catchUp); err != nil {
		return err
	}
	now, _, err := g.opts.Auth.Agent(agent.ID) // its group may have changed
	if err != nil {
		return err
	}
	v := g.opts.Configs.For(now.Group)
	return writeJSON(w, configAnswer{
		Agent: agent.ID, Type: "agent", Group: v.Group, Version: v.Version, Hash: v.Hash, UpdatedAt: v.At, Body: v.Body, Content: asJSON(v.Body),
	})
}

// together has many who want the same work done for them at once share it. Who comes while it is done for others waits
// for the next time, so that it always begins after whoever shares it has come.
type together struct {
	turn chan struct{} // held by who does it; one place

	mu   sync.Mutex
	next *shared // that has not begun
}

type shared struct {
	done chan struct{}
	err  error
}

func newTogether() *together { return &together{turn: make(chan struct{}, 1)} }

func (t *together) do(ctx context.Context, work func(context.Context) error) error {
	t.mu.Lock()
	s := t.next
	first := s == nil
	if first {
		s = &shared{done: make(chan struct{})}
		t.next = s
	}
	t.mu.Unlock()
	if !first {
		select {
		case <-s.done:
			return s.err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	defer close(s.done)
	// It is done for others too: that the first of them goes away is no reason to leave it.
	ctx = context.WithoutCancel(ctx)
	wait, enough := context.WithTimeout(ctx, catchUpTime)
	defer enough()
	select {
	case t.turn <- struct{}{}:
	case <-wait.Done():
		s.err = wait.Err()
	}
	t.mu.Lock()
	t.next = nil
	t.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	defer func() { <-t.turn }()
	ctx, cancel := context.WithTimeout(ctx, catchUpTime)
	defer cancel()
	s.err = work(ctx)
	return s.err
}

// catchUpTime is how long a node tries to hear what was acknowledged before.
const catchUpTime = 10 * time.Second

// asJSON is the content of a YAML text; null for what JSON cannot say, for the text is there beside it. A text with
// aliases is such: written out it may be a thousand times as long, more than an agent takes.
func asJSON(body string) json.RawMessage {
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(body), &doc); err != nil || hasAlias(&doc) {
		return json.RawMessage("null")
	}
	content := map[string]any{}
	if err := yaml.Unmarshal([]byte(body), &content); err != nil {
		return json.RawMessage("null")
	}
	b, err := json.Marshal(content)
	if err != nil {
		return json.RawMessage("null")
	}
	return b
}

func hasAlias(n *yaml.Node) bool {
	return n.Kind == yaml.AliasNode || slices.ContainsFunc(n.Content, hasAlias)
}
