package raftstate

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// confirmations are when each peer last said that this node is its leader. Raft's own VerifyLeader counts every answer that it
// gets to read, also to what was asked before: the answers that wait in the sockets of a leader whose process was stopped for
// a while would confirm it although another one leads by now, and a read there would miss what that one has acknowledged.
// Only an answer to what was sent after a read began says that nobody led in a later term before it (Ongaro, Raft, 6.4).
type confirmations struct {
	mu      sync.Mutex
	sent    uint64 // numbers what was sent
	last    map[raft.ServerID]confirmation
	changed chan struct{} // closed when last changes; nil while nobody waits
}

// confirmation is the latest request that a peer has answered as a follower in that term.
type confirmation struct{ term, sent uint64 }

// send numbers a request that is about to be sent.
func (c *confirmations) send() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sent++
	return c.sent
}

// answered notes that the peer took the request of that number.
func (c *confirmations) answered(peer raft.ServerID, term, sent uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last == nil {
		c.last = make(map[raft.ServerID]confirmation)
	}
	if last := c.last[peer]; last.term > term || last.term == term && last.sent > sent {
		return // heartbeats and entries go over connections of their own: their answers overtake each other
	}
	c.last[peer] = confirmation{term, sent}
	if c.changed != nil {
		close(c.changed)
		c.changed = nil
	}
}

// since reports whether a majority of the voters, of which self is one, has confirmed the term by answers to requests
// after that number; if not, changed is closed when that may be different.
func (c *confirmations) since(voters []raft.ServerID, self raft.ServerID, term, number uint64) (confirmed bool, changed <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	count := 0
	for _, id := range voters {
		if last := c.last[id]; id == self || last.term == term && last.sent > number {
			count++
		}
	}
	if count > len(voters)/2 {
		return true, nil
	}
	if c.changed == nil {
		c.changed = make(chan struct{})
	}
	return false, c.changed
}

// confirmed waits until a majority has said, when asked after the request of that number, that this node leads them in the term.
func (n *Node) confirmed(ctx context.Context, r *raft.Raft, term, number uint64) error {
	var voters []raft.ServerID
	for _, s := range n.servers() {
		if s.Suffrage == raft.Voter {
			voters = append(voters, s.ID)
		}
	}
	look := time.NewTicker(leaderRetry)
	defer look.Stop()
	for {
		ok, changed := n.confirms.since(voters, raft.ServerID(n.cfg.NodeID), term, number)
		switch {
		case r.State() != raft.Leader || r.CurrentTerm() != term:
			return errNotLeader
		case ok:
			return nil
		}
		select {
		case <-changed:
		case <-look.C: // whether it leads at all
		case <-ctx.Done():
			return ctx.Err()
		case <-n.closing:
			return ErrStopped
		}
	}
}
