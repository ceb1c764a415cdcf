package gateway

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/pki"
	"github.com/triward/triward/appliance/problem"
)

// renewGrace is how long after its end a certificate may still be renewed by whoever holds its key, so that a host
// that was switched off for a season comes back by itself. It is bounded so that a forgotten disk is worth nothing.
const (
	renewGrace = 180 * 24 * time.Hour
	graceText  = "180 days"
)

const (
	maxEnrollment = 64 << 10
	maxCSR        = 16 << 10
)

// enrollment is what an agent says that has a token and a key of its own.
type enrollment struct {
	Token     string   `json:"token"`
	CSR       string   `json:"csr_pem"`
	Hostname  string   `json:"hostname"`
	OS        string   `json:"os"`
	Arch      string   `json:"arch"`
	Version   string   `json:"version"`
	IPs       []string `json:"ips"`
	MachineID string   `json:"machine_id"`
}

// enrolled is what an agent needs from then on.
type enrolled struct {
	AgentID   string   `json:"agent_id"`
	ClusterID string   `json:"cluster_id"`
	Cert      string   `json:"cert_pem"`
	Expires   int64    `json:"cert_expires"` // milliseconds since 1970
	CA        string   `json:"ca_pem"`       // of the nodes
	Nodes     []string `json:"nodes"`
}

func (r *enrollment) check() error {
	switch {
	case r.Token == "":
		return fmt.Errorf("token is missing: create one with `triward agents token create`")
	case r.CSR == "" || len(r.CSR) > maxCSR:
		return fmt.Errorf("csr_pem has %d bytes, 1 to %d are allowed", len(r.CSR), maxCSR)
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

// enroll redeems a token and gives the agent its identity and certificate. Token and record change in one
// transaction, so a token for one agent makes one, however many nodes it is shown to at once.
func (g *Gateway) enroll(w http.ResponseWriter, r *http.Request) error {
	if !g.strange.Allow() {
		return errTooManyStrangers()
	}
	release, err := g.take(r.Context(), g.bodies, bodyCost{maxEnrollment, jsonUnfolds}.of(r))
	if err != nil {
		return err
	}
	defer release()
	var req enrollment
	if err := readJSON(w, r, maxEnrollment, &req); err != nil {
		return err
	}
	if err := req.check(); err != nil {
		return problem.Wrap(http.StatusBadRequest, err)
	}
	ctx := r.Context()
	if err := g.catchUp(ctx); err != nil {
		return err
	}
	from := auth.RemoteAddr(r)
	token, err := g.opts.Auth.CheckJoin(auth.JoinAgent, req.Token, from)
	if err != nil {
		return tokenProblem(err)
	}
	id := newAgentID()
	certPEM, leaf, err := g.opts.Certificates.Sign([]byte(req.CSR), id, g.now())
	if err != nil {
		return signProblem(err)
	}
	agent := auth.Agent{
		ID: id, Hostname: req.Hostname, IPs: req.IPs, OS: req.OS, Arch: req.Arch, Version: req.Version,
		MachineID: req.MachineID, Group: token.Group, CreatedAt: g.opts.State.LogTime(),
		Serial: pki.Serial(leaf), CertExpires: leaf.NotAfter.UnixMilli(),
	}
	record, err := json.Marshal(agent)
	if err != nil {
		return fmt.Errorf("encode agent record: %w", err)
	}
	detail, err := json.Marshal(map[string]string{"hostname": req.Hostname, "token": token.ID, "cert_serial": agent.Serial})
	if err != nil {
		return fmt.Errorf("encode audit record: %w", err)
	}
	err = g.opts.Auth.Redeem(ctx, auth.JoinAgent, req.Token, auth.Txn{
		Compares: []auth.Compare{{Bucket: BucketAgents, Key: agent.ID}},
		Ops:      []auth.Op{{Bucket: BucketAgents, Key: agent.ID, Value: record}},
		Audit:    []auth.AuditRecord{{Actor: "token " + token.ID, Address: from.String(), Action: "agent.enroll", Target: agent.ID, Detail: detail}},
	})
	if err != nil {
		return tokenProblem(err)
	}
	g.opts.Log.Info("agent enrolled", "agent", agent.ID, "hostname", agent.Hostname, "from", from)
	return writeJSON(w, enrolled{
		AgentID: agent.ID, ClusterID: g.opts.ClusterID, Cert: string(certPEM), Expires: agent.CertExpires,
		CA: string(g.opts.NodeCA), Nodes: g.agentURLs(),
	})
}

func tokenProblem(err error) error {
	if errors.Is(err, auth.ErrToken) {
		return problem.Wrap(http.StatusUnauthorized, err).WithHint("create a new one with `triward agents token create`")
	}
	return err
}

func signProblem(err error) error {
	if errors.Is(err, pki.ErrBadRequest) {
		return problem.Wrap(http.StatusBadRequest, err).WithHint("use the `triward-agent` of this version")
	}
	return err
}

// renew gives an agent a new certificate for a new key on the strength of the one that it shows, which may have
// expired: the connection proves that it holds that one's key, and the record that nothing newer is in use.
func (g *Gateway) renew(w http.ResponseWriter, r *http.Request) error {
	who, err := g.authenticate(r)
	if err != nil {
		return err
	}
	release, err := g.take(r.Context(), g.bodies, bodyCost{maxEnrollment, jsonUnfolds}.of(r))
	if err != nil {
		return err
	}
	defer release()
	var req struct {
		CSR string `json:"csr_pem"`
	}
	if err := readJSON(w, r, maxEnrollment, &req); err != nil {
		return err
	}
	if req.CSR == "" || len(req.CSR) > maxCSR {
		return problem.New(http.StatusBadRequest, fmt.Sprintf("csr_pem has %d bytes, 1 to %d are allowed", len(req.CSR), maxCSR))
	}
	now := g.now()
	if now.After(who.expires.Add(renewGrace)) {
		return refused("the certificate of agent %s expired more than "+graceText+" ago", who.agent.ID)
	}
	certPEM, leaf, err := g.opts.Certificates.Sign([]byte(req.CSR), who.agent.ID, now)
	if err != nil {
		return signProblem(err)
	}
	err = g.opts.Auth.RenewAgent(r.Context(), who.agent.ID, who.serial, pki.Serial(leaf), leaf.NotAfter.UnixMilli())
	if errors.Is(err, auth.ErrUnauthenticated) {
		return refused("the certificate of agent %s is not accepted any more", who.agent.ID)
	}
	if err != nil {
		return err
	}
	g.opts.Log.Info("certificate of agent renewed", "agent", who.agent.ID, "hostname", who.agent.Hostname, "expired", now.After(who.expires))
	return writeJSON(w, map[string]any{
		"cert_pem": string(certPEM), "cert_expires": leaf.NotAfter.UnixMilli(), "ca_pem": string(g.opts.NodeCA), "nodes": g.agentURLs(),
	})
}

// newAgentID never begins with a hyphen: on a command line it would be read as a flag.
func newAgentID() string {
	var b [12]byte
	for {
		_, _ = rand.Read(b[:]) // never fails
		if id := base64.RawURLEncoding.EncodeToString(b[:]); id[0] != '-' {
			return id
		}
	}
}
