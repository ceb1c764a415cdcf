package appliance

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/triward/triward/appliance/api"
	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/problem"
	"github.com/triward/triward/appliance/repair"
	"github.com/triward/triward/raftstate"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/forward"
	"github.com/triward/triward/raftstate/meta"
)

// Paths on the peer port, for members only.
const (
	peerNodePath = "/appliance/node"
	peerDiskPath = "/appliance/disk"
	peerJoinPath = "/appliance/join"
)

const (
	peerPatience = time.Second // how long another node may take to say how it is
	joinPatience = 25 * time.Second
	// freePatience is how long a node whose name is to be taken over may take to show that it is alive.
	freePatience = 3 * time.Second
)

// clusterView says how the cluster is, asking the other nodes, and takes new ones in.
type clusterView struct {
	app        *App
	alertsHeld heldAlerts
}

// nodeStatus is what a node says of itself, and a row of GET /v1/cluster.
type nodeStatus struct {
	ID          string    `json:"id"`
	URL         string    `json:"url"`
	AgentURL    string    `json:"agent_url"`
	Peer        string    `json:"peer"`
	Role        string    `json:"role"`
	Voter       bool      `json:"voter"`
	ReadOnly    bool      `json:"read_only,omitempty"` // it is to have no vote
	Leaving     bool      `json:"leaving,omitempty"`   // it is being removed
	Format      uint32    `json:"format"`              // the greatest that its program applies; 0: not known
	Term        uint64    `json:"term"`
	LastIndex   uint64    `json:"last_index"`
	CommitIndex uint64    `json:"commit_index"`
	Applied     uint64    `json:"applied_index"`
	MarkIndex   uint64    `json:"mark_index"`
	Lag         uint64    `json:"lag"`
	Version     string    `json:"version"`
	Disk        diskUsage `json:"disk"`
	CertExpires int64     `json:"cert_expires"` // milliseconds since 1970
	// Ring names the keys that this node holds; absent when it has no key ring.
	Ring        *ringStatus `json:"key_ring,omitempty"`
	Digest      string      `json:"digest"` // over everything, as of DigestIndex
	DigestIndex uint64      `json:"digest_index"`
	StartedAt   int64       `json:"started_at"` // milliseconds since 1970
	UptimeS     int64       `json:"uptime_s"`
	Installing  bool        `json:"installing,omitempty"`
	Probation   bool        `json:"probation,omitempty"` // lost its data and has not caught up: it has no vote yet
	DiskFull    string      `json:"disk_full,omitempty"`
	// Repair is what the node knows of damage to its data; absent when there never was any.
	Repair *repair.Status `json:"repair,omitempty"`
	// ClockMS is the node's clock when it answered, in milliseconds since 1970. OffsetMS is how far that was ahead of the
	// clock of the node that was asked, give or take WithinMS; both are only told of other nodes.
	ClockMS  int64 `json:"clock_ms"`
	OffsetMS int64 `json:"clock_offset_ms"`
	WithinMS int64 `json:"clock_within_ms"`
}

type diskUsage struct {
	Total  int64            `json:"total"`
	Free   int64            `json:"free"`
	UsedBy map[string]int64 `json:"used_by"`
}

type clusterStatus struct {
	ID        string       `json:"id"`
	Leader    string       `json:"leader"`
	Term      uint64       `json:"term"`
	Tolerates int          `json:"tolerates"` // nodes that may still fail
	Format    uint32       `json:"format"`    // of the cluster's state, which `upgrade finalize` raises
	Nodes     []nodeStatus `json:"nodes"`
	Removed   []goneNode   `json:"removed,omitempty"` // nodes that were taken out
	// NoMajority says why no leader can be elected by itself, and what to do; absent when one can or there is one.
	NoMajority string `json:"no_majority,omitempty"`
}

// Identity implements api.Cluster.
func (c *clusterView) Identity() api.Identity {
	return api.Identity{Node: c.app.cfg.NodeID, Cluster: c.app.identity.ClusterID(), Version: c.app.version}
}

// Members implements api.Cluster.
func (c *clusterView) Members() []api.Member {
	var out []api.Member
	for _, r := range c.records() {
		out = append(out, api.Member{ID: r.ID, URL: r.URL})
	}
	return out
}

func (c *clusterView) records() []nodeRecord {
	var out []nodeRecord
	c.app.state.Scan(bucketNodes, "", func(_ string, v meta.Value) bool {
		var r nodeRecord
		if json.Unmarshal(v.Data, &r) == nil {
			out = append(out, r)
		}
		return true
	})
	return out
}

// Pin implements api.Cluster.
func (c *clusterView) Pin() string {
	if ca := c.app.identity.CA(); ca != nil {
		return ca.Fingerprint()
	}
	return ""
}

// own is what this node says of itself.
func (c *clusterView) own() nodeStatus {
	a := c.app
	st := a.node.Status()
	index, sum := c.digest()
	return nodeStatus{
		ID: a.cfg.NodeID, URL: a.cfg.Listen.HTTP.URL, AgentURL: a.cfg.Listen.Agents.Advertise, Peer: a.cfg.Listen.Peer.Advertise,
		Role: st.Role, Term: st.Term, LastIndex: st.LastIndex, CommitIndex: st.CommitIndex, Applied: st.AppliedIndex,
		MarkIndex: st.MarkIndex, Version: a.version, Disk: c.disk(), CertExpires: a.identity.Expires().UnixMilli(), Ring: a.keys.status(),
		Digest: sum, DigestIndex: index, StartedAt: st.StartedAt.UnixMilli(), UptimeS: int64(time.Since(st.StartedAt).Seconds()),
		Format: st.Format, Repair: c.repair(), Installing: st.Installing, Probation: st.Probation, DiskFull: st.DiskFull, ClockMS: time.Now().UnixMilli(),
	}
}

func (c *clusterView) repair() *repair.Status {
	st := c.app.repairs.Status()
	if st.State == repair.StateWhole && len(st.History) == 0 {
		return nil
	}
	return &st
}

// digest folds the running digests into one text, the same on every node at one index.
func (c *clusterView) digest() (uint64, string) {
	index, sums := c.app.node.Digest()
	return index, meta.FoldDigests(sums)
}

// Status implements api.Cluster.
func (c *clusterView) Status(ctx context.Context) (json.RawMessage, error) {
	st := c.app.node.Status()
	out := clusterStatus{
		ID: c.app.identity.ClusterID(), Leader: st.Leader, Term: st.Term, Format: c.app.state.format(),
		Nodes: make([]nodeStatus, len(st.Members)), Removed: c.app.farewells(),
	}
	ctx, cancel := context.WithTimeout(ctx, peerPatience)
	defer cancel()
	var wg sync.WaitGroup
	if out.Leader == "" {
		wg.Go(func() {
			b := c.app.ballot(ctx)
			out.NoMajority = b.stuck()
		})
	}
	for i, m := range st.Members {
		if m.ID == c.app.cfg.NodeID {
			out.Nodes[i] = c.own()
			continue
		}
		wg.Go(func() {
			var err error
			if out.Nodes[i], err = c.ask(ctx, m.ID); err != nil {
				out.Nodes[i] = nodeStatus{ID: m.ID, Role: "unreachable"}
				if st, ok := c.app.repairs.Of(m.ID); ok { // it mends itself before it serves
					out.Nodes[i].Repair = &st
				}
			}
		})
	}
	wg.Wait()
	records := c.records()
	var head uint64
	voters, alive := 0, 0
	for i, m := range st.Members {
		n := &out.Nodes[i]
		n.Peer, n.Voter = m.Addr, m.Voter
		rec, _ := c.app.membershipOf(m.ID)
		n.ReadOnly, n.Leaving = rec.ReadOnly, rec.Leaving != nil
		head = max(head, n.CommitIndex)
		if m.Voter {
			voters++
			if n.Role != "unreachable" && !n.Probation {
				alive++
			}
		}
		for _, r := range records {
			if r.ID == n.ID && n.URL == "" {
				n.URL, n.AgentURL, n.Version = r.URL, r.AgentURL, r.Version
			}
		}
	}
	for i := range out.Nodes {
		if n := &out.Nodes[i]; n.Role != "unreachable" && head > n.Applied {
			n.Lag = head - n.Applied
		}
	}
	out.Tolerates = max(0, alive-(voters/2+1))
	return json.Marshal(out)
}

// ask gets another member's status of itself.
func (c *clusterView) ask(ctx context.Context, id string) (nodeStatus, error) {
	var n nodeStatus
	asked := time.Now()
	if err := c.app.askPeer(ctx, id, peerNodePath, &n); err != nil {
		return n, err
	}
	if n.ClockMS > 0 { // it was read at some moment since we asked
		half := time.Since(asked) / 2
		n.OffsetMS, n.WithinMS = n.ClockMS-asked.Add(half).UnixMilli(), half.Milliseconds()+1
	}
	return n, nil
}

// askPeer gets something from another member into v, at most 1 MiB of JSON.
func (a *App) askPeer(ctx context.Context, id, path string, v any) error {
	return a.askPeerFor(ctx, id, path, 1<<20, v)
}

// askPeerFor is askPeer for at most limit bytes.
func (a *App) askPeerFor(ctx context.Context, id, path string, limit int64, v any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+id+path, nil)
	if err != nil {
		return err
	}
	resp, err := a.node.PeerClient().Transport().RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return peerRefusal(id, resp)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, limit)).Decode(v); err != nil {
		return fmt.Errorf("node %s: %w", id, err)
	}
	return nil
}

// Digest implements api.Cluster.
func (c *clusterView) Digest(context.Context) (json.RawMessage, error) {
	type sum struct {
		Kind  string `json:"kind"`
		Day   int64  `json:"day"` // days since 1970, UTC
		Count uint64 `json:"count"`
		Sum   string `json:"sum"`
	}
	index, sums := c.app.node.Digest()
	list := make([]sum, 0, len(sums))
	for _, d := range sums {
		list = append(list, sum{d.Kind.String(), d.Day, d.Count, fmt.Sprintf("%016x%016x", d.Sum.Hi, d.Sum.Lo)})
	}
	slices.SortFunc(list, func(x, y sum) int { return cmp.Or(cmp.Compare(x.Kind, y.Kind), cmp.Compare(x.Day, y.Day)) })
	return json.Marshal(map[string]any{"node": c.app.cfg.NodeID, "index": index, "sums": list})
}

// disk is what the node's files take.
func (c *clusterView) disk() diskUsage {
	r := c.app.disk.report()
	return diskUsage{Total: r.Total, Free: r.Free, UsedBy: map[string]int64{
		"raft": r.Queue, "tsdb": r.Kinds[command.KindMetrics.String()],
		"logs": r.Kinds[command.KindLogs.String()] + r.Kinds[command.KindEvents.String()], "meta": r.Meta,
	}}
}

// Join implements api.Cluster: it signs the certificate of a node that has a token. The node becomes a member when
// it starts and asks on the peer port with that certificate.
func (c *clusterView) Join(ctx context.Context, r api.JoinRequest) (api.JoinAnswer, error) {
	var none api.JoinAnswer
	// The token first: who has none is not told which nodes there are.
	token, err := c.app.auth.CheckJoin(auth.JoinNode, r.Token, netip.Addr{})
	if err != nil {
		return none, err
	}
	ca := c.app.identity.CA()
	if ca == nil {
		return none, errors.New("this node does not have the CA's key; ask another member")
	}
	if !nodeIDForm.MatchString(r.ID) {
		return none, problem.New(http.StatusBadRequest, fmt.Sprintf("id %.80q is no node id", r.ID))
	}
	if host, port, err := net.SplitHostPort(r.PeerAddr); err != nil || host == "" || port == "" {
		return none, problem.New(http.StatusBadRequest, fmt.Sprintf("peer_addr %.80q: want host:port", r.PeerAddr))
	}
	held, known := c.app.state.Get(bucketNodes, r.ID)
	if known { // one that lost its data comes back under its own name and address
		var old nodeRecord
		if err := json.Unmarshal(held.Data, &old); err != nil || old.PeerAddr != r.PeerAddr {
			return none, problem.New(http.StatusConflict, fmt.Sprintf("node %s is a member already, at another address", r.ID)).WithHint("choose another node_id")
		}
	}
	if err := c.freeName(ctx, r.ID); err != nil {
		return none, err
	}
	wrapped, err := c.ringFor(r.RingTo)
	if err != nil {
		return none, err
	}
	// A number that grows with each join under this name: what is compared below was applied here.
	_, mod := c.app.membershipOf(r.ID)
	number := c.app.node.AppliedIndex()
	member, err := json.Marshal(membership{Number: number, ReadOnly: r.ReadOnly})
	if err != nil {
		return none, fmt.Errorf("encode membership: %w", err)
	}
	cert, err := ca.ForMember(number).SignRequest([]byte(r.CSR), r.ID, joinHosts(&r), time.Now())
	if err != nil {
		return none, problem.Wrap(http.StatusBadRequest, err)
	}
	record, err := json.Marshal(nodeRecord{ID: r.ID, PeerAddr: r.PeerAddr, URL: r.URL, AgentURL: r.AgentURL, JoinedAt: c.app.state.LogTime()})
	if err != nil {
		return none, fmt.Errorf("encode record: %w", err)
	}
	detail, err := json.Marshal(map[string]any{"token": token.ID, "peer_addr": r.PeerAddr, "url": r.URL, "again": known, "read_only": r.ReadOnly})
	if err != nil {
		return none, fmt.Errorf("encode audit record: %w", err)
	}
	err = c.app.auth.Redeem(ctx, auth.JoinNode, r.Token, auth.Txn{
		Compares: []auth.Compare{{Bucket: bucketNodes, Key: r.ID, ModIndex: held.ModIndex}, {Bucket: bucketMembership, Key: r.ID, ModIndex: mod}},
		Ops:      []auth.Op{{Bucket: bucketNodes, Key: r.ID, Value: record}, {Bucket: bucketMembership, Key: r.ID, Value: member}},
		Audit:    []auth.AuditRecord{{Actor: "token " + token.ID, Address: r.From, Action: "node.join", Target: r.ID, Detail: detail}},
	})
	if err != nil {
		return none, err
	}
	key, err := ca.KeyPEM()
	if err != nil {
		return none, err
	}
	answer := api.JoinAnswer{
		Cert: string(cert), CA: string(ca.CertPEM()), CAKey: string(key), Ring: wrapped, ClusterID: c.app.identity.ClusterID(),
	}
	for _, m := range c.app.node.Status().Members {
		answer.Peers = append(answer.Peers, api.JoinedPeer{ID: m.ID, PeerAddr: m.Addr})
	}
	return answer, nil
}

// freeName makes sure that nobody counts as the node id while another machine joins under that name: one that is alive is
// not displaced, and one that is gone loses its vote first, since whoever comes holds nothing of what it acknowledged.
func (c *clusterView) freeName(ctx context.Context, id string) error {
	m, ok := c.app.memberOf(id)
	if !ok {
		return nil
	}
	ask, cancel := context.WithTimeout(ctx, freePatience)
	defer cancel()
	st, err := c.app.node.PeerStatus(ask, id)
	_, starting := errors.AsType[*forward.RemoteError](err) // it mends itself before it serves, perhaps
	if id == c.app.cfg.NodeID || starting || err == nil && !st.Probation {
		return problem.New(http.StatusConflict, fmt.Sprintf("node %s is a member and answers", id)).
			WithHint("choose another node_id, or remove that node first: triward cluster remove " + id)
	}
	if !m.Voter {
		return nil
	}
	return c.app.node.Demote(ctx, id)
}

// ringFor is the key ring wrapped to the key that a joining node made for this one time.
func (c *clusterView) ringFor(recipient string) ([]byte, error) {
	ring, err := c.app.keys.Ring()
	if err != nil {
		return nil, problem.Wrap(http.StatusServiceUnavailable, fmt.Errorf("node %s cannot let a node in: %w", c.app.cfg.NodeID, err)).
			WithHint("name another member with --addr; " + ringHint)
	}
	wrapped, err := ring.WrapTo(recipient)
	if err != nil {
		return nil, problem.New(http.StatusBadRequest, "ring_to: want the recipient (age1...) that the key ring is wrapped to").
			WithHint("use the `triward cluster join` of this version")
	}
	return wrapped, nil
}

// joinHosts are the names that a new node's certificate carries: those under which it says it is reached.
func joinHosts(r *api.JoinRequest) []string {
	hosts := []string{"localhost", "127.0.0.1", "::1"}
	if h, _, err := net.SplitHostPort(r.PeerAddr); err == nil {
		hosts = append(hosts, h)
	}
	for _, raw := range []string{r.URL, r.AgentURL} {
		if u, err := url.Parse(raw); err == nil && u.Hostname() != "" {
			hosts = append(hosts, u.Hostname())
		}
	}
	return hosts
}

// peerHandler serves the other members.
func (c *clusterView) peerHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+peerNodePath, func(w http.ResponseWriter, r *http.Request) {
		if !c.app.isOpen(r.Context()) {
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(c.own()) // the other node is gone: it will ask again
	})
	c.app.integrity.peers(mux)
	c.app.serveOthers(mux)
	mux.HandleFunc("GET "+peerDiskPath, func(w http.ResponseWriter, r *http.Request) {
		if !c.app.isOpen(r.Context()) {
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(c.app.disk.report()) // the other node is gone: it will ask again
	})
	mux.HandleFunc("POST "+peerRingPath, func(w http.ResponseWriter, r *http.Request) {
		if !c.app.isOpen(r.Context()) {
			return
		}
		if err := c.app.wrapRing(w, r); err != nil {
			problemOf(err).Write(w)
		}
	})
	mux.HandleFunc("POST "+peerRingTakePath, func(w http.ResponseWriter, r *http.Request) {
		if !c.app.isOpen(r.Context()) {
			return
		}
		if err := c.app.takeOffered(w, r); err != nil {
			c.app.log.Warn("a new key was not taken", "peer", forward.PeerID(r.TLS), "err", err)
			problemOf(err).Write(w)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("POST "+peerJoinPath, func(w http.ResponseWriter, r *http.Request) {
		if !c.app.isOpen(r.Context()) {
			return
		}
		if err := c.takeIn(w, r); err != nil {
			c.app.log.Warn("a node was not taken in", "peer", forward.PeerID(r.TLS), "err", err)
			problemOf(err).Write(w)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	return mux
}

// takeIn makes the node at the other end a member, yet without a vote: the leader gives it one when it has caught up.
// Its certificate says who it is.
func (c *clusterView) takeIn(w http.ResponseWriter, r *http.Request) error {
	var s joiner
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4<<10)).Decode(&s); err != nil {
		return problem.Wrap(http.StatusBadRequest, err)
	}
	if known, needed := max(1, s.Format), c.app.state.format(); known < needed {
		return problem.New(http.StatusConflict, fmt.Sprintf("node %s knows formats up to %d, the cluster's is %d", s.ID, known, needed)).
			WithHint("install the version that the members run")
	}
	if id := forward.PeerID(r.TLS); id != s.ID {
		return problem.New(http.StatusForbidden, fmt.Sprintf("node %q asks for node %q", id, s.ID))
	}
	ctx, cancel := context.WithTimeout(r.Context(), joinPatience)
	defer cancel()
	if rec, _ := c.app.membershipOf(s.ID); rec.Leaving != nil {
		return problem.New(http.StatusConflict, fmt.Sprintf("node %s is being removed", s.ID))
	}
	return c.app.node.AddNonvoter(ctx, s.ID, s.Addr)
}

// joiner is what a node says of itself that asks to be taken in.
type joiner struct {
	raftstate.Server
	Format uint32 `json:"format,omitempty"` // the greatest that its program applies; absent: 1
}
