package gateway

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"

	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/problem"
	"github.com/triward/triward/raftstate/meta"
)

// Buckets of the metadata that the gateway reads and writes.
const (
	BucketAgents = auth.BucketAgents
	BucketNodes  = "nodes"
)

type registration struct {
	Token     string   `json:"token"`
	Hostname  string   `json:"hostname"`
	OS        string   `json:"os"`
	Arch      string   `json:"arch"`
	Version   string   `json:"version"`
	IPs       []string `json:"ips"`
	MachineID string   `json:"machine_id"`
}

func (r *registration) check() error {
	switch {
	case r.Token == "":
		return fmt.Errorf("token is missing: create one with `triward agents token create`")
	case r.Hostname == "" || len(r.Hostname) > 255:
		return fmt.Errorf("hostname has %d bytes, 1 to 255 are allowed", len(r.Hostname))
	case strings.ContainsFunc(r.Hostname, func(c rune) bool { return c <= ' ' || c == 0x7f || c == '\ufffd' }):
		return fmt.Errorf("hostname %q has spaces or control characters", r.Hostname)
	case len(r.OS) > 128 || len(r.Arch) > 32 || len(r.Version) > 64 || len(r.MachineID) > 64:
		return fmt.Errorf("os, arch, version or machine_id is too long")
	case len(r.IPs) > 64:
		return fmt.Errorf("%d ips, at most 64 are allowed", len(r.IPs))
	}
	for _, ip := range r.IPs {
		if _, err := netip.ParseAddr(ip); err != nil {
			return fmt.Errorf("ips: %.64q is no address", ip)
		}
	}
	return nil
}

const maxRegistration = 64 << 10

// register redeems a token and gives the agent its identity. Token and record change in one transaction, so a
// token for one agent makes one, however many nodes it is shown to at once.
func (g *Gateway) register(w http.ResponseWriter, r *http.Request) error {
	if !g.strange.Allow() { // before anything of a stranger is read
		return errTooManyStrangers()
	}
	release, err := g.take(bodyCost{maxRegistration, jsonUnfolds}.of(r))
	if err != nil {
		return err
	}
	defer release()
	var req registration
	if err := readJSON(w, r, maxRegistration, &req); err != nil {
		return err
	}
	if err := req.check(); err != nil {
		return problem.Wrap(http.StatusBadRequest, err)
	}
	ctx := r.Context()
	if err := g.catchUp(ctx); err != nil {
		return err
	}
	agent := auth.Agent{
		ID: newAgentID(), Hostname: req.Hostname, IPs: req.IPs, OS: req.OS, Arch: req.Arch, Version: req.Version,
		MachineID: req.MachineID, CreatedAt: g.opts.State.LogTime(),
	}
	var key string
	key, agent.KeyHash = auth.NewAgentKey()
	record, err := json.Marshal(agent)
	if err != nil {
		return fmt.Errorf("encode agent record: %w", err)
	}
	err = g.opts.Auth.Redeem(ctx, auth.JoinAgent, req.Token, auth.Txn{
		Compares: []auth.Compare{{Bucket: BucketAgents, Key: agent.ID}},
		Ops:      []auth.Op{{Bucket: BucketAgents, Key: agent.ID, Value: record}},
	})
	if errors.Is(err, auth.ErrToken) {
		return problem.Wrap(http.StatusUnauthorized, err).WithHint("create a new one with `triward agents token create`")
	}
	if err != nil {
		return err
	}
	g.opts.Log.Info("agent registered", "agent", agent.ID, "hostname", agent.Hostname)
	return writeJSON(w, map[string]any{
		"agent_id": agent.ID, "key": key, "cluster_id": g.opts.ClusterID, "nodes": g.agentURLs(),
	})
}

func newAgentID() string {
	var b [12]byte
	_, _ = rand.Read(b[:]) // never fails
	return base64.RawURLEncoding.EncodeToString(b[:])
}

func errTooManyStrangers() error {
	return problem.New(http.StatusTooManyRequests, "too many registrations and unknown senders at once").WithRetryAfter(1e9)
}

// catchUp waits until this node holds everything that was acknowledged before the call.
func (g *Gateway) catchUp(ctx context.Context) error {
	index, err := g.opts.Cluster.ReadIndex(ctx)
	if err != nil {
		return err
	}
	return g.opts.Cluster.WaitApplied(ctx, index)
}

// asAgent lets fn serve only a known agent, once the budget has room for what the body will take.
func (g *Gateway) asAgent(cost bodyCost, fn func(http.ResponseWriter, *http.Request, *auth.Agent) error) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		agent, err := g.authenticate(r)
		if err != nil {
			w.Header().Set("WWW-Authenticate", `Bearer realm="triward agents"`)
			return err
		}
		if from, ok := r.Context().Value(senderKey{}).(*sender); ok {
			from.agent = agent.ID
		}
		release, err := g.take(cost.of(r))
		if err != nil {
			return err
		}
		defer release()
		return fn(w, r, agent)
	}
}

func (g *Gateway) authenticate(r *http.Request) (*auth.Agent, error) {
	credentials, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	id, key, split := strings.Cut(credentials, ":")
	if !ok || !split || id == "" || len(id) > 64 {
		return nil, problem.New(http.StatusUnauthorized, "the header Authorization must be `Bearer <agent id>:<key>`").
			WithHint("register the agent with `triward-agent register`")
	}
	if _, known := g.opts.State.Get(BucketAgents, id); !known {
		// Registered through another node a moment ago? Ask once, but let nobody make us ask without end.
		if !g.strange.Allow() {
			return nil, errTooManyStrangers()
		}
		if err := g.catchUp(r.Context()); err != nil {
			return nil, err
		}
	}
	agent, err := g.opts.Auth.VerifyAgent(id, key)
	if errors.Is(err, auth.ErrUnauthenticated) {
		return nil, problem.New(http.StatusUnauthorized, "agent unknown or key wrong").
			WithHint("register the agent again with `triward-agent register` and a new token")
	}
	return agent, err
}

// agentURLs lists where agents reach the members, for an agent to fail over to.
func (g *Gateway) agentURLs() []string {
	urls := []string{}
	g.opts.State.Scan(BucketNodes, "", func(_ string, v meta.Value) bool {
		var node struct {
			AgentURL string `json:"agent_url"`
		}
		if json.Unmarshal(v.Data, &node) == nil && node.AgentURL != "" {
			urls = append(urls, node.AgentURL)
		}
		return len(urls) < 16
	})
	return urls
}
