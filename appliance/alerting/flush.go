package alerting

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/triward/triward/appliance/alerting/notify"
	"github.com/triward/triward/appliance/alerting/route"
	"github.com/triward/triward/appliance/alerting/state"
)

// groupKey is a group that an alert is in, with what makes its record and timing.
type groupKey struct {
	key      string
	route    *route.Route
	receiver string
	way      route.Integration
	labels   map[string]string
	escalate bool
}

// memberCache remembers the groups of each alert, as long as neither its labels nor the routes change.
type memberCache struct {
	cfg *route.Config
	by  map[string]memberEntry
}

type memberEntry struct {
	alert *state.Alert
	keys  []groupKey
}

// keysOf returns the groups that the alert is in. The board's lock is held.
func (l *leader) keysOf(a *state.Alert) []groupKey {
	cfg := l.s.board.routes.cfg
	if l.members.cfg != cfg {
		l.members = memberCache{cfg: cfg, by: make(map[string]memberEntry)}
	}
	if e, ok := l.members.by[a.ID]; ok && e.alert == a {
		return e.keys
	}
	keys := groupsOf(cfg, a)
	l.members.by[a.ID] = memberEntry{a, keys}
	return keys
}

// groupsOf returns the groups that an alert is in by the routes: one for each way of each receiver.
func groupsOf(cfg *route.Config, a *state.Alert) []groupKey {
	if cfg == nil {
		return nil
	}
	var keys []groupKey
	add := func(r *route.Route, receiver string, escalate bool) {
		to := cfg.Receiver(receiver)
		if to == nil {
			return
		}
		labels := r.GroupLabels(a.Labels)
		for _, way := range to.Integrations() {
			keys = append(keys, groupKey{
				key: keyOf(r.Key(), receiver, way.Name, labels, escalate), route: r, receiver: receiver, way: way, labels: labels, escalate: escalate,
			})
		}
	}
	for _, r := range cfg.For(a.Labels) {
		add(r, r.Receiver, false)
		if r.Escalate != nil && a.EscalatedAt != 0 {
			add(r, r.Escalate.Receiver, true)
		}
	}
	return keys
}

func keyOf(routeKey, receiver, way string, labels map[string]string, escalate bool) string {
	ls, _ := json.Marshal(labels) // texts always encode, in order of the names
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %q %s %t", routeKey, receiver, way, ls, escalate))
	return hex.EncodeToString(sum[:16])
}

func (k *groupKey) timing() state.Timing {
	t := state.Timing{
		Wait: route.Milliseconds(k.route.GroupWait), Interval: route.Milliseconds(k.route.GroupInterval),
		Repeat: route.Milliseconds(k.route.RepeatInterval), Resolved: k.way.Resolved,
	}
	if k.escalate {
		t.Wait, t.Interval = 0, 0
	}
	return t
}

func (k *groupKey) fresh() *state.Group {
	return &state.Group{Key: k.key, Route: k.route.Key(), Receiver: k.receiver, Integration: k.way.Name, Labels: k.labels, Escalation: k.escalate}
}

// gathered is a group with its members.
type gathered struct {
	groupKey
	rec     *state.Group
	mod     uint64
	members []*state.Alert
}

// gather sorts all alerts into their groups.
func (l *leader) gather() map[string]*gathered {
	b := l.s.board
	b.mu.RLock()
	defer b.mu.RUnlock()
	out := make(map[string]*gathered)
	for _, a := range b.alerts {
		if a.rec.Phase == state.Pending && a.rec.ResolvedAt == 0 {
			continue
		}
		for _, k := range l.keysOf(a.rec) {
			g := out[k.key]
			if g == nil {
				g = &gathered{groupKey: k, rec: k.fresh()}
				if have, ok := b.groups[k.key]; ok {
					g.rec, g.mod = have.rec, have.mod
				}
				out[k.key] = g
			}
			g.members = append(g.members, a.rec)
		}
	}
	for id := range l.members.by {
		if _, ok := b.alerts[id]; !ok {
			delete(l.members.by, id)
		}
	}
	return out
}

// flush claims the messages that are due, of groups first and of attempts that failed before, and sends them.
func (l *leader) flush(ctx context.Context) error {
	type due struct {
		at int64
		g  *gathered
	}
	var list []due
	for _, g := range l.gather() {
		if at, ok := g.rec.Due(g.members, g.timing()); ok && at <= l.now {
			list = append(list, due{at, g})
		}
	}
	slices.SortFunc(list, func(a, b due) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.g.key, b.g.key)) })
	for _, d := range list {
		if !l.sends.room(d.g.receiver + "/" + d.g.way.Name) {
			continue // it has its hands full: the group stays due
		}
		next, claim := d.g.rec.Plan(l.now, d.g.members, d.g.timing())
		claim = claim.Attempt(l.now, l.s.cfg.Node, l.mod)
		err := l.commit(ctx, Txn{
			Compares: []Compare{{BucketGroups, d.g.key, d.g.mod}, {BucketSends, claim.Key, 0}},
			Ops: []Op{
				{Bucket: BucketGroups, Key: d.g.key, Value: encode(next)},
				{Bucket: BucketSends, Key: claim.Key, Value: encode(claim)},
			},
		})
		if err != nil {
			return err
		}
		l.send(claim)
	}
	return l.retry(ctx)
}

// lostAttempt is how long the result of another node's attempt is waited for, in ms: the attempt's time and that of a
// commit.
const lostAttempt = 8_000

// retry makes the next attempt of claims whose last one failed, or whose sender is gone without a result.
func (l *leader) retry(ctx context.Context) error {
	b := l.s.board
	b.mu.RLock()
	var list []held[*state.Claim]
	for _, c := range b.claims {
		if l.sends.under(c.rec.Key) {
			continue
		}
		// What another sender began may still end well, and its result come.
		lost := c.rec.State == state.Sending && (c.rec.Lease == l.mod || l.now-c.rec.AttemptAt >= lostAttempt)
		if lost || c.rec.State == state.Failed && c.rec.NextAt <= l.now {
			list = append(list, c)
		}
	}
	cfg := b.routes.cfg
	b.mu.RUnlock()
	slices.SortFunc(list, func(a, b held[*state.Claim]) int {
		return cmp.Or(cmp.Compare(a.rec.NextAt, b.rec.NextAt), cmp.Compare(a.rec.Key, b.rec.Key))
	})
	for _, c := range list {
		if !reachable(cfg, c.rec) {
			if err := l.giveUp(ctx, c, "the receiver is no longer configured"); err != nil {
				return err
			}
			continue
		}
		if !l.sends.room(c.rec.Receiver + "/" + c.rec.Integration) {
			continue
		}
		next := c.rec.Attempt(l.now, l.s.cfg.Node, l.mod)
		t := Txn{
			Compares: []Compare{{BucketSends, next.Key, c.mod}},
			Ops:      []Op{{Bucket: BucketSends, Key: next.Key, Value: encode(next)}},
		}
		if c.rec.State == state.Sending { // whoever gets it twice finds here why
			why := "its sender stopped or was cut off before it could say how it went; it is sent again with the same key"
			t.Ops = append(t.Ops, l.remember(c.rec.Sent(l.now, state.WhatSendLost, why)))
		}
		err := l.commit(ctx, t)
		if err != nil {
			return err
		}
		l.send(next)
	}
	return nil
}

// reachable reports whether the claim's receiver is still there. Without readable routes it is not said to be gone.
func reachable(cfg *route.Config, c *state.Claim) bool {
	if cfg == nil {
		return true
	}
	to := cfg.Receiver(c.Receiver)
	return to != nil && slices.ContainsFunc(to.Integrations(), func(in route.Integration) bool { return in.Name == c.Integration })
}

// giveUp ends a claim that will not be sent, and says so.
func (l *leader) giveUp(ctx context.Context, c held[*state.Claim], why string) error {
	l.s.metrics.undelivered.Inc()
	l.s.log.Error("a notification was given up", "receiver", c.rec.Receiver, "key", c.rec.Key, "why", why)
	return l.close(ctx, c, c.rec.Sent(l.now, state.WhatUndelivered, why))
}

// close ends a claim and frees its group for the next message.
func (l *leader) close(ctx context.Context, c held[*state.Claim], h state.History) error {
	t := Txn{
		Compares: []Compare{{BucketSends, c.rec.Key, c.mod}},
		Ops:      []Op{{Delete: true, Bucket: BucketSends, Key: c.rec.Key}, l.remember(h)},
	}
	b := l.s.board
	b.mu.RLock()
	g, ok := b.groups[c.rec.Group]
	b.mu.RUnlock()
	if ok && g.rec.Claim == c.rec.Key {
		next := *g.rec
		next.Claim = ""
		t.Compares = append(t.Compares, Compare{BucketGroups, c.rec.Group, g.mod})
		t.Ops = append(t.Ops, Op{Bucket: BucketGroups, Key: c.rec.Group, Value: encode(&next)})
	}
	return l.commit(ctx, t)
}

// settle commits how messages went.
func (l *leader) settle(ctx context.Context) error {
	for {
		r, ok := l.sends.next()
		if !ok {
			return nil
		}
		b := l.s.board
		b.mu.RLock()
		c, there := b.claims[r.claim.Key]
		b.mu.RUnlock()
		// The result stands for the attempt that was committed, and for no other.
		if !there || c.rec.Lease != l.mod || c.rec.Attempts != r.claim.Attempts {
			l.sends.done(r)
			continue
		}
		if err := l.settleOne(ctx, c, r); err != nil {
			if errors.Is(err, errDeposed) {
				return err
			}
			l.sends.again(r) // its result is not lost: it is committed at the next step
			return err
		}
		l.sends.done(r)
	}
}

func (l *leader) settleOne(ctx context.Context, c held[*state.Claim], r *sendResult) error {
	if r.err == nil {
		l.s.metrics.sent.WithLabelValues(c.rec.Integration).Inc()
		return l.close(ctx, c, c.rec.Sent(l.now, state.WhatSent, ""))
	}
	if errors.Is(r.err, notify.ErrGate) {
		// It was kept back, so it is certain that nobody got it. The next attempt is made by whoever leads.
		next := *c.rec
		next.State, next.NextAt = state.Failed, l.now
		return l.commit(ctx, Txn{
			Compares: []Compare{{BucketSends, next.Key, c.mod}}, Ops: []Op{{Bucket: BucketSends, Key: next.Key, Value: encode(&next)}},
		})
	}
	l.s.metrics.sendFailures.WithLabelValues(c.rec.Integration).Inc()
	why := clip(r.err.Error(), 500)
	next, last := c.rec.Fail(l.now, why)
	if last {
		return l.giveUp(ctx, c, fmt.Sprintf("not delivered in %d attempts over a day: %s", c.rec.Attempts, why))
	}
	t := Txn{
		Compares: []Compare{{BucketSends, next.Key, c.mod}}, Ops: []Op{{Bucket: BucketSends, Key: next.Key, Value: encode(next)}},
	}
	if c.rec.Error != why { // the first time, and when it fails otherwise
		t.Ops = append(t.Ops, l.remember(c.rec.Sent(l.now, state.WhatSendFailed, why)))
		l.s.log.Warn("a notification was not delivered", "receiver", c.rec.Receiver, "way", c.rec.Integration, "key", c.rec.Key, "why", why)
	}
	return l.commit(ctx, t)
}

// tidy forgets alerts that have ended and of which everybody was told, groups without members, and history beyond its
// bound.
func (l *leader) tidy(ctx context.Context) error { return l.tidyGroups(ctx, l.gather()) }

// tidyGroups does that by groups gathered before: the routes may have changed since, and an alert be in others now.
func (l *leader) tidyGroups(ctx context.Context, groups map[string]*gathered) error {
	b := l.s.board
	b.mu.RLock()
	var changes []state.Change
	for id, a := range b.alerts {
		if a.rec.Phase != state.Resolved || l.now-a.rec.ResolvedAt < keptResolved || len(changes) >= 10*txnChanges {
			continue
		}
		settled := true
		for _, k := range l.keysOf(a.rec) {
			g := groups[k.key]
			settled = settled && g != nil && g.rec.Settled(a.rec, k.timing())
		}
		if settled {
			changes = append(changes, state.Change{ID: id})
		}
	}
	slices.SortFunc(changes, func(a, b state.Change) int { return cmp.Compare(a.ID, b.ID) })
	var t Txn
	for key, g := range b.groups {
		if groups[key] == nil && g.rec.Claim == "" && len(t.Ops) < txnChanges {
			t.Compares = append(t.Compares, Compare{BucketGroups, key, g.mod})
			t.Ops = append(t.Ops, Op{Delete: true, Bucket: BucketGroups, Key: key})
		}
	}
	for i := 0; i < len(b.history)-MaxHistory && len(t.Ops) < 2*txnChanges; i++ {
		t.Ops = append(t.Ops, Op{Delete: true, Bucket: BucketHistory, Key: b.history[i]})
	}
	b.mu.RUnlock()
	if len(changes) == 0 && len(t.Ops) == 0 {
		return nil
	}
	return l.commitAlerts(ctx, changes, t)
}
