package systemtest

import (
	"context"
	"fmt"
	"time"
)

// needNet is a network whose cables can be cut.
var needNet = need{"network namespaces and nft", netTools}

// networkRows are those of a network that does not carry what it should.
func networkRows() []faultRow {
	return []faultRow{
		{
			name: "part-leader", fault: "the leader is cut off from both followers for 8 s, senders reach all three", needs: []need{needNet},
			weight: 75 * time.Second, short: true, goal: leaderGoal,
			run: func(ctx context.Context, tr *trial) error { return tr.partLeader(ctx) },
		},
	}
}

// partLeader cuts the leader off three times.
func (tr *trial) partLeader(ctx context.Context) error {
	if err := tr.found(ctx, plan{apart: true}); err != nil {
		return err
	}
	if err := tr.send(ctx, trialSenders); err != nil {
		return err
	}
	for range 3 {
		n, err := tr.c.leader(ctx)
		if err != nil {
			return err
		}
		i := tr.index(n)
		var rest []*place
		for j, p := range tr.places {
			if j != i {
				rest = append(rest, p)
			}
		}
		takeLongest(tr.traffic.senders)
		if err := tr.net.isolate(ctx, []*place{tr.places[i]}, rest); err != nil {
			return err
		}
		tr.faulted(1)
		if err := tr.progress(ctx, 3); err != nil {
			return fmt.Errorf("with the leader cut off: %w", err)
		}
		tr.recovered(takeLongest(tr.traffic.senders))
		if err := tr.net.heal(ctx); err != nil {
			return err
		}
		if err := tr.allReady(ctx); err != nil {
			return err
		}
	}
	return tr.compare(ctx)
}
