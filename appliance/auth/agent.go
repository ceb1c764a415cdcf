package auth

import (
	"encoding/json"
	"fmt"
	"sync"
)

// NewAgentKey makes the key of an agent and the form in which its record keeps it.
func NewAgentKey() (key, hash string) {
	key = newSecret(prefixAgentKey)
	return key, hashSecret(key)
}

// Agent is the record of an agent in the bucket `agents`, under its id.
type Agent struct {
	ID        string   `json:"agent_id"`
	Hostname  string   `json:"hostname"`
	IPs       []string `json:"ips,omitempty"`
	OS        string   `json:"os,omitempty"`
	Arch      string   `json:"arch,omitempty"`
	Version   string   `json:"version,omitempty"`
	MachineID string   `json:"machine_id,omitempty"`
	CreatedAt int64    `json:"created_at"` // log time, milliseconds
	KeyHash   string   `json:"key_hash"`   // as NewAgentKey makes it
	Revoked   bool     `json:"revoked,omitempty"`
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

// VerifyAgent returns the record of the agent when the key is the agent's. A revoked or unknown agent and a wrong key
// are all ErrUnauthenticated. The record is shared and must not be changed.
func (s *Service) VerifyAgent(id, key string) (*Agent, error) {
	if id == "" || len(id) > 64 || key == "" || len(key) > maxSecretLen {
		return nil, ErrUnauthenticated
	}
	v, ok := s.meta.Get(BucketAgents, id)
	if !ok {
		return nil, ErrUnauthenticated
	}
	rec, ok := s.agents.get(id, v.ModIndex)
	if !ok {
		rec = new(Agent)
		if err := json.Unmarshal(v.Data, rec); err != nil {
			return nil, fmt.Errorf("read record of agent %s: %w", id, err)
		}
		s.agents.put(id, v.ModIndex, rec)
	}
	if rec.Revoked || rec.KeyHash == "" || !equalHash(rec.KeyHash, hashSecret(key)) {
		return nil, ErrUnauthenticated
	}
	return rec, nil
}
