package systemtest

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// needNet is a network whose cables can be cut.
var needNet = need{"network namespaces and nft", netTools}

// split is a way to cut the network around a node.
type split struct {
	// cut does it. i is the node that the row is about.
	cut func(tr *trial, ctx context.Context, i int) error
	// lone says that node i has no majority then; all, that no node has.
	lone, all bool
	// reached says that the harness, which is where senders are, still reaches node i.
	reached bool
}

// networkRows are those of a network that does not carry what it should.
func networkRows() []faultRow {
	toOthers := func(tr *trial, ctx context.Context, i int) error { return tr.oneWay(ctx, i, true) }
	fromOthers := func(tr *trial, ctx context.Context, i int) error { return tr.oneWay(ctx, i, false) }
	return []faultRow{
		partRow("part-leader", "the leader is cut off from both followers, senders reach all three", true, true, leaderGoal,
			split{cut: (*trial).apart, lone: true, reached: true}),
		partRow("part-island", "the leader is cut off from everybody", true, false, 2*leaderGoal, split{cut: (*trial).island, lone: true}),
		partRow("part-follower", "a follower is cut off from both others, senders reach all three", false, false, leaderGoal,
			split{cut: (*trial).apart, lone: true, reached: true}),
		partRow("part-link", "the cable between the leader and one follower is cut", true, false, leaderGoal, split{cut: (*trial).link, reached: true}),
		partRow("part-mesh", "every cable between nodes is cut", true, false, startGoal, split{cut: (*trial).mesh, lone: true, all: true, reached: true}),
		partRow("oneway-leader-deaf", "the leader sends and receives nothing", true, false, leaderGoal, split{cut: fromOthers, lone: true, reached: true}),
		partRow("oneway-leader-mute", "the leader receives and what it sends is lost", true, false, leaderGoal, split{cut: toOthers, lone: true, reached: true}),
		partRow("oneway-follower-deaf", "a follower sends and receives nothing", false, false, leaderGoal, split{cut: fromOthers, lone: true, reached: true}),
		partRow("oneway-follower-mute", "a follower receives and what it sends is lost", false, false, leaderGoal, split{cut: toOthers, reached: true}),
		{
			name: "flap-leader", fault: "the cables of the leader are cut and mended again every 0.3 to 3 s for 40 s", needs: []need{needNet},
			weight: 65 * time.Second,
			run:    func(ctx context.Context, tr *trial) error { return tr.flap(ctx, (*trial).apart) },
		},
		{
			name: "flap-link", fault: "the cable between the leader and one follower is cut and mended every 0.3 to 3 s for 40 s", needs: []need{needNet},
			weight: 65 * time.Second, run: func(ctx context.Context, tr *trial) error { return tr.flap(ctx, (*trial).link) },
		},
	}
}

// partRow cuts three times; about says whether it is about the leader or a follower.
func partRow(name, fault string, leader, short bool, goal time.Duration, s split) faultRow {
	return faultRow{
		name: name, fault: fault + ", for 5 to 9 s", needs: []need{needNet}, weight: 55 * time.Second, short: short, goal: goal,
		run: func(ctx context.Context, tr *trial) error {
			if err := tr.found(ctx, plan{apart: true}); err != nil {
				return err
			}
			if err := tr.send(ctx, trialSenders); err != nil {
				return err
			}
			for k := range 3 {
				if err := tr.partition(ctx, leader, s); err != nil {
					return fmt.Errorf("cut %d: %w", k+1, err)
				}
			}
			return tr.compare(ctx)
		},
	}
}

// partition cuts once, looks at the nodes meanwhile, and heals.
func (tr *trial) partition(ctx context.Context, leader bool, s split) error {
	pick := tr.follower
	if leader {
		pick = tr.c.leader
	}
	n, err := pick(ctx)
	if err != nil {
		return err
	}
	i := tr.index(n)
	before, err := tr.rate(ctx, 2*time.Second)
	if err != nil {
		return err
	}
	takeLongest(tr.traffic.senders)
	tr.traffic.still.take()
	begin, from := time.Now(), tr.logEnd()
	if err := s.cut(tr, ctx, i); err != nil {
		return err
	}
	tr.faulted(1)
	var refusals *refusalWatch
	if s.lone {
		refusals = tr.watchRefusals(ctx, n, s.reached)
	}
	if !s.all {
		if err := tr.progress(ctx, 3); err != nil {
			return fmt.Errorf("while %s is cut off: %w", n.ID, err)
		}
		gap := takeLongest(tr.traffic.senders)
		if !s.reached { // senders that wait for it are patient for 5 s
			gap = tr.traffic.still.take()
		}
		tr.recovered(gap)
	}
	if err := tr.lookAt(ctx, n, s); err != nil {
		return err
	}
	during, err := tr.rate(ctx, max(2*time.Second, tr.between(5*time.Second, 9*time.Second)-time.Since(begin)))
	if err != nil {
		return err
	}
	if !s.all {
		tr.goodput = append(tr.goodput, during/before)
	}
	if refusals != nil {
		if err := tr.refusedInTime(refusals, n); err != nil {
			return err
		}
	}
	healed := time.Now()
	if err := tr.heal(ctx); err != nil {
		return err
	}
	if err := tr.progress(ctx, 3); err != nil {
		return fmt.Errorf("after the cut was mended: %w", err)
	}
	if s.all {
		tr.recovered(time.Since(healed))
	}
	if err := tr.allReady(ctx); err != nil {
		return err
	}
	for answered := false; !answered; { // the row's time bounds it
		if answered, err = tr.fresh(ctx, tr.client(nil), n); err != nil {
			return err
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return fmt.Errorf("%s answers no linearizable read after the cut was mended: %w", n.ID, err)
		}
	}
	elected := tr.elections(from)
	tr.leaders += elected
	if leader && s.lone && elected == 0 {
		return errors.New("the leader was cut off and nobody was elected")
	}
	return nil
}

// lookAt holds what nodes answer while the network is cut.
func (tr *trial) lookAt(ctx context.Context, n *devNode, s split) error {
	for i := range tr.c.Nodes {
		m := &tr.c.Nodes[i]
		client := tr.client(nil)
		if m == n && !s.reached {
			client = tr.client(tr.places[i]) // somebody who sits at the machine itself
		}
		answered, err := tr.fresh(ctx, client, m)
		if err != nil {
			return err
		}
		if alone := s.lone && (s.all || m == n); alone {
			if answered {
				return fmt.Errorf("%s has no majority and answers a linearizable read", m.ID)
			}
			if err := tr.refuses(ctx, client, m); err != nil {
				return err
			}
		}
	}
	return nil
}

// others are the machines of all nodes but i.
func (tr *trial) others(i int) (rest []*place) {
	for j, p := range tr.places {
		if j != i {
			rest = append(rest, p)
		}
	}
	return rest
}

// apart cuts a node off from the other nodes.
func (tr *trial) apart(ctx context.Context, i int) error {
	return tr.net.isolate(ctx, []*place{tr.places[i]}, tr.others(i))
}

// island cuts a node off from everybody.
func (tr *trial) island(ctx context.Context, i int) error {
	return tr.net.isolate(ctx, []*place{tr.places[i]}, append(tr.others(i), nil))
}

// link cuts one cable of a node.
func (tr *trial) link(ctx context.Context, i int) error {
	rest := tr.others(i)
	k := tr.rng.IntN(len(rest))
	return tr.net.isolate(ctx, []*place{tr.places[i]}, rest[k:k+1])
}

// mesh cuts every cable between nodes.
func (tr *trial) mesh(ctx context.Context, _ int) error {
	return errors.Join(tr.apart(ctx, 0), tr.apart(ctx, 1), tr.apart(ctx, 2))
}

// oneWay loses what a node sends to the others, or what they send to it.
func (tr *trial) oneWay(ctx context.Context, i int, out bool) error {
	for _, p := range tr.others(i) {
		a, b := p, tr.places[i]
		if out {
			a, b = b, a
		}
		if err := tr.net.cut(ctx, a, b); err != nil {
			return err
		}
	}
	return nil
}

// flap cuts and mends cables of the node that led at first.
func (tr *trial) flap(ctx context.Context, cut func(*trial, context.Context, int) error) error {
	const length = 40 * time.Second
	if err := tr.found(ctx, plan{apart: true}); err != nil {
		return err
	}
	if err := tr.send(ctx, trialSenders); err != nil {
		return err
	}
	n, err := tr.c.leader(ctx)
	if err != nil {
		return err
	}
	i := tr.index(n)
	before, err := tr.rate(ctx, 3*time.Second)
	if err != nil {
		return err
	}
	begin, from, acks, cuts := time.Now(), tr.logEnd(), tr.acks(), 0
	takeLongest(tr.traffic.senders)
	for time.Since(begin) < length {
		if err := cut(tr, ctx, i); err != nil {
			return err
		}
		if err := pause(ctx, tr.between(300*time.Millisecond, 3*time.Second)); err != nil {
			return err
		}
		if err := tr.net.heal(ctx); err != nil {
			return err
		}
		tr.mended()
		cuts++
		if tr.net.dropped > 0 { // two followers may have nothing to say to one another
			tr.faulted(1)
		}
		if err := pause(ctx, tr.between(300*time.Millisecond, 3*time.Second)); err != nil {
			return err
		}
	}
	if tr.faults < cuts/2 {
		return fmt.Errorf("%d cuts of %d kept nothing from coming", cuts-tr.faults, cuts)
	}
	tr.leaders, tr.under = tr.elections(from), time.Since(begin)
	tr.goodput = append(tr.goodput, float64(tr.acks()-acks)/tr.under.Seconds()/before)
	tr.recovered(takeLongest(tr.traffic.senders))
	if err := tr.progress(ctx, 5); err != nil {
		return err
	}
	return tr.compare(ctx)
}
