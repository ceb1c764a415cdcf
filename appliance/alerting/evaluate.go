package alerting

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"

	"github.com/triward/triward/appliance/alerting/rules"
	"github.com/triward/triward/appliance/alerting/state"
)

// schedule is when a group is evaluated. When is a matter of this node alone; what came of it is in the log.
type schedule struct {
	next    int64 // log time
	running bool
	before  recorded // what its recording rules gave last
}

// evaluation is what the evaluation of a group gave.
type evaluation struct {
	key   string
	group *rules.Group
	at    int64 // log time
	rules []ruleResult
	took  time.Duration

	before     recorded                        // what recording rules gave last
	remembered *atomic.Int64                   // counts the series of all groups in before
	may        func(ctx context.Context) error // asked before values are recorded
}

type ruleResult struct {
	rule    *rules.Rule
	results []state.Result
	err     error
}

// interval of a group in ms.
func (s *Service) interval(g *rules.Group) int64 {
	if g.Interval > 0 {
		return g.Interval.Milliseconds()
	}
	return s.cfg.Interval.Milliseconds()
}

// activeGroups returns the groups to evaluate by key, with only those rules that are evaluated. Rules of events are not
// among them: they are read as they come.
func (b *board) activeGroups() map[string]*rules.Group {
	b.mu.RLock()
	defer b.mu.RUnlock()
	out := make(map[string]*rules.Group)
	for name, f := range b.files {
		if f.parsed == nil {
			continue
		}
		for gi := range f.parsed.Groups {
			g := f.parsed.Groups[gi]
			all := g.Rules
			g.Rules = nil
			for ri := range all {
				if f.active(&all[ri]) && all[ri].Kind != rules.Event {
					g.Rules = append(g.Rules, all[ri])
				}
			}
			if len(g.Rules) > 0 {
				out[name+"/"+g.Name] = &g
			}
		}
	}
	return out
}

// evaluate takes over what evaluations gave and starts those that are due.
func (l *leader) evaluate(ctx context.Context) error {
	for taking := true; taking; {
		select {
		case e := <-l.evaluated:
			l.running--
			if sc := l.schedules[e.key]; sc != nil {
				sc.running, sc.before = false, e.before
			}
			if err := l.takeEvaluation(ctx, e); err != nil {
				if sc := l.schedules[e.key]; sc != nil {
					sc.next = 0 // what it gave is lost: ask again at once
				}
				return err
			}
		default:
			taking = false
		}
	}
	groups := l.s.board.activeGroups()
	for key := range l.schedules {
		if sc := l.schedules[key]; groups[key] == nil && !sc.running {
			for rule := range sc.before {
				sc.before.remember(rule, nil, &l.remembered)
			}
			delete(l.schedules, key)
		}
	}
	for _, key := range l.due(groups) {
		sc, g := l.schedules[key], groups[key]
		if l.running >= evaluators {
			break
		}
		step := l.s.interval(g)
		sc.running, sc.next = true, l.now-l.now%step+step
		l.running++
		if sc.before == nil {
			sc.before = make(recorded)
		}
		e := &evaluation{key: key, group: g, at: l.now, before: sc.before, remembered: &l.remembered, may: l.mayRecord()}
		recovering, resumed := l.recovering(), l.seen.Resumed
		l.work.Go(func() {
			l.s.evaluateGroup(l.ctx, e, resumed, recovering)
			l.evaluated <- e // there is room for as many as run
			poke(l.s.wake)
		})
	}
	return nil
}

// due returns the groups to evaluate now, those that wait the longest first, so that slow groups keep none from its turn.
func (l *leader) due(groups map[string]*rules.Group) []string {
	var keys []string
	for key := range groups {
		sc := l.schedules[key]
		if sc == nil {
			sc = &schedule{}
			l.schedules[key] = sc
		}
		if !sc.running && sc.next <= l.now {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, func(a, b string) int {
		return cmp.Or(cmp.Compare(l.schedules[a].next, l.schedules[b].next), cmp.Compare(a, b))
	})
	return keys
}

// evaluateGroup asks for the condition of each rule of a group.
func (s *Service) evaluateGroup(ctx context.Context, e *evaluation, resumed int64, recovering bool) {
	start := time.Now()
	for i := range e.group.Rules {
		r := &e.group.Rules[i]
		if ctx.Err() != nil {
			return
		}
		res := ruleResult{rule: r}
		var found []Sample
		switch {
		case r.Refused != "":
			res.err = errors.New(r.Refused)
		case recovering && (r.Kind == rules.SilentAgent || r.Kind == rules.SilentStream || r.Shape.Absent):
			res.err = errRecovering
		case r.Kind == rules.Record:
			limited, cancel := context.WithTimeout(ctx, ruleTime)
			res.err = s.record(limited, e, r)
			cancel()
		default:
			limited, cancel := context.WithTimeout(ctx, ruleTime)
			found, res.err = s.condition(limited, e.group, r, e.at, resumed)
			cancel()
		}
		if res.err == nil && e.group.Limit > 0 && len(found) > e.group.Limit {
			res.err = fmt.Errorf("the condition gave %d alerts, the group's limit is %d", len(found), e.group.Limit)
		}
		if res.err == nil && r.Kind != rules.Record {
			res.results, res.err = s.results(ctx, r, e.at, found)
		}
		e.rules = append(e.rules, res)
	}
	for rule := range e.before {
		if !slices.ContainsFunc(e.group.Rules, func(r rules.Rule) bool { return r.ID == rule }) {
			e.before.remember(rule, nil, e.remembered)
		}
	}
	e.took = time.Since(start)
	s.metrics.evaluated(e)
}

// ruleTime is how long the condition of one rule may take.
const ruleTime = 30 * time.Second

var errRecovering = errors.New("the cluster has just come back")

// condition returns the elements for which the rule's condition holds at a time.
func (s *Service) condition(ctx context.Context, g *rules.Group, r *rules.Rule, at, resumed int64) ([]Sample, error) {
	switch r.Kind {
	case rules.Metrics:
		return s.cfg.Metrics.Instant(ctx, r.Expr, at-g.Offset.Milliseconds())
	case rules.LogQL:
		return s.askLogQL(ctx, r.Expr, at-g.Offset.Milliseconds())
	case rules.Logs:
		return s.countLines(ctx, r, at, s.interval(g))
	case rules.SilentAgent:
		return s.silentAgents(r, at, resumed), nil
	case rules.SilentStream:
		return s.silentStreams(ctx, r, at, resumed)
	}
	return nil, fmt.Errorf("rules of kind %s are not evaluated", r.Kind)
}

// askLogQL answers an expression in LogQL at a time, and says what helps when that takes too long.
func (s *Service) askLogQL(ctx context.Context, expr string, t int64) ([]Sample, error) {
	found, err := s.cfg.Logs.LogQL(ctx, expr, t)
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, fmt.Errorf("it was not answered within %s; make its range shorter or its selector and line filters narrower: %w", ruleTime, err)
	}
	return found, err
}

// results makes the alerts of what a condition gave: their labels from templates, and the annotations of those that
// may begin to fire.
func (s *Service) results(ctx context.Context, r *rules.Rule, at int64, found []Sample) ([]state.Result, error) {
	b := s.board
	b.mu.RLock()
	active := maps.Clone(b.byRule[r.ID])
	b.mu.RUnlock()
	external := s.external()
	out := make([]state.Result, 0, len(found))
	seen := make(map[string]bool, len(found))
	for i := range found {
		x := rules.NewExpander(ctx, r, at, found[i].Labels, found[i].V, s.templateQuery, external)
		ls := x.Labels()
		if err := rules.CheckLabels(ls); err != nil {
			return nil, err
		}
		id := state.ID(r.ID, ls)
		if seen[id] {
			return nil, errors.New("the condition gives the same labels twice after those of the rule are applied; keep a label that tells them apart")
		}
		seen[id] = true
		res := state.Result{ID: id, Labels: ls, Value: found[i].V}
		if a := active[id]; a == nil || a.Phase != state.Firing {
			annotations := x.Annotations()
			res.Annotate = func() map[string]string { return annotations }
		} else {
			have := a.Annotations
			res.Annotate = func() map[string]string { return have }
		}
		out = append(out, res)
	}
	return out, nil
}

// templateQuery answers queries of templates.
func (s *Service) templateQuery(ctx context.Context, q string, t time.Time) (promql.Vector, error) {
	found, err := s.cfg.Metrics.Instant(ctx, q, t.UnixMilli())
	if err != nil {
		return nil, err
	}
	v := make(promql.Vector, len(found))
	for i := range found {
		v[i] = promql.Sample{T: found[i].T, F: found[i].V, Metric: labels.FromMap(found[i].Labels)}
	}
	return v, nil
}

// takeEvaluation commits what an evaluation changes.
func (l *leader) takeEvaluation(ctx context.Context, e *evaluation) error {
	for i := range e.rules {
		r := &e.rules[i]
		if errors.Is(r.err, errRecovering) || errors.Is(r.err, context.Canceled) || errors.Is(r.err, errDeposed) {
			continue
		}
		if r.err != nil {
			l.s.metrics.failures.Inc()
			if err := l.setHealth(ctx, r.rule.ID, r.err.Error()); err != nil {
				return err
			}
			continue
		}
		if r.rule.Kind == rules.Record {
			if err := l.setHealth(ctx, r.rule.ID, ""); err != nil {
				return err
			}
			continue
		}
		if err := l.takeResults(ctx, r.rule, r.results, Txn{}); err != nil {
			return err
		}
	}
	return nil
}

// takeResults commits what the results of one rule change, with last.
func (l *leader) takeResults(ctx context.Context, r *rules.Rule, results []state.Result, last Txn) error {
	b := l.s.board
	b.mu.RLock()
	active := maps.Clone(b.byRule[r.ID])
	room := MaxAlerts - len(b.alerts)
	b.mu.RUnlock()
	rule := state.Rule{
		ID: r.ID, For: r.For.Milliseconds(), KeepFiringFor: r.KeepFiringFor.Milliseconds(),
		Lenient: l.recovering() && (r.Kind == rules.Metrics || r.Kind == rules.LogQL || r.Kind == rules.SilentAgent || r.Kind == rules.SilentStream),
	}
	changes, refused := state.Evaluate(rule, l.now, active, results)
	for i := 0; i < len(changes); i++ { // new alerts beyond the bound of the whole cluster
		if _, known := active[changes[i].ID]; known {
			continue
		}
		if room--; room < 0 {
			refused++
			changes = append(changes[:i], changes[i+1:]...)
			i--
		}
	}
	if err := l.commitAlerts(ctx, changes, last); err != nil {
		return err
	}
	if refused > 0 {
		return l.setHealth(ctx, r.ID, fmt.Sprintf("%d alerts beyond the bounds of %d a rule and %d in all are left out; make the condition narrower or aggregate it",
			refused, state.MaxPerRule, MaxAlerts))
	}
	return l.setHealth(ctx, r.ID, "")
}

// setHealth writes down why a rule is not well, when that changed. Numbers alone are no change.
func (l *leader) setHealth(ctx context.Context, rule, why string) error {
	b := l.s.board
	b.mu.RLock()
	have, ok := b.health[rule]
	b.mu.RUnlock()
	why = clip(why, 1000)
	if why == "" && !ok || ok && withoutNumbers(have.rec.Error) == withoutNumbers(why) {
		return nil
	}
	t := Txn{Compares: []Compare{{BucketHealth, rule, have.mod}}}
	if why == "" {
		t.Ops = []Op{{Delete: true, Bucket: BucketHealth, Key: rule}}
		return l.commit(ctx, t)
	}
	rec := Health{Rule: rule, Error: why, Since: l.now}
	if ok {
		rec.Since = have.rec.Since
	} else {
		h := state.History{T: l.now, What: state.WhatLimit, Rule: rule, Detail: why}
		t.Ops = append(t.Ops, l.remember(h))
		l.s.log.Warn("a rule is not well", "rule", rule, "why", why)
	}
	t.Ops = append(t.Ops, Op{Bucket: BucketHealth, Key: rule, Value: encode(rec)})
	return l.commit(ctx, t)
}

func withoutNumbers(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return -1
		}
		return r
	}, s)
}

func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most-3], "") + "..."
}
