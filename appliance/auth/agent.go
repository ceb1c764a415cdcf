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

// agentRecord is what of an agent's record matters here; the gateway owns the rest of it.
type agentRecord struct {
	KeyHash string `json:"key_hash"`
	Revoked bool   `json:"revoked"`
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
	rec agentRecord
}

func newAgentCache() *agentCache { return &agentCache{byID: make(map[string]cachedAgent)} }

func (c *agentCache) get(id string, mod uint64) (agentRecord, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.byID[id]
	return e.rec, ok && e.mod == mod
}

func (c *agentCache) put(id string, mod uint64, rec agentRecord) {
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

// VerifyAgent reports with a nil error that the key is the agent's. A revoked or unknown agent and a wrong key are
// all ErrUnauthenticated.
func (s *Service) VerifyAgent(id, key string) error {
	if id == "" || len(id) > 64 || key == "" || len(key) > maxSecretLen {
		return ErrUnauthenticated
	}
	v, ok := s.meta.Get(BucketAgents, id)
	if !ok {
		return ErrUnauthenticated
	}
	rec, ok := s.agents.get(id, v.ModIndex)
	if !ok {
		if err := json.Unmarshal(v.Data, &rec); err != nil {
			return fmt.Errorf("read record of agent %s: %w", id, err)
		}
		s.agents.put(id, v.ModIndex, rec)
	}
	if rec.Revoked || rec.KeyHash == "" || !equalHash(rec.KeyHash, hashSecret(key)) {
		return ErrUnauthenticated
	}
	return nil
}
