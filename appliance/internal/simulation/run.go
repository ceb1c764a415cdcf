package simulation

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/triward/triward/raftstate"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/meta"
)

// Options of a run.
type Options struct {
	Dir    string                        // for the nodes' files, made when absent and emptied by the run; better in memory
	Stores func(Bed) Stores              // plain ones in memory when nil
	Opened func(Stores, *raftstate.Node) // told of each node once it is open
	// Shadow keeps a copy of the directories of stores as of each Flush, which is what a loss of power leaves of them.
	// Plain stores do so by themselves.
	Shadow bool
	Replay bool // apply the log anew at the end, in other groups and from other marks
	Log    *slog.Logger
}

func (o *Options) stores(b Bed) Stores {
	if o.Stores == nil {
		return newPlainStores(b)
	}
	return o.Stores(b)
}

func (o *Options) opened(s Stores, n *raftstate.Node) {
	if o.Opened != nil {
		o.Opened(s, n)
	}
}

// Limits of what must have happened after everything was healed.
const (
	writeLimit = 60 * time.Second
	evenLimit  = 120 * time.Second
)

// Run carries out a plan and returns what happened. It must be called in a bubble of testing/synctest, and all that it
// started has ended when it returns.
func Run(plan *Plan, opt Options) (*History, error) {
	c := &cluster{
		plan: plan, opt: opt, rec: &recorder{start: time.Now()}, net: newNetwork(), byID: make(map[string]*member),
		rand: rand.New(rand.NewPCG(plan.Seed, 1)), root: opt.Dir, log: opt.Log,
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	defer func() { _ = os.RemoveAll(opt.Dir) }()
	c.rec.add(Record{Kind: kindPlan, Text: plan.String(), Time: c.rec.start.UnixMilli()})
	var servers []raftstate.Server
	for i := range plan.Size {
		id := fmt.Sprint("n", i+1)
		c.addMember(id)
		servers = append(servers, raftstate.Server{ID: id, Addr: id})
	}
	d := &director{cluster: c, founders: servers}
	for _, m := range c.members {
		if err := c.start(m, servers); err != nil {
			d.close()
			return &c.rec.h, err
		}
	}
	d.clients = newClients(c)
	d.run()
	d.heal()
	wrote := d.clients.finish(writeLimit)
	if !wrote {
		c.rec.add(Record{Kind: kindEven, Out: outTimeout, Text: "writers did not succeed"})
	} else if d.even() {
		d.final()
	}
	d.close()
	c.rec.add(Record{Kind: kindStreams, Index: uint64(c.net.cuts)})
	c.rec.add(Record{Kind: kindEnd})
	return &c.rec.h, nil
}

// director carries out the plan. All that changes members happens in its goroutine.
type director struct {
	*cluster
	clients  *clients
	founders []raftstate.Server
	events   []event
	spare    *member
	absent   map[string]bool // members that were taken out
}

type event struct {
	at time.Duration
	do func()
}

func (d *director) after(t time.Duration, do func()) {
	d.events = append(d.events, event{time.Since(d.rec.start) + t, do})
}

// run carries out the faults until the time of the plan is over.
func (d *director) run() {
	d.absent = make(map[string]bool)
	for i := range d.plan.Faults {
		f := &d.plan.Faults[i]
		d.events = append(d.events, event{f.At, func() { d.begin(f) }})
	}
	for time.Since(d.rec.start) < d.plan.Duration {
		d.turn()
	}
}

// lapse lets virtual time go on, which it does once everything else waits.
func lapse(d time.Duration) { <-time.After(d) }

// turn lets time go on a little, supervises processes and does what is due.
func (d *director) turn() {
	lapse(50 * time.Millisecond)
	d.supervise()
	now := time.Since(d.rec.start)
	due := slices.DeleteFunc(slices.Clone(d.events), func(e event) bool { return e.at > now })
	d.events = slices.DeleteFunc(d.events, func(e event) bool { return e.at <= now })
	slices.SortStableFunc(due, func(a, b event) int { return cmp.Compare(a.at, b.at) })
	for _, e := range due {
		e.do()
	}
}

// supervise is what the service manager does: a process that ended is started again.
func (d *director) supervise() {
	for _, m := range d.members {
		if err := d.fallen(m); err != nil && !damaged(err) {
			d.after(time.Second, func() { d.restart(m) })
		}
		if n := m.node(); n != nil && m.wiped && n.Status().LastIndex > 0 && !n.Status().Probation {
			m.wiped = false
		}
	}
}

// restart starts a member that is down, and one that is leaving as soon as it has: what it waits for may be a member that
// only this goroutine lets go on.
func (d *director) restart(m *member) {
	if m.fails > 3 {
		return
	}
	if p := m.proc; p != nil && p.leaving.Load() {
		select {
		case <-p.closed:
		default:
			d.after(100*time.Millisecond, func() { d.restart(m) })
			return
		}
	} else if p != nil && p.alive() {
		return
	}
	bootstrap := d.founders
	if m.wiped || m == d.spare {
		bootstrap = nil
	}
	_ = d.start(m, bootstrap) // noted; the checker says what it means
}

// pick returns the members that a fault means.
func (d *director) pick(f *Fault) []*member {
	var out []*member
	for _, i := range f.Nodes {
		m := d.members[max(0, i)%d.plan.Size]
		if i == leader {
			for _, x := range d.members[:d.plan.Size] {
				if n := x.node(); n != nil {
					if _, self := n.Leader(); self {
						m = x
					}
				}
			}
		}
		if !slices.Contains(out, m) {
			out = append(out, m)
		}
	}
	return out
}

// links sets both or one direction between the members and all others.
func (d *director) links(ms []*member, out, in link) {
	d.net.set(func(set func(from, to string, l link)) {
		for _, m := range ms {
			for _, o := range d.members {
				if !slices.Contains(ms, o) {
					set(m.id, o.id, out)
					set(o.id, m.id, in)
				}
			}
		}
	})
}

func (d *director) begin(f *Fault) {
	ms := d.pick(f)
	names := ""
	for _, m := range ms {
		names += " " + m.id
	}
	if !d.apply(f, ms) {
		return
	}
	d.rec.add(Record{Kind: kindFault, Text: fmt.Sprintf("%s%s for %s", f.Kind, names, f.For), Key: string(f.Kind)})
}

// apply does it; false when it would mean nothing now, or be more than a cluster can bear.
func (d *director) apply(f *Fault, ms []*member) bool {
	m := ms[0]
	switch f.Kind {
	case faultKill:
		d.aim(f, ms)
		for _, m := range ms {
			d.kill(m, f.Power, "killed")
			d.after(f.For, func() { d.restart(m) })
		}
	case faultStop:
		d.stop(m)
		d.after(f.For, func() { d.restart(m) })
	case faultWipe:
		return d.wipeOne(f, m)
	case faultSplit:
		d.forAWhile(f, ms, link{cut: true}, link{cut: true})
	case faultOneWay:
		d.forAWhile(f, ms, link{cut: true}, link{})
	case faultDeaf:
		d.forAWhile(f, ms, link{}, link{cut: true})
	case faultFlap:
		for at := time.Duration(0); at < f.For; at += 800 * time.Millisecond {
			d.after(at, func() { d.links(ms, link{cut: true}, link{cut: true}) })
			d.after(at+400*time.Millisecond, func() { d.links(ms, link{}, link{}) })
		}
	case faultLossy:
		l := link{loss: f.Loss, twice: f.Twice, delay: f.Delay}
		d.links(d.members[:1], l, l)
		if len(d.members) > 2 {
			d.links(d.members[1:2], l, l)
		}
		d.after(f.For, func() { d.links(d.members, link{}, link{}); d.allLinks(link{}) })
	case faultTransfer, faultMark, faultCut, faultRemove, faultSpare:
		return d.order(f, m)
	case faultClock:
		return d.jump(f, m)
	case faultInstall:
		d.net.mu.Lock()
		d.net.installs = 1 + d.rand.IntN(100_000)
		d.net.mu.Unlock()
		d.after(f.For, func() { d.net.mu.Lock(); d.net.installs = 0; d.net.mu.Unlock() })
	default:
		return d.harm(f, m)
	}
	return true
}

// aim waits until the processes are at what a kill is meant for.
func (d *director) aim(f *Fault, ms []*member) {
	var marks []*member
	for _, m := range ms {
		switch {
		case !m.up():
		case f.While == whileSync:
			m.proc.disk.set(func() { m.proc.disk.delay = 500 * time.Millisecond })
		case f.While == whileMark:
			marks = append(marks, m)
		}
	}
	if f.While == whileSync {
		lapse(time.Duration(d.rand.Int64N(int64(200 * time.Millisecond))))
	}
	for _, m := range marks {
		d.order(&Fault{Kind: faultMark}, m)
	}
	if f.While == whileMark {
		lapse(time.Duration(d.rand.Int64N(int64(45 * time.Millisecond))))
	}
}

func (d *director) forAWhile(f *Fault, ms []*member, out, in link) {
	d.links(ms, out, in)
	d.after(f.For, func() { d.links(ms, link{}, link{}) })
}

func (d *director) allLinks(l link) {
	d.net.set(func(set func(from, to string, l link)) {
		for _, a := range d.members {
			for _, b := range d.members {
				set(a.id, b.id, l)
			}
		}
	})
}

// harm does something to a process that runs.
func (d *director) harm(f *Fault, m *member) bool {
	if !m.up() {
		return false
	}
	p := m.proc
	switch f.Kind {
	case faultSlowDisk:
		p.disk.set(func() { p.disk.delay = f.Delay })
		d.after(f.For, func() { p.disk.set(func() { p.disk.delay = 2 * time.Millisecond }) })
	case faultHungDisk:
		stuck := make(chan struct{})
		p.disk.set(func() {
			if p.disk.stuck == nil {
				p.disk.stuck = stuck
			}
		})
		d.after(f.For, p.disk.release)
	case faultEIO:
		p.disk.set(func() { p.disk.eio = true })
	case faultFullDisk:
		p.disk.set(func() { p.disk.free = []int64{diskReserve + 1, diskReserve/2 + 1, 1}[d.rand.IntN(3)] })
		d.after(f.For, func() { p.disk.set(func() { p.disk.free = 0 }) })
	case faultFullStore:
		p.setFull(true)
		d.after(f.For, func() { p.setFull(false) })
	case faultPause:
		p.pause()
		d.after(f.For, p.resume)
	}
	return true
}

// whole reports whether all members are voters and hold their data.
func (d *director) whole() bool {
	if len(d.absent) > 0 || d.spare != nil {
		return false
	}
	return !slices.ContainsFunc(d.members, func(m *member) bool { return m.wiped })
}

// wipeOne takes a member's data: one at a time, as more at once may be a majority's.
func (d *director) wipeOne(f *Fault, m *member) bool {
	if !d.whole() || m.proc.leaving.Load() {
		return false
	}
	if m.proc.alive() {
		d.wipe(m)
	} else {
		_ = os.RemoveAll(m.dir)
		m.dir = filepath.Join(m.root, fmt.Sprint(m.lives+1)+"-empty")
		m.wiped = true
	}
	d.after(f.For, func() { d.restart(m) })
	return true
}

// jump sets the clock of one member, of a minority at most.
func (d *director) jump(f *Fault, m *member) bool {
	if !d.whole() || !slices.ContainsFunc(d.members, func(m *member) bool { n := m.node(); return n != nil && n.State().LogTime() > 0 }) {
		return false
	}
	for _, o := range d.members {
		o.skew.Store(0)
	}
	m.skew.Store(int64(f.Delay))
	return true
}

// order asks the cluster to do something, in a goroutine of its own since it may take long.
func (d *director) order(f *Fault, m *member) bool {
	switch f.Kind {
	case faultMark:
		if !m.up() {
			return false
		}
		p := m.proc
		d.winding.Go(func() {
			_, _ = ask(p, 10*time.Second, func(_ context.Context, n *raftstate.Node) (bool, error) {
				e, err := n.Export()
				if err != nil {
					return false, err
				}
				return true, e.Close()
			})
		})
	case faultTransfer:
		d.ask(func(ctx context.Context, n *raftstate.Node) error { return n.TransferLeadership(ctx, m.id) })
	case faultCut:
		d.ask(func(ctx context.Context, n *raftstate.Node) error {
			floor := time.Now().Add(-2 * time.Hour).UnixMilli()
			_, _, err := n.Propose(ctx, command.NewRetentionCut(command.KindMetrics, floor, command.CutSize),
				command.NewRetentionCut(command.KindLogs, floor, command.CutSize))
			return err
		})
	case faultRemove:
		if !d.whole() {
			return false
		}
		d.absent[m.id] = true
		d.ask(func(ctx context.Context, n *raftstate.Node) error { return n.RemoveServer(ctx, m.id) })
		d.after(f.For, func() {
			d.ask(func(ctx context.Context, n *raftstate.Node) error { return join(ctx, n, m.id) })
		})
	case faultSpare:
		if !d.whole() {
			return false
		}
		d.spare = d.addMember(fmt.Sprint("n", d.plan.Size+1+len(d.members)))
		if d.start(d.spare, nil) != nil {
			return true
		}
		id := d.spare.id
		d.ask(func(ctx context.Context, n *raftstate.Node) error { return join(ctx, n, id) })
		d.after(f.For, func() {
			d.ask(func(ctx context.Context, n *raftstate.Node) error { return n.RemoveServer(ctx, id) })
		})
	}
	return true
}

// ask sends an order to some process. Whether it succeeds is not asked.
func (d *director) ask(do func(ctx context.Context, n *raftstate.Node) error) {
	p := d.someone()
	if p == nil {
		return
	}
	d.winding.Go(func() {
		_, _ = ask(p, 10*time.Second, func(ctx context.Context, n *raftstate.Node) (bool, error) { return true, do(ctx, n) })
	})
}

// release ends the hang of a disk.
func (d *disk) release() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stuck != nil {
		close(d.stuck)
		d.stuck = nil
	}
}

// heal ends all faults, starts what is down and makes the members those of the beginning.
func (d *director) heal() {
	d.events = nil
	d.allLinks(link{})
	d.net.mu.Lock()
	d.net.installs = 0
	d.net.mu.Unlock()
	for _, m := range d.members {
		m.skew.Store(0)
		if m.proc.alive() {
			p := m.proc
			p.resume()
			p.setFull(false)
			p.disk.release()
			p.disk.set(func() { p.disk.free, p.disk.eio, p.disk.delay = 0, false, 2*time.Millisecond })
		}
	}
	for _, m := range d.members {
		d.restart(m)
	}
	d.rec.add(Record{Kind: kindHealed})
	deadline := time.Now().Add(writeLimit)
	for time.Now().Before(deadline) && !d.complete() {
		d.turn()
	}
	for range 40 {
		d.turn()
	}
}

// complete reports whether the members are those of the beginning, and makes them so.
func (d *director) complete() bool {
	for _, m := range d.members {
		if !m.up() {
			if m.proc == nil || !m.proc.alive() && !slices.ContainsFunc(d.events, func(event) bool { return true }) {
				d.restart(m)
			}
			return false
		}
	}
	var st raftstate.Status
	for _, m := range d.members {
		if s := m.node().Status(); s.Role == "leader" {
			st = s
		}
	}
	if st.Node == "" {
		return false
	}
	voters := make(map[string]bool)
	for _, m := range st.Members {
		voters[m.ID] = m.Voter
	}
	for _, m := range d.members {
		id := m.id
		_, known := voters[id]
		switch {
		case m == d.spare && known:
			d.tell(func(ctx context.Context, n *raftstate.Node) error { return n.RemoveServer(ctx, id) })
			return false
		case m == d.spare:
			d.kill(m, false, "taken out")
			d.members = slices.DeleteFunc(slices.Clone(d.members), func(x *member) bool { return x == m })
			d.spare = nil
			return false
		case !voters[id]:
			d.tell(func(ctx context.Context, n *raftstate.Node) error { return join(ctx, n, id) })
			return false
		}
	}
	return true
}

// tell asks and waits.
func (d *director) tell(do func(ctx context.Context, n *raftstate.Node) error) {
	if p := d.someone(); p != nil {
		_, _ = ask(p, 5*time.Second, func(ctx context.Context, n *raftstate.Node) (bool, error) { return true, do(ctx, n) })
	}
}

// even waits until all nodes hold the same log.
func (d *director) even() bool {
	deadline := time.Now().Add(evenLimit)
	why := ""
	for time.Now().Before(deadline) {
		d.turn()
		if !d.complete() { // a change of members that was ordered before came late
			why = "members differ from those of the beginning"
			continue
		}
		if why = d.uneven(); why == "" {
			d.rec.add(Record{Kind: kindEven, Out: outOK})
			return true
		}
	}
	d.rec.add(Record{Kind: kindEven, Out: outTimeout, Text: why})
	return false
}

// uneven says what keeps the nodes from being equal.
func (d *director) uneven() string {
	var index uint64
	for _, m := range d.members {
		if !m.up() {
			return m.id + " is down"
		}
		st := m.node().Status()
		if index == 0 {
			index = st.AppliedIndex
		}
		if st.AppliedIndex != index || st.LastIndex != st.CommitIndex || st.AppliedIndex < st.LastIndex-1 || st.Probation || st.Leader == "" {
			return fmt.Sprintf("%s (%s of %q) has applied %d of %d, committed %d, another has applied %d, probation %v",
				m.id, st.Role, st.Leader, st.AppliedIndex, st.LastIndex, st.CommitIndex, index, st.Probation)
		}
	}
	return ""
}

// final notes what the nodes hold.
func (d *director) final() {
	for _, m := range d.members {
		n := m.node()
		samples, lines, err := m.proc.stores.Content(n)
		if err != nil {
			d.rec.add(Record{Kind: kindRefused, Node: m.id, Text: "read content: " + err.Error()})
			continue
		}
		index, sums := n.Digest()
		d.rec.add(Record{
			Kind: kindFinal, Node: m.id, Index: index, Sum: meta.FoldDigests(sums), Samples: samples, Lines: lines,
			Seq: uint64(n.State().Floor(command.KindMetrics)), Time: n.State().LogTime(),
		})
		d.tokens(n, m.id)
	}
	for try := 0; try < 20 && !d.states(); try++ {
		lapse(230 * time.Millisecond)
	}
}

// tokens looks which of the keys that go by themselves are there.
func (d *director) tokens(n *raftstate.Node, id string) {
	d.rec.mu.Lock()
	records := d.rec.h.Records
	d.rec.mu.Unlock()
	for i := range records {
		r := &records[i]
		if r.Kind != kindToken {
			continue
		}
		before := n.State().LogTime()
		out := outAbsent
		if _, ok := n.State().Get(bucketTokens, r.Key); ok {
			out = outOK
		}
		if n.State().LogTime() == before {
			d.rec.add(Record{Kind: kindGone, Node: id, Key: r.Key, Out: out, Time: before})
		}
	}
}

// states notes the deciding state of all nodes, and of one made from the log anew; false when they were not at one
// index.
func (d *director) states() bool {
	var recs []Record
	for _, m := range d.members {
		e, err := m.node().Export()
		if err != nil {
			return false
		}
		recs = append(recs, Record{Kind: kindState, Node: m.id, Index: e.About.Mark.Index, Sum: e.About.Sum})
		_ = e.Close()
	}
	for _, r := range recs {
		if r.Index != recs[0].Index {
			return false
		}
	}
	for _, r := range recs {
		d.rec.add(r)
	}
	if d.opt.Replay {
		d.replay(recs[0].Index)
	}
	return true
}

// close ends everything.
func (d *director) close() {
	if d.clients != nil && !d.clients.stop.Load() {
		d.clients.finish(time.Second)
	}
	for _, m := range d.members {
		d.stop(m)
	}
	d.winding.Wait()
}

// join makes a node a member and gives it a vote as soon as it may have one, as the leader of a real cluster does.
func join(ctx context.Context, n *raftstate.Node, id string) error {
	if err := n.AddNonvoter(ctx, id, id); err != nil {
		return err
	}
	for {
		err := n.AddVoter(ctx, id, id)
		if err == nil {
			return nil
		}
		retry := time.NewTimer(200 * time.Millisecond)
		select {
		case <-retry.C:
		case <-ctx.Done():
			retry.Stop()
			return err
		}
	}
}
