package appliance

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/triward/triward/appliance/api"
	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/pki"
	"github.com/triward/triward/appliance/problem"
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

// errAgentCAInUse says that there is no room for another CA yet.
type errAgentCAInUse struct{ until int64 }

func (e *errAgentCAInUse) Error() string {
	return fmt.Sprintf("the agents' CA was changed not long ago: agents use certificates of the one before until %s",
		time.UnixMilli(e.until).UTC().Format(time.RFC3339))
}

// successors puts a new CA before those that there are. The one before it stays accepted; one before that goes, and may
// only go once every certificate that it signed is over.
func (r *agentCARecord) successors(made sealedCA) (agentCARecord, error) {
	if len(r.CAs) >= maxAgentCAs {
		if until := r.CAs[0].CreatedAt + pki.AgentLife.Milliseconds(); made.CreatedAt < until {
			return agentCARecord{}, &errAgentCAInUse{until}
		}
	}
	all := append([]sealedCA{made}, r.CAs...)
	return agentCARecord{CAs: all[:min(len(all), maxAgentCAs)]}, nil
}

// AgentCAs implements api.AgentCAs.
func (a *App) AgentCAs() ([]api.AgentCA, error) {
	a.agentCAs.mu.Lock()
	defer a.agentCAs.mu.Unlock()
	if err := a.agentCAs.load(); err != nil {
		return nil, err
	}
	return shownCAs(&a.agentCAs.rec)
}

// shownCAs is what may be told of CAs: nothing of their keys.
func shownCAs(rec *agentCARecord) ([]api.AgentCA, error) {
	out := make([]api.AgentCA, len(rec.CAs))
	for i, ca := range rec.CAs {
		cert, err := pki.ParseCertificate([]byte(ca.Cert))
		if err != nil {
			return nil, fmt.Errorf("CA %d of agents: %w", i, err)
		}
		sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
		out[i] = api.AgentCA{
			Name: cert.Subject.CommonName, KeySHA256: hex.EncodeToString(sum[:]), CreatedAt: ca.CreatedAt,
			Expires: cert.NotAfter.UnixMilli(), Signs: i == 0,
		}
	}
	return out, nil
}

// RotateAgentCA implements api.AgentCAs. It changes nothing for agents until they renew: the CA before stays accepted.
func (a *App) RotateAgentCA(ctx context.Context, by api.Operator) ([]api.AgentCA, error) {
	v, ok := a.state.Get(bucketPKI, keyAgentCAs)
	if !ok {
		return nil, errors.New("the cluster has no CA for agents yet: its first members are still being set up")
	}
	var rec agentCARecord
	if err := json.Unmarshal(v.Data, &rec); err != nil {
		return nil, fmt.Errorf("read CAs of agents: %w", err)
	}
	made, err := a.newAgentCA()
	if err != nil {
		return nil, err
	}
	next, err := rec.successors(made)
	if inUse, ok := errors.AsType[*errAgentCAInUse](err); ok {
		return nil, problem.Wrap(http.StatusConflict, inUse).WithHint("wait until then; to shut out one agent now, revoke it")
	}
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(next)
	if err != nil {
		return nil, fmt.Errorf("encode CAs of agents: %w", err)
	}
	shown, err := shownCAs(&next)
	if err != nil {
		return nil, err
	}
	detail, err := json.Marshal(map[string]string{"key_sha256": shown[0].KeySHA256})
	if err != nil {
		return nil, fmt.Errorf("encode audit record: %w", err)
	}
	_, err = a.commit(ctx, command.Txn{
		Compares: []command.Compare{{Bucket: bucketPKI, Key: keyAgentCAs, ModIndex: v.ModIndex}},
		Ops:      []command.Op{{Bucket: bucketPKI, Key: keyAgentCAs, Value: body}},
		Audit:    []command.AuditRecord{{Actor: by.Name, Address: by.Address, Action: "pki.agents.rotate", Detail: detail}},
	})
	return shown, err
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
