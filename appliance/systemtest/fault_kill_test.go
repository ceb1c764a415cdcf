package systemtest

import (
	"context"
	"fmt"
	"time"
)

// Goals of docs/reliability.md.
const (
	leaderGoal   = 3 * time.Second  // without a commit after the leader is lost
	followerGoal = time.Second / 2  // likewise after a follower is lost
	startGoal    = 15 * time.Second // to the first acknowledgement after all were started again
	healGoal     = 30 * time.Second // to the same state on all nodes after the last fault
)

// trialSenders is how many senders send through a trial of most rows.
const trialSenders = 4

// killRows are those of processes that are gone without a word.
func killRows() []faultRow {
	return []faultRow{
		{
			name: "kill-follower", fault: "kill -9 of a follower, and its start", weight: 20 * time.Second, goal: followerGoal,
			run: func(ctx context.Context, tr *trial) error { return tr.killRounds(ctx, tr.killFollower) },
		},
		{
			name: "kill-leader", fault: "kill -9 of the leader, and its start", weight: 30 * time.Second, goal: leaderGoal,
			run: func(ctx context.Context, tr *trial) error { return tr.killRounds(ctx, tr.killLeader) },
		},
		{
			name: "kill-all", fault: "kill -9 of all nodes at once, and their start", weight: 30 * time.Second, goal: startGoal,
			run: func(ctx context.Context, tr *trial) error { return tr.killRounds(ctx, tr.killAll) },
		},
	}
}

// killRounds sends through five faults and compares.
func (tr *trial) killRounds(ctx context.Context, round func(context.Context) error) error {
	if err := tr.found(ctx, plan{}); err != nil {
		return err
	}
	if err := tr.send(ctx, trialSenders); err != nil {
		return err
	}
	for range 5 {
		if err := round(ctx); err != nil {
			return err
		}
		tr.faulted(1)
		if err := tr.allReady(ctx); err != nil {
			return err
		}
		if err := tr.progress(ctx, 2+tr.rng.IntN(10)); err != nil {
			return err
		}
	}
	return tr.compare(ctx)
}

// follower is one of the nodes that do not lead, by the trial's choice.
func (tr *trial) follower(ctx context.Context) (*devNode, error) {
	leader, err := tr.c.leader(ctx)
	if err != nil {
		return nil, err
	}
	var rest []*devNode
	for i := range tr.c.Nodes {
		if n := &tr.c.Nodes[i]; n != leader {
			rest = append(rest, n)
		}
	}
	return rest[tr.rng.IntN(len(rest))], nil
}

func (tr *trial) killFollower(ctx context.Context) error {
	n, err := tr.follower(ctx)
	if err != nil {
		return err
	}
	takeLongest(tr.traffic.senders)
	if err := tr.c.kill(n); err != nil {
		return err
	}
	if err := tr.progress(ctx, 10); err != nil {
		return fmt.Errorf("with a follower down: %w", err)
	}
	tr.recovered(takeLongest(tr.traffic.senders))
	return tr.c.restart(n)
}

func (tr *trial) killLeader(ctx context.Context) error {
	n, err := tr.c.leader(ctx)
	if err != nil {
		return err
	}
	takeLongest(tr.traffic.senders)
	if err := tr.c.kill(n); err != nil {
		return err
	}
	if err := tr.progress(ctx, 3); err != nil {
		return fmt.Errorf("without the old leader: %w", err)
	}
	tr.recovered(takeLongest(tr.traffic.senders))
	return tr.c.restart(n)
}

func (tr *trial) killAll(ctx context.Context) error {
	for i := range tr.c.Nodes {
		if err := tr.c.kill(&tr.c.Nodes[i]); err != nil {
			return err
		}
	}
	begin := time.Now()
	for i := range tr.c.Nodes {
		if err := tr.c.restart(&tr.c.Nodes[i]); err != nil {
			return err
		}
	}
	if err := tr.progress(ctx, 1); err != nil {
		return fmt.Errorf("after the start of all: %w", err)
	}
	tr.recovered(time.Since(begin))
	return nil
}
