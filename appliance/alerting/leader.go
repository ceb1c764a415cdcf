package alerting

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"

	"github.com/triward/triward/appliance/alerting/state"
)

// errDeposed says that the lease is another node's.
var errDeposed = errors.New("the lease is held by another node")

// leader is one node's time as the leader, under one lease. It belongs to the goroutine that steps.
type leader struct {
	s      *Service
	mod    uint64 // of the lease
	stamp  uint64 // counts history records of this lease
	now    int64  // log time of the present step; never the same twice
	seen   seen
	seenAt uint64 // ModIndex of the record

	deposed bool // it only settles messages that were under way when the lease was lost

	ctx    context.Context // of evaluations and sends; ends with the lease
	cancel context.CancelFunc
	work   sync.WaitGroup

	shipped   bool   // the shipped rules are in place
	rulesGen  uint64 // of the rules that alerts were last held against
	schedules map[string]*schedule
	evaluated chan *evaluation
	running   int // evaluations under way

	remembered atomic.Int64 // series that recording rules gave last, of all groups

	sends   sends
	mutes   muteCache
	members memberCache
	events  eventCursor
}

const (
	evaluators = 4
	commitTime = 10 // seconds
)

// takeLease makes this node the one that may change the state of alerts. The lease is read before leadership is
// confirmed: whoever led later and took it made the compare fail.
func (s *Service) takeLease(ctx context.Context) (*leader, error) {
	ctx, cancel := context.WithTimeout(ctx, commitTime*1e9)
	defer cancel()
	before, _ := s.cfg.Meta.Get(BucketLease, keyLeader)
	if err := s.cfg.Leadership.Verify(ctx); err != nil {
		return nil, err
	}
	if now, _ := s.cfg.Meta.Get(BucketLease, keyLeader); now.ModIndex != before.ModIndex {
		return nil, ErrConflict // Verify caught up with a lease that was taken before: try again
	}
	mine := lease{Node: s.cfg.Node, Term: s.cfg.Leadership.Term(), TakenAt: s.cfg.Meta.LogTime()}
	_, err := s.cfg.Meta.Commit(ctx, Txn{
		Compares: []Compare{{BucketLease, keyLeader, before.ModIndex}},
		Ops:      []Op{{Bucket: BucketLease, Key: keyLeader, Value: encode(mine)}},
	})
	if err != nil {
		return nil, fmt.Errorf("take the lease: %w", err)
	}
	got, ok := s.cfg.Meta.Get(BucketLease, keyLeader)
	var have lease
	if !ok || json.Unmarshal(got.Data, &have) != nil || have != mine {
		return nil, errDeposed
	}
	l := &leader{s: s, mod: got.ModIndex, schedules: make(map[string]*schedule), evaluated: make(chan *evaluation, evaluators)}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.sends.init()
	l.mutes.by = make(map[string]muteEntry)
	l.members.by = make(map[string]memberEntry)
	s.board.refresh()
	l.readSeen()
	l.events.read(s.cfg.Meta)
	l.now = s.newest()
	s.log.Info("this node evaluates alerts", "term", mine.Term)
	return l, nil
}

// newest is the latest time of any decision in the state: the next one must be later, so that changes are in order.
func (s *Service) newest() int64 {
	b := s.board
	b.mu.RLock()
	defer b.mu.RUnlock()
	var t int64
	for _, a := range b.alerts {
		t = max(t, a.rec.ChangedAt, a.rec.EscalatedAt)
	}
	for _, g := range b.groups {
		t = max(t, g.rec.FlushedAt)
	}
	return t
}

// end waits for the messages under way and commits how they went, with or without the lease: that a message was sent is
// true whoever leads, and the next leader waits for it as long as an attempt may take. Their gate lets none begin that
// may not any more.
func (l *leader) end() {
	if l == nil {
		return
	}
	l.cancel()
	l.work.Wait()
	l.deposed = true
	l.now = max(l.s.cfg.Meta.LogTime(), l.now+1)
	ctx, cancel := context.WithTimeout(context.Background(), commitTime*1e9)
	defer cancel()
	l.s.board.refresh()
	if err := l.settle(ctx); err != nil && !errors.Is(err, ErrConflict) {
		l.s.log.Warn("results of messages are not committed; the next leader sends them again under the same keys", "err", err)
	}
}

// step does all that is due at this log time. It returns errDeposed when the lease is lost; after any other error the
// next step goes on from what is committed then.
func (l *leader) step(ctx context.Context) error {
	l.s.board.refresh()
	if got, _ := l.s.cfg.Meta.Get(BucketLease, keyLeader); got.ModIndex != l.mod {
		return errDeposed
	}
	l.now = max(l.s.cfg.Meta.LogTime(), l.now+1)
	var failed error
	for _, part := range []struct {
		name  string
		alone bool // what comes after does not need it: it goes on when this fails
		do    func(context.Context) error
	}{
		{"note that alerts are evaluated", true, l.noteSeen},
		{"install the shipped rules", true, l.installShipped},
		{"results of messages", true, l.settle},
		{"end alerts of rules that are gone", true, l.retire},
		{"evaluate", true, l.evaluate},
		{"events", true, l.readEvents},
		{"silences and inhibition", false, l.mute}, // before anybody is told
		{"escalate", true, l.escalate},
		{"messages", true, l.flush},
		{"tidy", true, l.tidy},
	} {
		if err := part.do(ctx); err != nil {
			err = fmt.Errorf("%s: %w", part.name, err)
			if errors.Is(err, errDeposed) || !part.alone || ctx.Err() != nil {
				return err
			}
			failed = errors.Join(failed, err)
		}
		l.s.board.refresh()
	}
	return failed
}

// commit commits a transaction under the lease.
func (l *leader) commit(ctx context.Context, t Txn) error {
	ctx, cancel := context.WithTimeout(ctx, commitTime*1e9)
	defer cancel()
	if !l.deposed {
		t.Compares = append([]Compare{{BucketLease, keyLeader, l.mod}}, t.Compares...)
	}
	err := l.s.commit(ctx, t)
	if errors.Is(err, ErrConflict) && !l.deposed {
		if got, _ := l.s.cfg.Meta.Get(BucketLease, keyLeader); got.ModIndex != l.mod {
			return errDeposed
		}
	}
	return err
}

// commit commits a transaction and reads again what it changed.
func (s *Service) commit(ctx context.Context, t Txn) error {
	_, err := s.cfg.Meta.Commit(ctx, t)
	for i := range t.Ops { // what is applied is read by the key: whether the observer has told of it already or not
		s.board.note(t.Ops[i].Bucket, t.Ops[i].Key)
	}
	s.board.refresh()
	return err
}

// remember makes the operation that adds a history record.
func (l *leader) remember(h state.History) Op {
	l.stamp++
	return historyOp(h, fmt.Sprintf("%d.%06d", l.mod, l.stamp))
}

// historyOp adds a history record; unique tells records of one time apart.
func historyOp(h state.History, unique string) Op {
	return Op{Bucket: BucketHistory, Key: fmt.Sprintf("%013d.%s", h.T, unique), Value: encode(h), Expires: h.T + HistoryAge}
}

// commitAlerts commits changes of alerts with their history, in as many transactions as it takes; last is committed
// with the last of them.
func (l *leader) commitAlerts(ctx context.Context, changes []state.Change, last Txn) error {
	var t Txn
	size := 0
	flush := func() error {
		if len(t.Ops) == 0 {
			return nil
		}
		err := l.commit(ctx, t)
		t, size = Txn{}, 0
		return err
	}
	for i := range changes {
		c := &changes[i]
		cmp, op := l.s.board.alertOp(c)
		ops := []Op{op}
		for _, h := range c.History {
			ops = append(ops, l.remember(h))
		}
		add := 0
		for j := range ops {
			add += len(ops[j].Value) + len(ops[j].Key) + 64
		}
		if len(t.Compares) >= txnChanges || size+add > txnBytes {
			if err := flush(); err != nil {
				return err
			}
		}
		t.Compares = append(t.Compares, cmp)
		t.Ops = append(t.Ops, ops...)
		size += add
	}
	t.Compares, t.Ops = append(t.Compares, last.Compares...), append(t.Ops, last.Ops...)
	return flush()
}

// alertOp is the operation of a change and its condition.
func (b *board) alertOp(c *state.Change) (Compare, Op) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	cmp := Compare{BucketAlerts, c.ID, b.alerts[c.ID].mod}
	if c.Alert == nil {
		return cmp, Op{Delete: true, Bucket: BucketAlerts, Key: c.ID}
	}
	return cmp, Op{Bucket: BucketAlerts, Key: c.ID, Value: encode(c.Alert)}
}

func (l *leader) readSeen() {
	v, ok := l.s.cfg.Meta.Get(BucketLease, keySeen)
	l.seenAt = v.ModIndex
	if ok && json.Unmarshal(v.Data, &l.seen) != nil {
		l.seen = seen{}
	}
}

// noteSeen writes down once a minute that alerts are evaluated, and since when without an outage: what was not heard
// during an outage of ours is nobody's silence.
func (l *leader) noteSeen(ctx context.Context) error {
	l.readSeen()
	if l.now-l.seen.T < seenEvery {
		return nil
	}
	next := seen{T: l.now, Resumed: l.seen.Resumed}
	if l.seen.T != 0 && l.now-l.seen.T > outage {
		next.Resumed = l.now
	}
	err := l.commit(ctx, Txn{
		Compares: []Compare{{BucketLease, keySeen, l.seenAt}},
		Ops:      []Op{{Bucket: BucketLease, Key: keySeen, Value: encode(next)}},
	})
	l.readSeen()
	return err
}

// recovering reports whether the cluster has only just come back, so that what is missing may be on its way still.
func (l *leader) recovering() bool { return l.now-l.seen.Resumed < recovery }

// recovery is how long after an outage nothing that is missing ends an alert, in ms.
const recovery = 120_000

// retire ends alerts whose rules are gone or disabled.
func (l *leader) retire(ctx context.Context) error {
	b := l.s.board
	b.mu.RLock()
	if b.rulesGen == l.rulesGen {
		b.mu.RUnlock()
		return nil
	}
	gen := b.rulesGen
	live := make(map[string]bool)
	broken := false
	for _, f := range b.files {
		broken = broken || f.parsed == nil && !f.rec.Disabled && !f.rec.Removed
		if f.parsed == nil {
			continue
		}
		for gi := range f.parsed.Groups {
			g := &f.parsed.Groups[gi]
			for ri := range g.Rules {
				live[g.Rules[ri].ID] = f.active(&g.Rules[ri])
			}
		}
	}
	var changes []state.Change
	for rule, alerts := range b.byRule {
		if live[rule] || broken { // with a file that this program cannot read nobody knows what is gone
			continue
		}
		for _, a := range alerts {
			if c, ok := state.Retire(l.now, a); ok {
				changes = append(changes, c)
			}
		}
	}
	var stale []Op
	var conds []Compare
	for rule, h := range b.health {
		if !live[rule] && len(stale) < txnChanges {
			stale, conds = append(stale, Op{Delete: true, Bucket: BucketHealth, Key: rule}), append(conds, Compare{BucketHealth, rule, h.mod})
		}
	}
	b.mu.RUnlock()
	if err := l.commitAlerts(ctx, changes, Txn{Compares: conds, Ops: stale}); err != nil {
		return err
	}
	l.rulesGen = gen
	return nil
}

// snapshot copies the alerts of the board, so that decisions are made without its lock.
func (b *board) snapshot() map[string]heldAlert {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return maps.Clone(b.alerts)
}
