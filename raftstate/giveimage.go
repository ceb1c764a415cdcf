package raftstate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/hashicorp/raft"

	"github.com/triward/triward/raftstate/forward"
)

// Pages on the peer port by which nodes mend one another.
const (
	repairStatePath = forward.RepairPath + "state" // POST PeerRepair; answer: PeerRepair
	repairImagePath = forward.RepairPath + "image" // POST PeerRepair; answer: an image
	repairLogPath   = forward.RepairPath + "log"   // POST PeerRepair; answer: entries of the log, each as JSON
	maxRepairBody   = 1 << 20
	// giveIdle is how long a taker may take nothing before it is given up.
	giveIdle = time.Minute
	busyCode = http.StatusTooManyRequests
)

// PeerRepair is what a node says of its damage to another.
type PeerRepair struct {
	Node    string   `json:"node"`
	Damage  []Damage `json:"damage,omitempty"`
	Doing   string   `json:"doing,omitempty"`
	Refused string   `json:"refused,omitempty"` // why it cannot mend itself
	// What follows says whether the node can help.
	Ready     bool   `json:"ready,omitempty"` // its state is open
	Leader    bool   `json:"leader,omitempty"`
	Probation bool   `json:"probation,omitempty"`
	Applied   uint64 `json:"applied,omitempty"`
	Term      uint64 `json:"term,omitempty"`
	// Last and LastTerm are those of the last entry of its log; 0 when they are not known. They say nothing of a node on probation.
	Last     uint64 `json:"last,omitempty"`
	LastTerm uint64 `json:"last_term,omitempty"`
	// From and To are the entries of the log that the asker wants.
	From uint64 `json:"from,omitempty"`
	To   uint64 `json:"to,omitempty"`
	// Chosen says that an operator of the asker named this node.
	Chosen bool `json:"chosen,omitempty"`
}

// pages are the node's own pages for peers and, beside them, those of the configuration.
func (n *Node) pages() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+repairStatePath, n.serveRepairState)
	mux.HandleFunc("POST "+repairImagePath, n.serveImage)
	mux.HandleFunc("POST "+repairLogPath, n.serveLog)
	if n.cfg.PeerHandler != nil {
		mux.Handle("/", n.cfg.PeerHandler)
	}
	return mux
}

// peerRepair is what this node says of itself.
func (n *Node) peerRepair() PeerRepair {
	p := PeerRepair{Node: n.cfg.NodeID, Probation: n.probation.Load(), Ready: n.started.Load() && !n.fsm.failed.Load()}
	if n.cfg.Repairs != nil {
		p.Damage = n.cfg.Repairs.Known()
	}
	if r := n.raft.Load(); r != nil {
		p.Leader, p.Term, p.Applied = r.State() == raft.Leader, r.CurrentTerm(), n.fsm.applied.Load()
		p.Last, p.LastTerm = n.lastEntry(r)
	}
	if why := n.refusal.Load(); why != nil {
		p.Refused = *why
	}
	return p
}

func (n *Node) asker(w http.ResponseWriter, r *http.Request) (said PeerRepair, ok bool) {
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRepairBody)).Decode(&said); err != nil {
		http.Error(w, "body: "+err.Error(), http.StatusBadRequest)
		return said, false
	}
	if n.listener != nil { // who asks stands in its certificate
		if id := forward.PeerID(r.TLS); id == "" || id != said.Node {
			http.Error(w, fmt.Sprintf("node %q asks as node %q", id, said.Node), http.StatusForbidden)
			return said, false
		}
	}
	if len(said.Damage) > maxPeerDamage {
		said.Damage = said.Damage[:maxPeerDamage]
	}
	return said, true
}

// maxPeerDamage bounds how many places nodes tell one another.
const maxPeerDamage = 100

func (n *Node) serveRepairState(w http.ResponseWriter, r *http.Request) {
	said, ok := n.asker(w, r)
	if !ok {
		return
	}
	if n.cfg.Repairs != nil {
		n.cfg.Repairs.Heard(said.Node, said)
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(n.peerRepair()) // the other node is gone: it will ask again
}

// serveImage streams this node's state to another one whose data is damaged, to one at a time.
func (n *Node) serveImage(w http.ResponseWriter, r *http.Request) {
	said, ok := n.asker(w, r)
	if !ok {
		return
	}
	if !n.started.Load() {
		http.Error(w, "this node is still starting", http.StatusServiceUnavailable)
		return
	}
	if !n.giving.CompareAndSwap(false, true) {
		http.Error(w, "another node is being given an image", busyCode)
		return
	}
	defer n.giving.Store(false)
	if err := n.mayGive(r.Context(), &said); err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	err := n.giveImage(r.Context(), w)
	if errors.Is(err, errNotCut) {
		n.log.Warn("image for another node's repair", "to", said.Node, "err", err)
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	if err != nil {
		n.log.Warn("image for another node's repair", "to", said.Node, "err", err)
		panic(http.ErrAbortHandler) // so that the other end sees that it is cut
	}
	n.log.Info("image given for a repair", "to", said.Node)
}

// mayGive refuses what is known to be damaged here, and what turns out to be when it is compared with what was accepted:
// the days in which the asker is damaged, and how many lines there are.
func (n *Node) mayGive(ctx context.Context, asker *PeerRepair) error {
	if n.probation.Load() {
		return errProbation
	}
	if n.cfg.Repairs == nil {
		return nil
	}
	for _, d := range n.cfg.Repairs.Known() {
		if d.inImage() {
			return fmt.Errorf("node %s is damaged itself: %s", n.cfg.NodeID, d.Place)
		}
	}
	if err := n.cfg.Repairs.Whole(ctx, asker.Damage); err != nil {
		return fmt.Errorf("node %s does not hold what the cluster accepted: %w", n.cfg.NodeID, err)
	}
	return nil
}

// errNotCut says that there is no image, of which nothing was sent.
var errNotCut = errors.New("cut image")

func (n *Node) giveImage(ctx context.Context, w http.ResponseWriter) error {
	hold := n.store.Hold() // what comes after the image the other node may need from here
	defer func() { n.after(holdAfter, hold) }()
	n.images.mu.Lock()
	n.images.number++
	id := fmt.Sprint(n.images.number)
	n.images.mu.Unlock()
	c, err := n.cut(id)
	if err != nil {
		return fmt.Errorf("%w: %w", errNotCut, err)
	}
	w.Header().Set("Content-Type", "application/x-tar")
	w.Header().Set("Content-Length", strconv.FormatInt(c.image.Size(), 10))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	out := &watched{w: w, stop: time.AfterFunc(giveIdle, cancel)}
	defer out.stop.Stop()
	stop := context.AfterFunc(n.ctx, cancel)
	defer stop()
	return errors.Join(c.image.WriteTo(ctx, out), n.layout.RemoveImage(id))
}

// watched puts off what ends a transfer as long as it goes on.
type watched struct {
	w    io.Writer
	stop *time.Timer
}

// Write implements io.Writer.
func (t *watched) Write(p []byte) (int, error) {
	m, err := t.w.Write(p)
	if m > 0 {
		t.stop.Reset(giveIdle)
	}
	return m, err
}
