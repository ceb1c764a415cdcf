package raftstate

import (
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/triward/triward/raftstate/forward"
)

// Status is what a node knows about itself and its cluster. Bytes and counts; times are of the node's clock.
type Status struct {
	Node          string    `json:"node"`
	Role          string    `json:"role"` // leader, follower, candidate or shutdown
	Leader        string    `json:"leader"`
	LeaderAddr    string    `json:"leader_addr"`
	Term          uint64    `json:"term"`
	FirstIndex    uint64    `json:"first_index"`
	LastIndex     uint64    `json:"last_index"`
	LastTerm      uint64    `json:"last_term,omitempty"` // of that entry; 0: not known
	CommitIndex   uint64    `json:"commit_index"`
	AppliedIndex  uint64    `json:"applied_index"`
	MarkIndex     uint64    `json:"mark_index"`
	MarkedAt      time.Time `json:"marked_at"` // when the last mark was made, or the node was opened
	LogTime       int64     `json:"log_time_ms"`
	Clock         int64     `json:"clock_ms"`                // of the node, to compare with those of the others
	ClockSuspect  string    `json:"clock_suspect,omitempty"` // why the node, as leader, does not go by its own clock
	CutsHeld      string    `json:"cuts_held,omitempty"`     // why the node, as leader, takes no cuts for age
	LogBytes      int64     `json:"log_bytes"`
	LogSegments   int       `json:"log_segments"`
	CachedBytes   int64     `json:"cached_bytes"`
	InFlightBytes int64     `json:"in_flight_bytes"`
	InFlightLimit int64     `json:"in_flight_limit"`
	QueueBytes    int64     `json:"queue_retention_bytes"`
	Generation    string    `json:"generation"`
	Installing    bool      `json:"installing"`
	Probation     bool      `json:"probation,omitempty"` // lost its data, has not caught up: no vote
	DiskFull      string    `json:"disk_full,omitempty"` // why appends or Apply are held up
	HeldSince     time.Time `json:"held_since,omitzero"`
	Fatal         string    `json:"fatal,omitempty"`
	StartedAt     time.Time `json:"started_at"`
	Format        uint32    `json:"format"` // the greatest that the node's program applies; absent: 1
	Members       []Member  `json:"members"`
}

// Member is a member of the cluster as the node sees it.
type Member struct {
	ID    string `json:"id"`
	Addr  string `json:"addr"`
	Voter bool   `json:"voter"`
	// Lost says that the member does not answer heartbeats. Only the leader knows.
	Lost        bool      `json:"lost"`
	LastContact time.Time `json:"last_contact,omitzero"` // of a lost member
}

// Status returns the state of the node now.
func (n *Node) Status() Status {
	r := n.raft.Load()
	mark := n.mark.Load()
	st := Status{
		Node: n.cfg.NodeID, AppliedIndex: n.fsm.applied.Load(), MarkIndex: mark.Index, LogTime: n.state.LogTime(),
		Clock: n.cfg.Now().UnixMilli(), ClockSuspect: n.clock.suspicion(), CutsHeld: n.cutsHeld(),
		LogBytes: n.store.Bytes(), LogSegments: n.store.Segments(), CachedBytes: n.store.CachedBytes(),
		InFlightBytes: n.budget.used.Load(), InFlightLimit: n.budget.limit, QueueBytes: n.cfg.QueueBytes,
		Generation: mark.Generation, Installing: n.installing.Load(), Probation: n.probation.Load(), StartedAt: n.startedAt,
		Format: n.cfg.format,
	}
	st.Role = role(r.State())
	addr, id := r.LeaderWithID()
	st.Leader, st.LeaderAddr = string(id), string(addr)
	st.Term, st.LastIndex, st.CommitIndex = r.CurrentTerm(), r.LastIndex(), r.CommitIndex()
	if index, term := n.lastEntry(r); index == st.LastIndex {
		st.LastTerm = term
	}
	st.FirstIndex, _ = n.store.FirstIndex() // 0 when the log is closed
	st.MarkedAt = n.startedAt
	if at := n.markedAt.Load(); at != nil {
		st.MarkedAt = *at
	}
	if err := n.fullDisk(); err != nil {
		st.DiskFull = err.Error()
	}
	if h := n.fsm.held.Load(); h != nil {
		st.HeldSince = h.since
	}
	if err := n.fatalErr.Load(); err != nil {
		st.Fatal = (*err).Error()
	}
	for _, s := range n.servers() {
		m := Member{ID: string(s.ID), Addr: string(s.Address), Voter: s.Suffrage == raft.Voter}
		m.LastContact, m.Lost = n.peers.lostSince(s.ID)
		st.Members = append(st.Members, m)
	}
	return st
}

func role(s raft.RaftState) string {
	switch s {
	case raft.Leader:
		return "leader"
	case raft.Follower:
		return "follower"
	case raft.Candidate:
		return "candidate"
	}
	return "shutdown"
}

// peers knows which members do not answer the leader's heartbeats.
type peers struct {
	mu   sync.Mutex
	lost map[raft.ServerID]time.Time
}

// observe asks raft for what it sees. The channel is bounded; what does not fit is dropped.
func (p *peers) observe(r *raft.Raft) <-chan raft.Observation {
	ch := make(chan raft.Observation, 64)
	r.RegisterObserver(raft.NewObserver(ch, false, func(o *raft.Observation) bool {
		switch o.Data.(type) {
		case raft.FailedHeartbeatObservation, raft.ResumedHeartbeatObservation, raft.PeerObservation:
			return true
		}
		return false
	}))
	return ch
}

func (p *peers) note(o raft.Observation) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lost == nil {
		p.lost = make(map[raft.ServerID]time.Time)
	}
	switch d := o.Data.(type) {
	case raft.FailedHeartbeatObservation:
		p.lost[d.PeerID] = d.LastContact
	case raft.ResumedHeartbeatObservation:
		delete(p.lost, d.PeerID)
	case raft.PeerObservation:
		delete(p.lost, d.Peer.ID)
	}
}

func (p *peers) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.lost)
}

func (p *peers) lostSince(id raft.ServerID) (time.Time, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t, ok := p.lost[id]
	return t, ok
}

// advertised is the stream of the listener under the address that peers are told.
type advertised struct {
	*forward.Stream
	addr peerAddr
}

// Addr implements net.Listener.
func (a advertised) Addr() net.Addr { return a.addr }

// metrics of a node.
type metrics struct {
	marks, pauses prometheus.Histogram
	busy          prometheus.Counter
	gauges        []prometheus.Collector
}

func newMetrics() *metrics {
	return &metrics{
		marks: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "triward_raft_mark_seconds", Help: "Time that the durable step of a mark took.",
			Buckets: prometheus.ExponentialBuckets(0.004, 2, 14),
		}),
		pauses: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "triward_raft_image_pause_seconds", Help: "Time that Apply stood still while an image was cut.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
		}),
		busy: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "triward_raft_proposals_refused_total", Help: "Proposals refused because too many bytes were in flight.",
		}),
	}
}

func (m *metrics) register(n *Node) {
	gauge := func(name, help string, value func() float64) {
		m.gauges = append(m.gauges, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
	}
	gauge("triward_raft_applied_index", "Last entry of the log that state and stores hold.",
		func() float64 { return float64(n.fsm.applied.Load()) })
	gauge("triward_raft_commit_index", "Last entry known to be committed.",
		func() float64 { return float64(n.raft.Load().CommitIndex()) })
	gauge("triward_raft_mark_index", "Entry of the watermark.",
		func() float64 { return float64(n.mark.Load().Index) })
	gauge("triward_raft_log_bytes", "Size of the log.",
		func() float64 { return float64(n.store.Bytes()) })
	gauge("triward_raft_in_flight_bytes", "Bytes of proposals in flight.",
		func() float64 { return float64(n.budget.used.Load()) })
	gauge("triward_raft_term", "Term of the cluster.",
		func() float64 { return float64(n.raft.Load().CurrentTerm()) })
	gauge("triward_raft_leader", "1 on the leader.", func() float64 {
		if n.raft.Load().State() == raft.Leader {
			return 1
		}
		return 0
	})
	gauge("triward_raft_apply_held", "1 while Apply waits for room on a disk.", func() float64 {
		if n.fsm.held.Load() != nil {
			return 1
		}
		return 0
	})
	gauge("triward_raft_clock_suspect", "1 on a leader that does not go by its own clock.", func() float64 {
		if n.clock.suspicion() != "" {
			return 1
		}
		return 0
	})
	m.gauges = append(m.gauges, m.marks, m.pauses, m.busy)
	if n.cfg.Registerer == nil {
		return
	}
	for _, c := range m.gauges {
		if err := n.cfg.Registerer.Register(c); err != nil {
			n.log.Warn("metric is not exported", "err", err)
		}
	}
}

func (m *metrics) unregister(r prometheus.Registerer) {
	if r == nil {
		return
	}
	for _, c := range m.gauges {
		r.Unregister(c)
	}
}
