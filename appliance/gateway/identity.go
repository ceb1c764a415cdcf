package gateway

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/pki"
	"github.com/triward/triward/appliance/problem"
	"github.com/triward/triward/raftstate/meta"
)

// Buckets of the metadata that the gateway reads and writes.
const (
	BucketAgents = auth.BucketAgents
	BucketNodes  = "nodes"
)

// Types of problems that an agent acts on.
const (
	// typeExpired: the certificate shown is over; it may still be renewed.
	typeExpired = "urn:triward:problem:certificate-expired"
	// typeRevoked: the agent's access was taken away, or its certificate was replaced: only enrolling anew helps.
	typeRevoked = "urn:triward:problem:agent-revoked"
)

const enrollHint = "make a token with `triward agents token create` and run `triward-agent enroll --force` on the host"

// identity is whose certificate a request came with.
type identity struct {
	agent   *auth.Agent
	serial  string
	expires time.Time
}

// asAgent lets fn serve only a known agent whose certificate is good now, once the budget has room for what the body
// will take, which it waits for a while.
func (g *Gateway) asAgent(cost bodyCost, fn func(http.ResponseWriter, *http.Request, *auth.Agent) error) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		who, err := g.authenticate(r)
		if err != nil {
			return err
		}
		if from, ok := r.Context().Value(senderKey{}).(*sender); ok {
			from.agent = who.agent.ID
		}
		if now := g.now(); now.After(who.expires) {
			p := problem.New(http.StatusUnauthorized, fmt.Sprintf("the agent's certificate expired at %s, it is %s now by the cluster's clock",
				who.expires.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339)))
			p.Type = typeExpired
			return p.WithHint("the agent renews it by itself; after " + graceText + " only enrolling it anew helps")
		}
		g.busiest.note(who.agent, r.ContentLength, time.Now())
		release, err := g.take(r.Context(), g.bodies, cost.of(r))
		if err != nil {
			return err
		}
		defer release()
		return fn(w, r, who.agent)
	}
}

// now is the log's time: the one that the members agree on, not that of this machine.
func (g *Gateway) now() time.Time { return time.UnixMilli(g.opts.State.LogTime()) }

// authenticate returns the agent whose certificate the connection was opened with, also when it has expired.
func (g *Gateway) authenticate(r *http.Request) (identity, error) {
	var who identity
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return who, problem.New(http.StatusUnauthorized, "the sender shows no certificate of an agent").
			WithHint("enroll the agent with `triward-agent enroll`")
	}
	cert := r.TLS.PeerCertificates[0]
	id, serial, err := g.checked.check(cert, g.opts.Certificates.Pool())
	if err != nil {
		return who, problem.Wrap(http.StatusUnauthorized, err).WithHint("enroll the agent with this cluster: " + enrollHint)
	}
	rec, _, err := g.opts.Auth.Agent(id)
	if errors.Is(err, auth.ErrNotFound) || err == nil && !rec.Revoked && !rec.Accepts(serial) {
		// Enrolled or renewed through another node a moment ago? Ask once, but let nobody make us ask without end.
		if !g.strange.Allow() {
			return who, errTooManyStrangers()
		}
		if err := g.catchUp(r.Context()); err != nil {
			return who, err
		}
		rec, _, err = g.opts.Auth.Agent(id)
	}
	switch {
	case errors.Is(err, auth.ErrNotFound):
		return who, refused("agent %s is not known to this cluster", id)
	case err != nil:
		return who, err
	case rec.Revoked:
		return who, refused("agent %s was revoked", id)
	case !rec.Accepts(serial):
		return who, refused("the certificate of agent %s was replaced by a newer one", id)
	}
	return identity{rec, serial, cert.NotAfter}, nil
}

// checkedCerts remembers whom certificates name that were found to be an agent's: to check a signature takes as long as to check a batch of
// samples. Nothing of that depends on the time. It is safe for concurrent use.
type checkedCerts struct {
	mu    sync.Mutex
	cas   *x509.CertPool // that they were checked with; with others all is checked anew
	names map[[sha256.Size]byte]certName
}

type certName struct{ id, serial string }

// maxChecked bounds the certificates that are remembered: all are forgotten when there are more.
const maxChecked = 4096

// check is pki.CheckAgent.
func (c *checkedCerts) check(cert *x509.Certificate, cas *x509.CertPool) (id, serial string, err error) {
	key := sha256.Sum256(cert.Raw)
	c.mu.Lock()
	name, known := c.names[key]
	known = known && c.cas == cas
	c.mu.Unlock()
	if known {
		return name.id, name.serial, nil
	}
	if id, serial, err = pki.CheckAgent(cert, cas); err != nil {
		return "", "", err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cas != cas || len(c.names) >= maxChecked {
		c.cas, c.names = cas, map[[sha256.Size]byte]certName{}
	}
	c.names[key] = certName{id, serial}
	return id, serial, nil
}

func refused(format string, id string) error {
	p := problem.New(http.StatusForbidden, fmt.Sprintf(format, id))
	p.Type = typeRevoked
	return p.WithHint(enrollHint)
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
