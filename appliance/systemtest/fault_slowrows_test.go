package systemtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"
)

// needOwn is a network of the bench's own, for fixed addresses.
var needOwn = need{"a network namespace", needBench}

func needBench() error {
	if os.Getenv(inBench) == "" {
		return errors.New("this user gets no network namespace of its own")
	}
	return nil
}

// slowRows are those of links that are slow or lose answers, of processes that stand still, and of installs that are cut.
func slowRows() []faultRow {
	return []faultRow{
		{
			name: "slow-follower", fault: "everything that a follower is sent and answers takes 0.3 s and passes at 256 KiB/s, for 20 s", needs: []need{needOwn},
			weight: 50 * time.Second, goal: followerGoal, run: func(ctx context.Context, tr *trial) error { return tr.slow(ctx, false) },
		},
		{
			name: "slow-all", fault: "everything between nodes takes 0.1 s more each way, for 20 s", needs: []need{needOwn},
			weight: 50 * time.Second, goal: leaderGoal, run: func(ctx context.Context, tr *trial) error { return tr.slow(ctx, true) },
		},
		{
			name: "ack-lost", fault: "a proxy carries requests of senders and loses the answers, twice a second for 20 s", needs: []need{needOwn},
			weight: 35 * time.Second, short: true, run: func(ctx context.Context, tr *trial) error { return tr.loseAcks(ctx) },
		},
		{
			name: "stop-leader", fault: "SIGSTOP of the leader for 5 to 30 s, and reads that wait for it to wake", weight: 80 * time.Second, goal: leaderGoal,
			run: func(ctx context.Context, tr *trial) error {
				return tr.stops(ctx, 3, 5*time.Second, 30*time.Second, tr.leader)
			},
		},
		{
			name: "stop-short", fault: "SIGSTOP of the leader for 4 to 7 s, and reads that wait for it to wake", weight: 35 * time.Second, short: true, goal: leaderGoal,
			run: func(ctx context.Context, tr *trial) error {
				return tr.stops(ctx, 4, 4*time.Second, 7*time.Second, tr.leader)
			},
		},
		{
			name: "stop-follower", fault: "SIGSTOP of a follower for 5 to 30 s, and reads that wait for it to wake", weight: 75 * time.Second, goal: leaderGoal,
			run: func(ctx context.Context, tr *trial) error {
				return tr.stops(ctx, 3, 5*time.Second, 30*time.Second, tr.follower)
			},
		},
		{
			name: "install-cut", fault: "the image that a follower installs is cut off half way: by silence, by a reset, by kill -9 of the follower", needs: []need{needOwn},
			weight: 100 * time.Second, run: func(ctx context.Context, tr *trial) error { return tr.cutInstalls(ctx) },
		},
	}
}

// slowAllGoal is how many batches a second are acknowledged when all cables between nodes are slow: each sender waits for a
// batch to go to the leader and from there to a follower and back, four times 0.1 s.
const slowAllGoal = trialSenders * 2

// leader is the node that leads now.
func (tr *trial) leader(ctx context.Context) (*devNode, error) { return tr.c.leader(ctx) }

// slow makes the cables of a follower, or all of them, slow for a while.
func (tr *trial) slow(ctx context.Context, all bool) error {
	var p plan
	if err := tr.proxies(&p); err != nil {
		return err
	}
	if err := tr.found(ctx, p); err != nil {
		return err
	}
	if err := tr.send(ctx, trialSenders); err != nil {
		return err
	}
	n, err := tr.follower(ctx)
	if err != nil {
		return err
	}
	before, err := tr.rate(ctx, 3*time.Second)
	if err != nil {
		return err
	}
	leader, err := tr.c.leader(ctx)
	if err != nil {
		return err
	}
	takeLongest(tr.traffic.senders)
	begin, from := time.Now(), tr.logEnd()
	slowed := make(map[*proxy]int64) // and what each had carried
	for i, px := range tr.peers {
		switch {
		case all:
			px.delay.Store(int64(100 * time.Millisecond))
		case i == tr.index(n):
			px.delay.Store(int64(300 * time.Millisecond))
			px.rate.Store(256 << 10)
		default:
			continue
		}
		if i != tr.index(leader) { // to whom little is sent
			slowed[px] = px.passed.Load()
		}
		tr.faulted(1)
	}
	during, err := tr.rate(ctx, 20*time.Second)
	if err != nil {
		return err
	}
	tr.recovered(takeLongest(tr.traffic.senders))
	for px, before := range slowed {
		if carried := px.passed.Load() - before; carried < 64<<10 {
			return fmt.Errorf("the slow cable to %s carried %d bytes in 20 s: it was no fault", px.to, carried)
		}
	}
	elected := tr.elections(from)
	if elected > 0 {
		return fmt.Errorf("%d elections because of slow cables", elected)
	}
	if all { // a batch takes as long as the cables do; that is no fault of the nodes
		tr.note("%.0f batches a second, %.0f before", during, before)
		if during < slowAllGoal/tooMuch {
			return fmt.Errorf("%.1f batches a second over slow cables, the goal is %d", during, slowAllGoal)
		}
	} else {
		tr.goodput = append(tr.goodput, during/before)
	}
	tr.under = time.Since(begin)
	for _, px := range tr.peers {
		px.delay.Store(0)
		px.rate.Store(0)
	}
	tr.mended()
	if err := tr.progress(ctx, 10); err != nil {
		return err
	}
	return tr.compare(ctx)
}

// loseAcks loses answers and counts what comes again.
func (tr *trial) loseAcks(ctx context.Context) error {
	if err := tr.found(ctx, plan{}); err != nil {
		return err
	}
	var list []*proxy
	tr.through = make(map[string]string)
	for i := range tr.c.Nodes {
		at, err := url.Parse(tr.c.Nodes[i].AgentURL)
		if err != nil {
			return err
		}
		px, err := newProxy(net.JoinHostPort(loopback(120+i), "8001"), at.Host)
		if err != nil {
			return err
		}
		tr.atEnd(px.close)
		list = append(list, px)
		tr.through[tr.c.Nodes[i].AgentURL] = "https://" + px.l.Addr().String()
	}
	tr.repeats = -1 // what comes again comes because an answer was lost
	if err := tr.send(ctx, trialSenders); err != nil {
		return err
	}
	for begin := time.Now(); time.Since(begin) < 20*time.Second; {
		tr.faulted(list[tr.rng.IntN(len(list))].loseAnswers(ctx))
		if err := pause(ctx, tr.between(100*time.Millisecond, 500*time.Millisecond)); err != nil {
			return err
		}
	}
	if err := tr.progress(ctx, 10); err != nil {
		return err
	}
	if err := tr.compare(ctx); err != nil {
		return err
	}
	absorbed := 0
	for _, s := range tr.traffic.senders {
		s.mu.Lock()
		absorbed += s.absorbed
		s.mu.Unlock()
	}
	tr.note("%d batches came again after their answer was lost and were recognised", absorbed)
	if absorbed == 0 && tr.total() == 0 { // else they were taken again
		return errors.New("no batch came again: the row lost no answer")
	}
	return nil
}

// stops halts a node several times and reads from it as it wakes.
func (tr *trial) stops(ctx context.Context, times int, least, most time.Duration, pick func(context.Context) (*devNode, error)) error {
	if err := tr.found(ctx, plan{}); err != nil {
		return err
	}
	if err := tr.send(ctx, trialSenders); err != nil {
		return err
	}
	long := false
	for k := range times {
		n, err := pick(ctx)
		if err != nil {
			return err
		}
		d := tr.between(least, most)
		tr.logf("halt %d: %s for %v", k+1, n.ID, d.Round(time.Millisecond))
		long = long || d > haltTakesOver
		if err := tr.halt(ctx, n, d); err != nil {
			return fmt.Errorf("halt %d, of %s: %w", k+1, n.ID, err)
		}
		if err := tr.allReady(ctx); err != nil {
			return err
		}
		if err := tr.progress(ctx, 5); err != nil {
			return err
		}
	}
	tr.note("%d of %d reads that could have been stale were answered", tr.told, tr.telling)
	if long && tr.told == 0 {
		return errors.New("no read was answered that could have been stale: the row shows nothing")
	}
	return tr.compare(ctx)
}

// haltTakesOver is how long a leader stands still at most before another one leads.
const haltTakesOver = 5 * time.Second

// halt stops a node for d. Reads are under way when it wakes: what they answer must hold all that was acknowledged
// meanwhile.
func (tr *trial) halt(ctx context.Context, n *devNode, d time.Duration) error {
	const reads = 24
	warm, err := tr.warm(ctx, n, reads)
	if err != nil {
		return err
	}
	defer func() {
		for _, c := range warm {
			c.CloseIdleConnections()
		}
	}()
	tr.traffic.still.take()
	begin := time.Now()
	if err := syscall.Kill(n.PID, syscall.SIGSTOP); err != nil {
		return err
	}
	tr.faulted(1)
	defer func() { _ = syscall.Kill(n.PID, syscall.SIGCONT) }()
	sent := make(map[*sender]uint64) // the node has no more than these
	for _, s := range tr.traffic.senders {
		sent[s] = tr.traffic.ledger.of(s.name).sent
	}
	if err := pause(ctx, d-time.Second); err != nil {
		return err
	}
	if d > haltTakesOver { // a leader that stands still for less may keep its place
		if err := tr.progress(ctx, 3); err != nil {
			return fmt.Errorf("while it stands still: %w", err)
		}
	}
	type answer struct {
		reading
		err error
	}
	got := make(chan answer, 2*reads)
	ask := func(m *devNode, client *http.Client) {
		s := tr.traffic.senders[tr.rng.IntN(len(tr.traffic.senders))]
		go func() {
			r, err := tr.read(ctx, client, m, s)
			got <- answer{r, err}
		}()
	}
	for _, c := range warm { // they wait in the sockets of the node
		ask(n, c)
	}
	if err := pause(ctx, max(100*time.Millisecond, d-time.Since(begin))); err != nil {
		return err
	}
	index, err := tr.appliedElsewhere(ctx, n)
	if err != nil && d > haltTakesOver {
		return err
	}
	if err := syscall.Kill(n.PID, syscall.SIGCONT); err != nil {
		return err
	}
	tr.mended()
	for range reads {
		ask(n, tr.client(nil))
	}
	if err := tr.session(ctx, n, index); err != nil {
		return err
	}
	for range 2 * reads {
		a := <-got
		if err := errors.Join(a.err, tr.judge(n, a.reading)); err != nil {
			return err
		}
		if a.before > sent[a.s] {
			tr.telling++
			if a.answered {
				tr.told++
			}
		}
	}
	if err := tr.progress(ctx, 3); err != nil {
		return err
	}
	if d > haltTakesOver {
		tr.recovered(tr.traffic.still.take())
	}
	return nil
}

// warm makes clients with a connection each that is open: what is asked by it is there the moment the node wakes.
func (tr *trial) warm(ctx context.Context, n *devNode, count int) ([]*http.Client, error) {
	all := make([]*http.Client, count)
	for i := range all {
		c := tr.client(nil)
		c.Transport = &http.Transport{TLSClientConfig: tr.c.tlsConf, IdleConnTimeout: time.Hour}
		if _, status, err := tr.newest(ctx, c, n, tr.traffic.senders[0], "stale"); err != nil {
			return nil, fmt.Errorf("%s answers %d before it is stopped: %w", n.ID, status, err)
		}
		all[i] = c
	}
	return all, nil
}

// appliedElsewhere is how far a node but n is.
func (tr *trial) appliedElsewhere(ctx context.Context, n *devNode) (uint64, error) {
	var errs []error
	for i := range tr.c.Nodes {
		m := &tr.c.Nodes[i]
		if m.ID == n.ID {
			continue
		}
		var d digest
		if err := tr.c.get(ctx, m, "/v1/digest", url.Values{"consistency": {"stale"}}, &d); err != nil {
			errs = append(errs, err)
			continue
		}
		return d.Index, nil
	}
	return 0, errors.Join(errs...)
}

// session holds that a node which is asked for at least an index gives nothing older.
func (tr *trial) session(ctx context.Context, n *devNode, index uint64) error {
	var d digest
	err := tr.c.get(ctx, n, "/v1/digest", url.Values{"min_index": {fmt.Sprint(index)}}, &d)
	if a, ok := errors.AsType[*answerError](err); ok && (a.status == http.StatusGatewayTimeout || a.status == http.StatusServiceUnavailable) {
		return nil
	}
	if err != nil {
		return err
	}
	if d.Index < index {
		return fmt.Errorf("%s was asked for index %d at least and answers as of %d", n.ID, index, d.Index)
	}
	return nil
}

// cutInstalls cuts three installs off and lets the fourth one through.
func (tr *trial) cutInstalls(ctx context.Context) error {
	var p plan
	if err := tr.proxies(&p); err != nil {
		return err
	}
	peers := p.config
	p.config = func(i int, c map[string]any) {
		peers(i, c)
		c["queue"] = map[string]any{"mark_interval": "1s", "retention": map[string]any{"bytes": "1MiB", "time": "1s"}}
	}
	if err := tr.found(ctx, p); err != nil {
		return err
	}
	tr.fillers = 2
	if err := tr.send(ctx, trialSenders); err != nil {
		return err
	}
	n, err := tr.follower(ctx)
	if err != nil {
		return err
	}
	px := tr.peers[tr.index(n)]
	had, err := tr.durableOn(ctx, n)
	if err != nil {
		return err
	}
	if err := tr.c.kill(n); err != nil {
		return err
	}
	leader, err := tr.c.leader(ctx)
	if err != nil {
		return err
	}
	var gone clusterStatus
	if err := tr.c.get(ctx, leader, "/v1/cluster", nil, &gone); err != nil {
		return err
	}
	if err := truncatedPast(ctx, tr.c, leader, applied(gone, leader.ID)); err != nil {
		return err
	}
	px.rate.Store(1 << 20)
	if err := tr.c.restart(n); err != nil {
		return err
	}
	cuts := []func() error{
		func() error {
			px.silent.Store(true)
			defer px.silent.Store(false)
			return pause(ctx, tr.between(3*time.Second, 12*time.Second))
		},
		func() error { px.reset(); return nil },
		func() error { return errors.Join(tr.c.kill(n), tr.c.restart(n)) },
	}
	tr.rng.Shuffle(len(cuts), func(a, b int) { cuts[a], cuts[b] = cuts[b], cuts[a] })
	for k, cut := range cuts {
		if err := tr.halfWay(ctx, n, px); err != nil {
			return fmt.Errorf("install %d: %w", k+1, err)
		}
		before := tr.installsEnded()
		if err := cut(); err != nil {
			return err
		}
		if done := tr.installsEnded(); done > before {
			return fmt.Errorf("install %d was not cut off: %d were whole before, %d are", k+1, before, done)
		}
		tr.faulted(1)
		if err := tr.stillHas(ctx, n, had); err != nil {
			return fmt.Errorf("install %d was cut off: %w", k+1, err)
		}
	}
	px.rate.Store(0)
	tr.mended()
	healed := time.Now()
	if err := until(ctx, 3*time.Minute, func(ctx context.Context) error { return tr.c.ready(ctx, n) }); err != nil {
		return err
	}
	if err := tr.sameState(ctx); err != nil {
		return err
	}
	tr.note("as the others %v after the last cut", time.Since(healed).Round(100*time.Millisecond))
	if done := tr.installsEnded(); done == 0 {
		return errors.New("no image was installed in the end")
	}
	return tr.compare(ctx)
}

// installsEnded is how many images the nodes have installed, as their log says.
func (tr *trial) installsEnded() int {
	b, _ := os.ReadFile(tr.c.log.Name())
	return strings.Count(string(b), "image installed")
}

// halfWay returns when a node is in the midst of an install of which a good part has come.
func (tr *trial) halfWay(ctx context.Context, n *devNode, px *proxy) error {
	base := int64(-1)
	return until(ctx, 90*time.Second, func(ctx context.Context) error {
		var st struct {
			Nodes []struct {
				ID         string
				Installing bool
			}
		}
		if err := tr.c.get(ctx, n, "/v1/cluster", nil, &st); err != nil {
			return err
		}
		for _, m := range st.Nodes {
			if m.ID == n.ID && m.Installing {
				if base < 0 {
					base = px.passed.Load()
				}
				if px.passed.Load() > base+int64(tr.rng.IntN(1<<20)) {
					return nil
				}
				return errors.New("the install has just begun")
			}
		}
		return fmt.Errorf("%s installs nothing", n.ID)
	})
}

// stillHas holds that a node whose install was cut off answers with what it had.
func (tr *trial) stillHas(ctx context.Context, n *devNode, seq uint64) error {
	var got uint64
	err := until(ctx, time.Minute, func(ctx context.Context) (err error) {
		got, err = tr.stale(ctx, n, tr.traffic.senders[0])
		return err
	})
	if err == nil && got < seq { // the first answer counts: the next image would bring it all the same
		err = fmt.Errorf("%s has batch %d, and had batch %d behind its mark", n.ID, got, seq)
	}
	return err
}

// durableOn is a batch of the first sender that a node has behind a mark, so that it comes back with it.
func (tr *trial) durableOn(ctx context.Context, n *devNode) (uint64, error) {
	got, err := tr.stale(ctx, n, tr.traffic.senders[0])
	if err != nil {
		return 0, err
	}
	var then clusterStatus
	if err := tr.c.get(ctx, n, "/v1/cluster", nil, &then); err != nil {
		return 0, err
	}
	return got, until(ctx, time.Minute, func(ctx context.Context) error {
		var now clusterStatus
		if err := tr.c.get(ctx, n, "/v1/cluster", nil, &now); err != nil {
			return err
		}
		for _, m := range now.Nodes {
			if m.ID == n.ID && m.MarkIndex >= applied(then, n.ID) {
				return nil
			}
		}
		return fmt.Errorf("%s has no mark behind index %d", n.ID, applied(then, n.ID))
	})
}
