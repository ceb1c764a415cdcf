package raftstate

import (
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
)

// errHangs is why a request to a peer was not sent.
var errHangs = errors.New("the disk of this node hangs: it does not lead")

// quiet keeps a node whose disk hangs from leading. Raft's heartbeats do not pass through the log, so without this a
// leader that cannot store anything would keep its lease until the watchdog ends the node.
func (n *Node) quiet(trans raft.Transport) raft.Transport {
	limit := n.cfg.HungDisk / 2
	return &quietTransport{Transport: trans, hangs: func() bool { return n.store.Writing() > limit }, confirms: &n.confirms}
}

// quietTransport sends peers nothing as their leader while the disk hangs: after their time-out they elect another one,
// and this node finds a later term when its disk answers again. It notes who confirms that this node leads.
type quietTransport struct {
	raft.Transport
	hangs    func() bool
	confirms *confirmations
}

var (
	_ raft.WithPreVote = (*quietTransport)(nil)
	_ raft.WithClose   = (*quietTransport)(nil)
)

// AppendEntries implements raft.Transport: entries and heartbeats.
func (t *quietTransport) AppendEntries(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if t.hangs() {
		return errHangs
	}
	number := t.confirms.send()
	err := t.Transport.AppendEntries(id, target, args, resp)
	if err == nil && resp.Success && resp.Term == args.Term {
		t.confirms.answered(id, args.Term, number)
	}
	return err
}

// AppendEntriesPipeline implements raft.Transport.
func (t *quietTransport) AppendEntriesPipeline(id raft.ServerID, target raft.ServerAddress) (raft.AppendPipeline, error) {
	if t.hangs() {
		return nil, errHangs
	}
	p, err := t.Transport.AppendEntriesPipeline(id, target)
	if err != nil {
		return nil, err
	}
	return &quietPipeline{openPipeline(p), t.hangs}, nil
}

// RequestPreVote implements raft.WithPreVote.
func (t *quietTransport) RequestPreVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	p, ok := t.Transport.(raft.WithPreVote)
	if !ok {
		return fmt.Errorf("%T knows no pre-vote", t.Transport)
	}
	return p.RequestPreVote(id, target, args, resp)
}

// Close implements raft.WithClose.
func (t *quietTransport) Close() error {
	if c, ok := t.Transport.(raft.WithClose); ok {
		return c.Close()
	}
	return nil
}

type quietPipeline struct {
	raft.AppendPipeline
	hangs func() bool
}

// AppendEntries implements raft.AppendPipeline.
func (p *quietPipeline) AppendEntries(args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	if p.hangs() {
		return nil, errHangs
	}
	return p.AppendPipeline.AppendEntries(args, resp)
}
