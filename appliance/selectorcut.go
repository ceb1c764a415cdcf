package appliance

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/retention"
	"github.com/triward/triward/appliance/scrub"
	"github.com/triward/triward/logstore"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/meta"
)

// selectorKeeper proposes, while this node leads, to cut what rules for single streams do not keep. The leader counts:
// Apply evaluates no expression, so the lines that go and their digest are in the entry. It reads the day as a whole and
// proposes only what adds up to the running digest: from a damaged store no cut comes.
type selectorKeeper struct {
	app     *App
	changed chan struct{} // the rules were

	// Of the goroutine of run.
	seen    map[logstore.KindDay]seenDay
	trouble string
}

// seenDay is a day of which nothing was to be cut.
type seenDay struct {
	digest meta.Digest
	rules  uint64 // entry that set them
	due    int    // rules whose age the day has passed
}

const (
	// selectorInterval is how often the leader looks whether something is due.
	selectorInterval = 30 * time.Second
	// selectorFormat is the format of the cluster from which on lines are cut by selectors.
	selectorFormat = 2
)

func newSelectorKeeper(a *App) *selectorKeeper {
	return &selectorKeeper{app: a, changed: make(chan struct{}, 1)}
}

// poke has the rules looked at soon. It never blocks.
func (k *selectorKeeper) poke() {
	select {
	case k.changed <- struct{}{}:
	default:
	}
}

// run looks for what is due until ctx ends.
func (k *selectorKeeper) run(ctx context.Context) {
	tick := time.NewTicker(selectorInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-k.changed:
		}
		if st := k.app.node.Status(); st.Leader != k.app.cfg.NodeID {
			k.seen = nil
			continue
		}
		if err := k.keep(ctx); ctx.Err() == nil {
			k.said(err)
		}
	}
}

// said logs what is in the way, once as long as it stays the same.
func (k *selectorKeeper) said(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != "" && text != k.trouble {
		k.app.log.Warn("lines are not cut by selectors", "err", err)
	}
	k.trouble = text
}

// selectorRules returns the rules in effect and the entry that set them.
func (a *App) selectorRules() (retention.SelectorRecord, uint64, error) {
	v, ok := a.state.Get(retention.Bucket, retention.KeySelectors)
	if !ok {
		return retention.SelectorRecord{}, 0, nil
	}
	r, err := retention.DecodeSelectors(v.Data)
	return r, v.ModIndex, err
}

// keep cuts what is due, one day after the other, the oldest first. A day that cannot be cut does not keep the others.
func (k *selectorKeeper) keep(ctx context.Context) error {
	st := k.app.state.wait()
	r, version, err := k.app.selectorRules()
	if err != nil || len(r.Rules) == 0 {
		return err
	}
	if format := st.Format(); format < selectorFormat {
		return fmt.Errorf("the cluster's format is %d, selectors need %d: run `triward upgrade finalize`", format, selectorFormat)
	}
	if k.seen == nil {
		k.seen = make(map[logstore.KindDay]seenDay)
	}
	now := st.LogTime()
	_, sums := k.app.node.Digest()
	var errs []error
	for _, d := range sums {
		if d.Kind == command.KindMetrics || d.Count == 0 || d.Day*dayMs < st.Floor(d.Kind) {
			continue // a day in which the floor lies is hidden in part, and goes as a whole next
		}
		due := dueSelectors(&r, d.Kind, d.Day, now)
		key := logstore.KindDay{Kind: streamKind(d.Kind), Day: d.Day}
		is := seenDay{d, version, len(due)}
		if len(due) == 0 || k.seen[key] == is {
			continue
		}
		switch some, err := k.cut(ctx, d.Kind, d.Day, due); {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			errs = append(errs, err)
		case !some:
			k.seen[key] = is
		}
	}
	return errors.Join(errs...)
}

func streamKind(k command.Kind) wire.StreamKind {
	if k == command.KindEvents {
		return wire.StreamEvent
	}
	return wire.StreamLog
}

// dueSelectors are the selectors of rules that do not keep a day any more.
func dueSelectors(r *retention.SelectorRecord, kind command.Kind, day, now int64) (due []*wire.Picker) {
	for i := range r.Rules {
		rule := &r.Rules[i]
		if rule.KindOf() != kind || (day+1)*dayMs > retention.SelectorFloor(now, rule.AgeMs) {
			continue
		}
		if p, err := rule.Picker(); err == nil { // DecodeSelectors has looked
			due = append(due, p)
		}
	}
	return due
}

// cut cuts what selectors pick of a day and reports whether there was anything.
func (k *selectorKeeper) cut(ctx context.Context, kind command.Kind, day int64, selectors []*wire.Picker) (bool, error) {
	place := (&scrub.Day{Kind: kind.String(), Day: day}).Place()
	n, err := k.app.logs.Picked(logstore.InLane(ctx, logstore.LaneWatch), logstore.KindDay{Kind: streamKind(kind), Day: day}, selectors)
	if err != nil || n.Lines == 0 {
		return false, err
	}
	// Before the lines are read: the state refuses what was computed under other cuts.
	before, _ := k.app.state.Get(command.BucketSelectorCuts, command.CutKey(kind, day))
	got, err := k.app.integrity.scrubber.Select(ctx, kind, day, selectors)
	if err != nil {
		return false, fmt.Errorf("cut %s: %w", place, err)
	}
	cut := command.SelectorCut{Kind: kind, Day: day, Through: got.Through, After: before.ModIndex}
	lines := uint64(0)
	for i, d := range got.Picked {
		if d.Count > 0 {
			cut.Cuts = append(cut.Cuts, command.CutLines{Selector: selectors[i].Selector, Count: d.Count, Hi: d.Sum.Hi, Lo: d.Sum.Lo})
			lines += d.Count
		}
	}
	if lines == 0 {
		return false, nil
	}
	if err := k.app.propose(ctx, command.NewSelectorCut(cut)); err != nil {
		return false, fmt.Errorf("cut %s: %w", place, err)
	}
	k.app.log.Info("lines were cut by selectors", "of", place, "lines", lines, "selectors", len(cut.Cuts), "through", cut.Through)
	return true, nil
}
