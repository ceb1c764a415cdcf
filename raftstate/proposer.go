package raftstate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/logfile"
)

const (
	entryTarget  = 256 << 10              // an entry is closed once it has this many bytes
	entriesOut   = 8                      // entries on their way at once: more made it slower
	queueLength  = 4096                   // proposals waiting to become part of an entry
	leaderWait   = 900 * time.Millisecond // so that the answer without one is there within a second
	leaderRetry  = 25 * time.Millisecond
	proposeLimit = 30 * time.Second // for a proposal whose context has no end
)

// rawBytes returns how many bytes the bodies among the commands have decompressed.
func rawBytes(cmds []command.Command) (sum int) {
	for _, c := range cmds {
		switch c.Type &^ command.Ignorable {
		case command.TypeBatch:
			if b, err := command.DecodeBatch(c); err == nil {
				sum += b.RawLen
			}
		case command.TypeDeliver:
			if d, err := command.DecodeDeliver(c); err == nil {
				sum += d.RawLen
			}
		}
	}
	return sum
}

// proposal is what one caller wants in one entry, together.
type proposal struct {
	commands []command.Command
	size     int
	raw      int           // bytes of its bodies, decompressed
	done     chan proposed // buffered: the answer never waits for a caller who went away
	finish   func()        // gives the bytes back
}

type proposed struct {
	outcome outcome
	err     error
}

func (p *proposal) answer(o outcome, err error) {
	p.finish()
	p.done <- proposed{o, err}
}

// budget bounds the bytes of proposals that this node holds.
type budget struct {
	limit int64
	used  atomic.Int64
}

func (b *budget) take(n int64) bool {
	if b.used.Add(n) > b.limit {
		b.used.Add(-n)
		return false
	}
	return true
}

func (b *budget) give(n int64) { b.used.Add(-n) }

// proposer turns the proposals of many callers into few entries while this node leads.
type proposer struct {
	n     *Node
	queue chan *proposal
	slots chan struct{}
	stop  chan struct{}
	wg    sync.WaitGroup
	carry *proposal // taken from the queue, did not fit into the last entry
	stamp int64     // of the last entry
}

func newProposer(n *Node) *proposer {
	return &proposer{
		n: n, queue: make(chan *proposal, queueLength), slots: make(chan struct{}, entriesOut), stop: make(chan struct{}),
	}
}

// submit queues p; the answer comes in p.done.
func (pr *proposer) submit(p *proposal) bool {
	select {
	case <-pr.stop:
		return false
	default:
	}
	select {
	case pr.queue <- p:
		return true
	default:
		return false
	}
}

// run makes entries until stop is closed.
func (pr *proposer) run() {
	defer pr.wg.Done()
	defer pr.drain()
	for {
		if pr.carry == nil {
			select {
			case pr.carry = <-pr.queue:
			case <-pr.stop:
				return
			}
		}
		select {
		case pr.slots <- struct{}{}: // while it waits for a slot, callers gather in the queue
		case <-pr.stop:
			return
		}
		pr.propose(pr.gather())
	}
}

// gather takes from the queue what fits into one entry.
func (pr *proposer) gather() []*proposal {
	batch := []*proposal{pr.carry}
	size, raw, commands := command.Overhead+pr.carry.size, pr.carry.raw, len(pr.carry.commands)
	pr.carry = nil
	for size < entryTarget {
		select {
		case p := <-pr.queue:
			if size+p.size > entryTarget || raw+p.raw > command.MaxEntryRaw || commands+len(p.commands) > command.MaxCommands {
				pr.carry = p
				return batch
			}
			batch = append(batch, p)
			size += p.size
			raw += p.raw
			commands += len(p.commands)
		default:
			return batch
		}
	}
	return batch
}

// propose hands one entry to raft and answers the batch when it is applied.
func (pr *proposer) propose(batch []*proposal) {
	n := pr.n
	if err := n.mayLead(); err != nil {
		<-pr.slots
		answerAll(batch, err)
		return
	}
	now, known := n.clock.now()
	if !known { // it has only just become the leader: the caller tries again in a moment
		<-pr.slots
		answerAll(batch, errNotLeader)
		return
	}
	entry := command.Entry{Stamp: max(pr.stamp, n.state.LogTime(), now)}
	pr.stamp = entry.Stamp
	size := command.Overhead
	for _, p := range batch {
		entry.Commands = append(entry.Commands, p.commands...)
		size += p.size
	}
	future := n.raft.Load().ApplyLog(raft.Log{Data: entry.Append(make([]byte, 0, size))}, 0)
	pr.wg.Add(1)
	go func() {
		defer pr.wg.Done()
		err := future.Error()
		<-pr.slots
		if err != nil {
			answerAll(batch, n.proposeError(err))
			return
		}
		share(batch, future.Response())
	}()
}

// share gives each proposal of an entry its part of the results.
func share(batch []*proposal, response any) {
	o, ok := response.(outcome)
	if !ok {
		err, _ := response.(error)
		answerAll(batch, fmt.Errorf("%w: %w", ErrUnknown, err))
		return
	}
	rest := o.results
	for _, p := range batch {
		k := min(len(p.commands), len(rest))
		if k < len(p.commands) {
			p.answer(outcome{}, fmt.Errorf("entry %d has too few results: %w", o.index, ErrUnknown))
			continue
		}
		p.answer(outcome{index: o.index, term: o.term, results: rest[:k:k]}, nil)
		rest = rest[k:]
	}
}

func answerAll(batch []*proposal, err error) {
	for _, p := range batch {
		p.answer(outcome{}, err)
	}
}

// proposeError sorts raft's errors: those that say the entry certainly will not be applied, and the others.
func (n *Node) proposeError(err error) error {
	switch {
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return errNotLeader
	case errors.Is(err, logfile.ErrFull):
		return n.refuseFull(err)
	}
	return fmt.Errorf("%w: %w", ErrUnknown, err)
}

func (pr *proposer) drain() {
	for {
		p := pr.carry
		if pr.carry = nil; p == nil {
			select {
			case p = <-pr.queue:
			default:
				return
			}
		}
		p.answer(outcome{}, ErrStopped)
	}
}

// mayLead says whether this node can take an entry now.
func (n *Node) mayLead() error {
	switch {
	case n.fsm.failed.Load():
		return ErrStopped
	case n.raft.Load().State() != raft.Leader:
		return errNotLeader
	}
	if err := n.noRoom(); err != nil {
		return n.refuseFull(err)
	}
	return nil
}

// Propose puts commands, together in one entry, into the log and returns the index of the entry and a result
// for each command once the leader has applied them. Any node takes proposals and hands them to the leader. The
// commands are durable on a majority then; to read them on this node, WaitApplied(index) first. Bodies that have
// more than command.MaxEntryRaw together go into several entries in the order given; the index is that of the last.
//
// Errors: ErrTooLarge, ErrBusy, ErrNoLeader, ErrDiskFull, ErrMakingRoom, ErrClocks, ErrUnsupported and ErrStopped say that
// nothing was applied; ErrUnknown and those of ctx that the outcome is not known. A refusal by the state machine is a result, not an error.
func (n *Node) Propose(ctx context.Context, cmds ...command.Command) (uint64, []command.Result, error) {
	size := 0
	for i := range cmds {
		size += cmds[i].Size()
	}
	if len(cmds) == 0 || len(cmds) > command.MaxCommands || size+command.Overhead > command.MaxEntry {
		return 0, nil, fmt.Errorf("%d commands of %d bytes, at most %d of %d are possible: %w",
			len(cmds), size, command.MaxCommands, command.MaxEntry-command.Overhead, ErrTooLarge)
	}
	if err := n.afterReplay(ctx); err != nil {
		return 0, nil, err
	}
	if !n.budget.take(int64(size)) {
		n.metrics.busy.Inc()
		return 0, nil, ErrBusy
	}
	give := sync.OnceFunc(func() { n.budget.give(int64(size)) })
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, proposeLimit)
		defer cancel()
	}
	return n.route(ctx, cmds, size, give)
}

// route brings the proposal to the leader, looking for one for at most leaderWait.
func (n *Node) route(ctx context.Context, cmds []command.Command, size int, give func()) (uint64, []command.Result, error) {
	limit := time.NewTimer(leaderWait)
	defer limit.Stop()
	why := errors.New("none is known here")
	for {
		id, self := n.Leader()
		switch {
		case self:
			o, err := n.proposeHere(ctx, cmds)
			if !errors.Is(err, errNotLeader) {
				return o.index, o.results, err
			}
			// The bytes were given back with the answer; take them again for the next try.
			if !n.budget.take(int64(size)) {
				return 0, nil, ErrBusy
			}
			give = sync.OnceFunc(func() { n.budget.give(int64(size)) })
			why = err
		case id != "":
			o, err := n.proposeAt(ctx, id, cmds, size)
			if !errors.Is(err, errNotLeader) {
				give()
				return o.index, o.results, err
			}
			why = err
		}
		if err := n.nextLeader(ctx, limit.C); err != nil {
			give()
			return 0, nil, fmt.Errorf("%w: %w", err, why)
		}
	}
}

// nextLeader waits a little for another leader; ErrNoLeader when the time for it has passed.
func (n *Node) nextLeader(ctx context.Context, limit <-chan time.Time) error {
	retry := time.NewTimer(leaderRetry)
	defer retry.Stop()
	select {
	case <-retry.C:
		return nil
	case <-limit:
		return n.noLeader()
	case <-n.closing:
		return ErrStopped
	case <-ctx.Done():
		return n.noLeader()
	}
}

// noLeader is ErrNoLeader with the name of the node that led last as far as is known here: whoever asks may find it, or
// the members that have taken its place, elsewhere.
func (n *Node) noLeader() error {
	if last := n.calls.last.Load(); last != nil {
		return fmt.Errorf("%w (node %s led last)", ErrNoLeader, *last)
	}
	return ErrNoLeader
}

// split shares the commands out over as few proposals as command.MaxEntryRaw allows, in order. The bytes of the
// commands are given back to the budget part by part.
func (n *Node) split(cmds []command.Command) (parts []*proposal) {
	for i := range cmds {
		raw := rawBytes(cmds[i : i+1])
		if len(parts) == 0 || parts[len(parts)-1].raw+raw > command.MaxEntryRaw {
			next := &proposal{done: make(chan proposed, 1)}
			next.finish = func() { n.budget.give(int64(next.size)) }
			parts = append(parts, next)
		}
		p := parts[len(parts)-1]
		p.commands = append(p.commands, cmds[i])
		p.size += cmds[i].Size()
		p.raw += raw
	}
	return parts
}

// proposeHere puts the commands, whose bytes were taken from the budget, into the log of this node, which must lead.
func (n *Node) proposeHere(ctx context.Context, cmds []command.Command) (outcome, error) {
	parts := n.split(cmds)
	if err := n.admit(ctx, cmds); err != nil {
		answerAll(parts, err)
		return outcome{}, err
	}
	taken := true
	for _, p := range parts {
		if taken = taken && n.proposer.submit(p); !taken { // nor what comes after it
			n.metrics.busy.Inc()
			p.answer(outcome{}, ErrBusy)
		}
	}
	var all outcome
	var failed error
	applied, unknown := 0, false
	for _, p := range parts {
		select {
		case r := <-p.done:
			if r.err != nil {
				failed = cmp.Or(failed, r.err)
				unknown = unknown || errors.Is(r.err, ErrUnknown)
				continue
			}
			applied++
			all.index, all.term = r.outcome.index, r.outcome.term
			all.results = append(all.results, r.outcome.results...)
		case <-ctx.Done():
			return outcome{}, fmt.Errorf("%w: %w", ErrUnknown, ctx.Err())
		}
	}
	switch {
	case failed == nil:
		return all, nil
	case len(parts) > 1 && (applied > 0 || unknown): // what the error says holds for a part of the commands only
		return outcome{}, fmt.Errorf("%w: %d of %d entries were applied: %s", ErrUnknown, applied, len(parts), failed)
	}
	return outcome{}, failed
}

// Leader returns the id of the leader as far as this node knows, "" when it knows none, and whether it is this
// node.
func (n *Node) Leader() (id string, self bool) {
	r := n.raft.Load()
	_, leader := r.LeaderWithID()
	return string(leader), r.State() == raft.Leader
}
