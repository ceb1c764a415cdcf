package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Agent is the record of an agent in the bucket `agents`, under its id.
type Agent struct {
	ID        string   `json:"agent_id"`
	Hostname  string   `json:"hostname"`
	IPs       []string `json:"ips,omitempty"`
	OS        string   `json:"os,omitempty"`
	Arch      string   `json:"arch,omitempty"`
	Version   string   `json:"version,omitempty"`
	MachineID string   `json:"machine_id,omitempty"`
	Group     string   `json:"group,omitempty"` // first that of the token that it enrolled with; "" is the default group
	CreatedAt int64    `json:"created_at"`      // log time, milliseconds

	// Serial is that of the newest certificate, Renewed that of the one with which it was asked for: an agent that
	// did not get the answer goes on with it. No other certificate of the agent is accepted.
	Serial      string `json:"cert_serial,omitempty"`
	Renewed     string `json:"cert_renewed,omitempty"`
	CertExpires int64  `json:"cert_expires,omitempty"` // of the newest, milliseconds since 1970

	Revoked   bool   `json:"revoked,omitempty"`
	RevokedAt int64  `json:"revoked_at,omitempty"` // log time, milliseconds
	RevokedBy string `json:"revoked_by,omitempty"`
}

// Accepts reports whether the agent may use the certificate with this serial number.
func (a *Agent) Accepts(serial string) bool {
	return !a.Revoked && serial != "" && (serial == a.Serial || serial == a.Renewed)
}

// agentCacheSize bounds how many decoded records are kept: all of a large fleet.
const agentCacheSize = 8192

// agentCache keeps decoded records by agent and the index that wrote them, so that one written anew is never
// answered from the cache.
type agentCache struct {
	mu   sync.Mutex
	byID map[string]cachedAgent
}

type cachedAgent struct {
	mod uint64
	rec *Agent
}

func newAgentCache() *agentCache { return &agentCache{byID: make(map[string]cachedAgent)} }

func (c *agentCache) get(id string, mod uint64) (*Agent, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.byID[id]
	return e.rec, ok && e.mod == mod
}

func (c *agentCache) put(id string, mod uint64, rec *Agent) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.byID[id]; !ok && len(c.byID) >= agentCacheSize {
		for victim := range c.byID { // any one: the next call of its agent brings it back
			delete(c.byID, victim)
			break
		}
	}
	c.byID[id] = cachedAgent{mod, rec}
}

// renewalNoted is how much longer a new certificate must be good for than the last one, for its renewal to be noted in
// the audit log.
const renewalNoted = time.Hour

// maxAgentID bounds the ids that are looked up for an unknown sender.
const maxAgentID = 64

// Agent returns the record of an agent as this node has applied it and the index that wrote it, or ErrNotFound. The
// record is shared and must not be changed.
func (s *Service) Agent(id string) (rec *Agent, mod uint64, err error) {
	if id == "" || len(id) > maxAgentID {
		return nil, 0, ErrNotFound
	}
	v, ok := s.meta.Get(BucketAgents, id)
	if !ok {
		return nil, 0, ErrNotFound
	}
	rec, ok = s.agents.get(id, v.ModIndex)
	if !ok {
		rec = new(Agent)
		if err := json.Unmarshal(v.Data, rec); err != nil {
			return nil, 0, fmt.Errorf("read record of agent %s: %w", id, err)
		}
		s.agents.put(id, v.ModIndex, rec)
	}
	return rec, v.ModIndex, nil
}

// RenewAgent makes serial the agent's newest certificate; the one that it showed (shown) stays good beside it until it
// expires. It returns ErrUnauthenticated when the agent may not use the one that it showed (any more).
func (s *Service) RenewAgent(ctx context.Context, id, shown, serial string, expires int64) error {
	return s.changeAgent(ctx, id, func(a *Agent) (*AuditRecord, error) {
		if !a.Accepts(shown) {
			return nil, ErrUnauthenticated
		}
		again := expires-a.CertExpires < renewalNoted.Milliseconds() // an agent that asks without end fills no log
		a.Serial, a.Renewed, a.CertExpires = serial, shown, expires
		if again {
			return nil, nil
		}
		return &AuditRecord{
			Actor: "agent " + id, Action: "agent.renew", Target: id,
			Detail: encode(map[string]any{"hostname": a.Hostname, "cert_serial": serial, "cert_expires": expires}),
		}, nil
	})
}

// RevokeAgent takes an agent's access away for good. To revoke again is no error.
func (s *Service) RevokeAgent(ctx context.Context, id, by string, from netip.Addr) error {
	return s.changeAgent(ctx, id, func(a *Agent) (*AuditRecord, error) {
		if a.Revoked {
			return nil, nil
		}
		a.Revoked, a.RevokedAt, a.RevokedBy = true, s.meta.LogTime(), by
		return &AuditRecord{
			Actor: by, Address: addressText(from), Action: "agent.revoke", Target: id,
			Detail: encode(map[string]string{"hostname": a.Hostname, "cert_serial": a.Serial}),
		}, nil
	})
}

// SetAgentGroup puts an agent into a group; "" is the default group.
func (s *Service) SetAgentGroup(ctx context.Context, id, group, by string, from netip.Addr) error {
	if group != "" && !groupName.MatchString(group) {
		return fmt.Errorf("group %.70q: want 1 to 64 of letters, digits, . _ -: %w", group, ErrInvalid)
	}
	return s.changeAgent(ctx, id, func(a *Agent) (*AuditRecord, error) {
		if a.Group == group {
			return nil, nil
		}
		was := a.Group
		a.Group = group
		return &AuditRecord{
			Actor: by, Address: addressText(from), Action: "agent.group", Target: id,
			Detail: encode(map[string]string{"hostname": a.Hostname, "was": was, "group": group}),
		}, nil
	})
}

// addressText is an address in an audit record; empty for none.
func addressText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// changeAgent reads, changes and writes the record of an agent, again when somebody else was faster.
func (s *Service) changeAgent(ctx context.Context, id string, change func(*Agent) (*AuditRecord, error)) error {
	for range casRetries {
		held, mod, err := s.Agent(id)
		if err != nil {
			return fmt.Errorf("agent %.64s: %w", id, err)
		}
		rec := *held
		rec.IPs = slices.Clone(held.IPs)
		said, err := change(&rec)
		if err != nil {
			return err
		}
		txn := Txn{
			Compares: []Compare{{Bucket: BucketAgents, Key: id, ModIndex: mod}},
			Ops:      []Op{{Bucket: BucketAgents, Key: id, Value: encode(&rec)}},
		}
		if said != nil {
			txn.Audit = []AuditRecord{*said}
		}
		_, err = s.meta.Commit(ctx, txn)
		if errors.Is(err, ErrConflict) {
			continue
		}
		if err != nil {
			return fmt.Errorf("change agent %s: %w", id, err)
		}
		return nil
	}
	return fmt.Errorf("change agent %s: %w", id, ErrConflict)
}
