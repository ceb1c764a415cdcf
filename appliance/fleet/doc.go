// Package fleet knows the agents and their hosts as they are now: the newest value of every series, and from those
// the derived figures of each host (CPU, memory, worst disk, network, load, log errors) with sparklines.
//
// It owns a view that is fed by the observer of Apply and can be made again from the stores at any time; nothing in
// it is durable. It promises bounded memory, answers that never wait for a query, and that what is missing is null
// and never zero.
//
// It reaches metadata, series and queries through the interfaces of source.go and must not import raftstate, the
// stores, ui or api.
package fleet

import (
	"context"
	"encoding/json"

	"github.com/triward/triward/agent/wire"
)

// Directory names the labels of series ids given out by the cluster.
type Directory interface {
	SeriesLabels(id uint64) (wire.Labels, bool)
}

// Registry is the metadata of agents.
type Registry interface {
	// Scan calls fn for each key of the bucket with the prefix in ascending order until fn returns false. The
	// value must not be changed; modIndex tells whether it was written anew.
	Scan(bucket, prefix string, fn func(key string, value []byte, modIndex uint64) bool)
	// Get returns one value.
	Get(bucket, key string) (value []byte, modIndex uint64, ok bool)
}

// Buckets that hold the agents and their heartbeats.
const (
	BucketAgents     = "agents"
	BucketHeartbeats = "heartbeats"
)

// Warmer fills the view after a restart from what the stores hold.
type Warmer interface {
	// LatestSamples calls fn for series with their newest sample not older than `since` (ms).
	LatestSamples(ctx context.Context, since int64, fn func(id uint64, t int64, v float64)) error
	// QueryRange evaluates PromQL at start, start+step ... end (ms) and returns for each result the value of the
	// label `agent` and its points.
	QueryRange(ctx context.Context, query string, start, end, step int64) ([]AgentSeries, error)
}

// AgentSeries is a result of a query that was aggregated by agent.
type AgentSeries struct {
	Agent string
	T     []int64 // ms
	V     []float64
}

// Agent is what the record of an agent says, without its secrets.
type Agent struct {
	ID        string            `json:"agent_id"`
	Hostname  string            `json:"hostname"`
	IPs       []string          `json:"ips,omitempty"`
	OS        string            `json:"os,omitempty"`
	Arch      string            `json:"arch,omitempty"`
	Version   string            `json:"version,omitempty"`
	Tags      map[string]string `json:"tags,omitempty"`
	CreatedAt int64             `json:"created_at"`
	Group     string            `json:"group,omitempty"`
	Revoked   bool              `json:"revoked,omitempty"`
	RevokedAt int64             `json:"revoked_at,omitempty"` // log time in ms
	RevokedBy string            `json:"revoked_by,omitempty"`
	// CertExpires is when the agent's newest certificate ends, in ms; CertSerial is its number.
	CertExpires int64  `json:"cert_expires,omitempty"`
	CertSerial  string `json:"cert_serial,omitempty"`
	// Heartbeat is the newest one, as the agent sent it, and HeartbeatAt its log time in ms (0 for none).
	HeartbeatAt int64           `json:"heartbeat_at,omitempty"`
	Heartbeat   json.RawMessage `json:"heartbeat,omitempty"`
	// LastSample is the newest sample of the agent in ms (0 for none) and State as in the hosts view.
	LastSample int64 `json:"last_sample,omitempty"`
	State      State `json:"state"`
	Series     int   `json:"series"`
	Condition
}
