package raftstate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/triward/triward/raftstate/logfile"
)

// A log whose end is damaged is cut there, and a node without all of its log has no vote until a leader has filled it up
// again. Where several nodes lost power together there may be no leader then, so the end is made whole from the other nodes
// where it can be shown to be the one that was:
//
//   - Each damaged entry is the same on another node, by the checksum that was made of it or by all the rest of it.
//   - So many other voters answer, whose logs are whole, that any majority which this node helped to make has one of them.
//     Whatever was committed with its help is in the most advanced of their logs, which is taken. When only the file that
//     says where the log had ended is damaged, and no entry, all that answer are enough.
//
// The vote itself is in another place, whose damage costs it (setLogAside).

const (
	// tailPatience is how long voters that do not answer are waited for: nodes that lost power together come up together.
	tailPatience = 20 * time.Second
	tailRetry    = 500 * time.Millisecond
	// maxTail bounds the entries that are taken, in bytes; of more the log is cut.
	maxTail = 64 << 20
	// maxTailEntries bounds how many entries are asked for.
	maxTailEntries = 1 << 16
)

// tail is the end of a log that is being mended.
type tail struct {
	n        *Node
	cut      uint64 // the first entry that is not kept
	last     uint64
	before   uint64          // term of the entry before cut
	doubt    logfile.Doubt   // of what was behind last
	claims   []logfile.Claim // of cut to last; nil: nothing is known of them
	voters   map[string]bool // the others
	quorum   int             // how many of them any majority with this node has one of
	patience time.Duration
}

// mendTail makes the end of the log whole (HowLogFilled), or cuts it before the first entry above the mark that is damaged,
// whose index it returns, and puts the node on probation (HowLogCut). It is called while nothing is open.
func (n *Node) mendTail(ctx context.Context) (r Repaired, err error) {
	opt := n.logOptions()
	opt.Short = true
	store, err := logfile.Open(filepath.Join(n.cfg.DataDir, raftDir), opt)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	id, err := store.Get([]byte(identityKey))
	if err != nil {
		return r, err
	}
	if string(id) != n.cfg.NodeID {
		return r, fmt.Errorf("log says that it is of node %q", id)
	}
	held, err := store.Get([]byte(probationKey))
	if err != nil {
		return r, err
	}
	t, err := n.readTail(ctx, store)
	if err != nil {
		return r, err
	}
	r = Repaired{Parts: []string{PartLog}, How: HowLogCut, Index: t.cut}
	var entries []*raft.Log
	var from string
	shown := false
	if string(held) != probationOn { // or something else was lost before
		entries, from, shown = t.fill(ctx)
	}
	if err := ctx.Err(); err != nil { // nothing was changed
		return r, err
	}
	// Probation first: if the power goes here, the node must not have a vote without what is cut.
	if err := store.Set([]byte(probationKey), []byte(probationOn)); err != nil {
		return r, err
	}
	if t.cut <= t.last {
		if err := store.DeleteRange(t.cut, t.last); err != nil {
			return r, err
		}
	}
	if shown && len(entries) > 0 {
		if err := followTerm(store, entries[len(entries)-1].Term); err != nil {
			return r, err
		}
		if err := store.StoreLogs(entries); err != nil {
			return r, err
		}
	}
	if err := store.SetReach(); err != nil || !shown {
		return r, err
	}
	if err := store.Set([]byte(probationKey), nil); err != nil {
		return r, err
	}
	r.How, r.From = HowLogFilled, from
	return r, nil
}

// followTerm keeps a node from an election in a term that its log is beyond, as when it is sent entries by a leader.
func followTerm(store *logfile.Store, last uint64) error {
	term, err := store.GetUint64(keyTerm)
	if err != nil || term >= last {
		return err
	}
	return store.SetUint64(keyTerm, last)
}

func (n *Node) readTail(ctx context.Context, store *logfile.Store) (*tail, error) {
	mark := n.mark.Load()
	last, err := store.LastIndex()
	if err != nil {
		return nil, err
	}
	t := &tail{n: n, cut: last + 1, last: last, before: mark.Term, doubt: store.Doubt(), patience: tailPatience, voters: make(map[string]bool)}
	if first := store.Verify(ctx, mark.Index+1); first != nil {
		bad, ok := logfile.DamagedIndex(first)
		if !ok {
			return nil, first
		}
		t.cut = bad
		if t.claims, err = store.Claims(bad, last, maxTail); err != nil {
			n.log.Warn("the end of the log cannot be compared with that of other nodes", "err", err)
		}
	}
	if t.cut-1 > mark.Index {
		var l raft.Log
		if err := store.GetLog(t.cut-1, &l); err != nil {
			return nil, err
		}
		t.before = l.Term
	}
	config, err := lastConfiguration(store, mark, t.cut-1, nil)
	if err != nil {
		return nil, err
	}
	voters := 0
	for _, s := range config.Servers {
		if s.Suffrage != raft.Voter {
			continue
		}
		voters++
		if string(s.ID) != n.cfg.NodeID {
			t.voters[string(s.ID)] = true
		}
	}
	t.quorum = len(t.voters) - voters/2 + 1
	return t, nil
}

// fill asks the other nodes for the entries from cut on; false when it is not shown that nothing is missing with them.
func (t *tail) fill(ctx context.Context) (entries []*raft.Log, from string, ok bool) {
	limit := time.NewTimer(t.patience)
	defer limit.Stop()
	for waits := true; ; {
		said := t.n.askPeers(ctx, t.n.peerRepair())
		maps.DeleteFunc(said, func(_ string, p PeerRepair) bool { return !p.Ready || p.Probation || p.Last == 0 })
		if entries, from, ok = t.same(ctx, said); ok {
			return entries, from, true
		}
		if entries, from, ok = t.others(ctx, said); ok {
			return entries, from, true
		}
		if !waits || t.hopeless(said) {
			return nil, "", false
		}
		wait := time.NewTimer(tailRetry)
		select {
		case <-wait.C:
		case <-limit.C:
			waits = false
			if t.doubt == logfile.DoubtReach && t.cut > t.last {
				t.quorum = 1
			}
		case <-ctx.Done():
			return nil, "", false
		}
		wait.Stop()
	}
}

// hopeless reports whether waiting brings nothing: all have answered.
func (t *tail) hopeless(said map[string]PeerRepair) bool {
	for id := range t.voters {
		if _, ok := said[id]; !ok {
			return false
		}
	}
	return true
}

// same shows that the damaged entries are those of another node.
func (t *tail) same(ctx context.Context, said map[string]PeerRepair) ([]*raft.Log, string, bool) {
	if t.doubt != logfile.DoubtNone || len(t.claims) == 0 {
		return nil, "", false
	}
	for _, id := range slices.Sorted(maps.Keys(said)) {
		if said[id].Last < t.last {
			continue
		}
		entries, err := t.take(ctx, id, t.last)
		if err != nil {
			t.n.log.Info("entries of another node for the end of the log", "peer", id, "err", err)
			continue
		}
		if !slices.EqualFunc(t.claims, entries, func(c logfile.Claim, l *raft.Log) bool { return c.Is(l) }) {
			continue
		}
		return entries, id, true
	}
	return nil, "", false
}

// others takes the most advanced log of those that answer, when these are enough.
func (t *tail) others(ctx context.Context, said map[string]PeerRepair) ([]*raft.Log, string, bool) {
	answer, best := 0, ""
	for id := range t.voters {
		p, ok := said[id]
		if !ok {
			continue
		}
		answer++
		if b := said[best]; best == "" || p.LastTerm > b.LastTerm || p.LastTerm == b.LastTerm && p.Last > b.Last {
			best = id
		}
	}
	if answer == 0 || answer < t.quorum {
		return nil, "", false
	}
	p := said[best]
	if p.LastTerm < t.before || p.LastTerm == t.before && p.Last < t.cut {
		return nil, "", true // what is kept is as advanced
	}
	if p.Last < t.cut || p.Last-t.cut > maxTailEntries {
		return nil, "", false
	}
	entries, err := t.take(ctx, best, p.Last)
	if err != nil {
		t.n.log.Info("entries of another node for the end of the log", "peer", best, "err", err)
		return nil, "", false
	}
	for _, l := range entries { // who the voters are may be another thing there
		if l.Type == raft.LogConfiguration {
			return nil, "", false
		}
	}
	return entries, best, true
}

// take gets the entries cut to last of another node, which follow what is kept here.
func (t *tail) take(ctx context.Context, peer string, last uint64) ([]*raft.Log, error) {
	own := t.n.peerRepair()
	own.From, own.To = t.cut-1, last
	if last-own.From > maxTailEntries {
		return nil, fmt.Errorf("node %s is %d entries further", peer, last-own.From)
	}
	resp, err := t.n.postPeer(ctx, peer, repairLogPath, own)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("node %s: %s", peer, resp.Status)
	}
	var entries []*raft.Log
	in := json.NewDecoder(io.LimitReader(resp.Body, 2*maxTail))
	for i := own.From; i <= last; i++ {
		l := new(raft.Log)
		if err := in.Decode(l); err != nil {
			return nil, fmt.Errorf("entry %d of node %s: %w", i, peer, err)
		}
		if l.Index != i {
			return nil, fmt.Errorf("node %s sent entry %d for entry %d", peer, l.Index, i)
		}
		if i == own.From {
			if l.Term != t.before && i > 0 {
				return nil, fmt.Errorf("entry %d of node %s is of term %d, here of term %d", i, peer, l.Term, t.before)
			}
			continue
		}
		if len(l.Data) == 0 { // as it is stored
			l.Data = nil
		}
		entries = append(entries, l)
	}
	return entries, nil
}

// lastEntry returns index and term of the last entry of this node's log; 0 when they cannot be had now.
func (n *Node) lastEntry(r *raft.Raft) (index, term uint64) {
	index = r.LastIndex()
	if mark := n.mark.Load(); mark.Index == index {
		return index, mark.Term
	}
	var l raft.Log
	if index == 0 || n.store.GetLog(index, &l) != nil {
		return 0, 0
	}
	return index, l.Term
}

// serveLog sends entries of this node's log to another one whose log is damaged.
func (n *Node) serveLog(w http.ResponseWriter, r *http.Request) {
	said, ok := n.asker(w, r)
	if !ok {
		return
	}
	if !n.started.Load() || n.probation.Load() || n.fsm.failed.Load() {
		http.Error(w, "this node cannot help now", http.StatusServiceUnavailable)
		return
	}
	if said.To < said.From || said.To-said.From > maxTailEntries {
		http.Error(w, "from and to: too many entries", http.StatusBadRequest)
		return
	}
	defer n.store.Hold()()
	w.Header().Set("Content-Type", "application/json")
	out := json.NewEncoder(w)
	sent := 0
	for i := said.From; i <= said.To && r.Context().Err() == nil; i++ {
		var l raft.Log
		if mark := n.mark.Load(); i == 0 || i == mark.Index && i == said.From {
			l = raft.Log{Index: i, Term: mark.Term} // only its term is asked for
		} else if err := n.store.GetLog(i, &l); err != nil {
			if i == said.From {
				http.Error(w, err.Error(), http.StatusNotFound)
			}
			return // the other end misses what does not come
		}
		if sent += len(l.Data); sent > maxTail || out.Encode(&l) != nil {
			return
		}
	}
}
