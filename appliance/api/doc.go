// Package api is the HTTP interface of port 8443: the native API under /v1, the mounts of the Prometheus API, the
// live socket and the page, and the health endpoints.
//
// One table (routes.go) names every route with its permission, its parameters and its bodies; the mux, the checks of
// requests and the OpenAPI description come from it. One table (errors.go) turns errors into answers. The package
// promises that every body, list and wait is bounded, that nothing is served without a declared permission, and that
// reads are as fresh as asked for (DESIGN D17).
//
// It reaches the rest of the appliance through the interfaces of source.go and must not import raftstate, the stores
// or ui.
package api

import (
	"context"
	"encoding/json"

	"github.com/triward/triward/appliance/fleet"
)

// Reads says how far this node is and waits for more.
type Reads interface {
	// AppliedIndex is the newest index of the log that this node's stores hold.
	AppliedIndex() uint64
	// WaitApplied returns once the index is applied here, or an error when ctx ends before.
	WaitApplied(ctx context.Context, index uint64) error
	// ReadIndex returns an index that the leader has confirmed to be current since the call began.
	ReadIndex(ctx context.Context) (uint64, error)
}

// QueryError says where in a query an error is.
type QueryError struct {
	Pos     int // byte offset, negative when unknown
	Message string
	Hint    string
}

// Error returns the message.
func (e *QueryError) Error() string { return e.Message }

// Fleet is the view of agents and hosts.
type Fleet interface {
	Hosts() (at int64, rows []fleet.Host)
	Agents() []fleet.Agent
	Agent(id string) (fleet.Agent, bool)
	Latest(agent, prefix string, limit int) (samples []fleet.Sample, more, ok bool)
}

// Member is a node of the cluster as browsers reach it.
type Member struct {
	ID  string `json:"id"`
	URL string `json:"url"`
}

// Identity says which node of which cluster answers.
type Identity struct {
	Node    string
	Cluster string
	Version string
}

// JoinRequest is what a node says that wants to become a member.
type JoinRequest struct {
	Token    string `json:"token"`
	ID       string `json:"id"`
	CSR      string `json:"csr_pem"`
	PeerAddr string `json:"peer_addr"`
	URL      string `json:"url"`
	AgentURL string `json:"agent_url"`
	// RingTo is an age recipient (age1...) made for this one request: the cluster's key ring is wrapped to it.
	RingTo string `json:"ring_to"`
	// ReadOnly asks for a member without a vote, which receives everything and answers reads.
	ReadOnly bool `json:"read_only,omitempty"`
	// From is the address that the request came from, for the audit log.
	From string `json:"-"`
}

// JoinAnswer is what a node needs to start as a member.
type JoinAnswer struct {
	Cert      string       `json:"cert_pem"`
	CA        string       `json:"ca_pem"`
	CAKey     string       `json:"ca_key_pem"`
	Ring      []byte       `json:"key_ring"` // wrapped to RingTo (age)
	ClusterID string       `json:"cluster_id"`
	Peers     []JoinedPeer `json:"peers"`
}

// JoinedPeer is a member as a new node reaches it.
type JoinedPeer struct {
	ID       string `json:"id"`
	PeerAddr string `json:"peer_addr"`
	URL      string `json:"url,omitempty"`
}

// Cluster knows the members and the state of the log.
type Cluster interface {
	Identity() Identity
	// Members lists the nodes that browsers may go to.
	Members() []Member
	// Status, Queue and Digest return the bodies of their routes. They ask other nodes for at most a second and
	// say which did not answer.
	Status(ctx context.Context) (json.RawMessage, error)
	Queue(ctx context.Context) (json.RawMessage, error)
	Digest(ctx context.Context) (json.RawMessage, error)
	// Join redeems the token and makes the sender a member.
	Join(ctx context.Context, r JoinRequest) (JoinAnswer, error)
	// Pin is what goes into join tokens: the hash of the CA's public key, "" for none.
	Pin() string
}

// Check tells whether a part of the node works. It must be quick. An error that wraps a Warning says that it works, but that
// somebody should look.
type Check struct {
	Part  string
	Check func(ctx context.Context) error
	// Live marks a part whose failure a restart would mend: it counts for /-/healthy too, not only for /-/ready.
	Live bool
}

// Warning is an error of a part that works all the same.
type Warning struct{ Err error }

// Error implements error.
func (w *Warning) Error() string { return w.Err.Error() }

// Unwrap returns what there is to say.
func (w *Warning) Unwrap() error { return w.Err }
