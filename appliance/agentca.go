package appliance

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/pki"
	"github.com/triward/triward/raftstate/command"
)

// Where the CAs of agents lie in the metadata.
const (
	bucketPKI   = "pki"
	keyAgentCAs = "agents"
	// purposeAgentCA is what the key of a CA is sealed for.
	purposeAgentCA = "pki/agents"
	// maxAgentCAs is how many are accepted at once: the one that signs and the one that it follows.
	maxAgentCAs = 2
)

// agentCARecord is the CAs of agents as the metadata keeps them; the first signs, all are accepted.
type agentCARecord struct {
	CAs []sealedCA `json:"cas"`
}

type sealedCA struct {
	Cert      string `json:"cert_pem"`
	Key       string `json:"key_sealed"` // PEM, sealed with the key ring
	CreatedAt int64  `json:"created_at"` // log time, milliseconds
}

// agentCAs is the CAs of agents as this node has applied them. Safe for concurrent use.
type agentCAs struct {
	app *App

	mu   sync.Mutex
	mod  uint64 // index that wrote what follows; 0 for nothing yet
	rec  agentCARecord
	pool *x509.CertPool
	sign *pki.CA // nil until it was asked for
}

// load reads what the metadata holds when it is not what is held already. mu is held.
func (c *agentCAs) load() error {
	v, ok := c.app.state.Get(bucketPKI, keyAgentCAs)
	if !ok {
		return errors.New("the cluster has no CA for agents yet: its first members are still being set up")
	}
	if v.ModIndex == c.mod {
		return nil
	}
	var rec agentCARecord
	if err := json.Unmarshal(v.Data, &rec); err != nil || len(rec.CAs) == 0 {
		return fmt.Errorf("read CAs of agents: %d of them, %w", len(rec.CAs), err)
	}
	pool := x509.NewCertPool()
	for _, ca := range rec.CAs {
		pool.AppendCertsFromPEM([]byte(ca.Cert))
	}
	c.mod, c.rec, c.pool, c.sign = v.ModIndex, rec, pool, nil
	return nil
}

// Pool implements gateway.Certificates. Without a CA nobody is let in.
func (c *agentCAs) Pool() *x509.CertPool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.load(); err != nil {
		return x509.NewCertPool()
	}
	return c.pool
}

// Sign implements gateway.Certificates.
func (c *agentCAs) Sign(csrPEM []byte, id string, now time.Time) ([]byte, *x509.Certificate, error) {
	ca, err := c.signer()
	if err != nil {
		return nil, nil, err
	}
	return ca.SignAgent(csrPEM, id, now)
}

func (c *agentCAs) signer() (*pki.CA, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.load(); err != nil {
		return nil, err
	}
	if c.sign == nil {
		key, err := c.app.keys.Open(purposeAgentCA, c.rec.CAs[0].Key)
		if err != nil {
			return nil, fmt.Errorf("the key of the agents' CA: %w", err)
		}
		if c.sign, err = pki.ParseCA([]byte(c.rec.CAs[0].Cert), key); err != nil {
			return nil, fmt.Errorf("the agents' CA: %w", err)
		}
	}
	return c.sign, nil
}

// ensureAgentCA makes the cluster's CA for agents when it has none. Of all nodes that try at once one makes it.
func (a *App) ensureAgentCA(ctx context.Context) error {
	if err := a.node.Barrier(ctx); err != nil {
		return err
	}
	if _, ok := a.state.Get(bucketPKI, keyAgentCAs); ok {
		return nil
	}
	made, err := a.newAgentCA()
	if err != nil {
		return err
	}
	body, err := json.Marshal(agentCARecord{CAs: []sealedCA{made}})
	if err != nil {
		return fmt.Errorf("encode CAs of agents: %w", err)
	}
	_, err = a.commit(ctx, command.Txn{
		Compares: []command.Compare{{Bucket: bucketPKI, Key: keyAgentCAs}},
		Ops:      []command.Op{{Bucket: bucketPKI, Key: keyAgentCAs, Value: body}},
		Audit:    []command.AuditRecord{{Actor: "node " + a.cfg.NodeID, Action: "pki.agents.create"}},
	})
	if errors.Is(err, auth.ErrConflict) {
		return nil
	}
	return err
}

func (a *App) newAgentCA() (sealedCA, error) {
	now := a.state.LogTime()
	ca, err := pki.NewAgentCA(a.identity.ClusterID(), time.UnixMilli(now))
	if err != nil {
		return sealedCA{}, err
	}
	key, err := ca.KeyPEM()
	if err != nil {
		return sealedCA{}, err
	}
	sealed, err := a.keys.Seal(purposeAgentCA, key)
	if err != nil {
		return sealedCA{}, err
	}
	return sealedCA{Cert: string(ca.CertPEM()), Key: sealed, CreatedAt: now}, nil
}
