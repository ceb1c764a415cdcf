package alerting

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"github.com/triward/triward/appliance/alerting/route"
	"github.com/triward/triward/appliance/alerting/state"
)

// muteCache remembers which silences match an alert, as long as neither changes.
type muteCache struct {
	gen    uint64
	active string // the silences that hold, by id
	by     map[string]muteEntry
}

type muteEntry struct {
	alert *state.Alert
	by    []string
}

// mute makes the records say by which silences and by which alert each is muted.
func (l *leader) mute(ctx context.Context) error {
	b := l.s.board
	alerts := b.snapshot()
	b.mu.RLock()
	gen, silences, cfg := b.muteGen, activeSilences(b.silences, l.now), b.routes.cfg
	b.mu.RUnlock()
	key := ""
	for _, s := range silences {
		key += s.rec.ID + " "
	}
	if l.mutes.gen != gen || l.mutes.active != key {
		l.mutes = muteCache{gen: gen, active: key, by: make(map[string]muteEntry)}
	}
	var inhibition *route.Inhibition
	if cfg != nil && len(cfg.Inhibit) > 0 {
		inhibition = route.NewInhibition(cfg.Inhibit, firing(alerts))
	}
	var changes []state.Change
	for _, id := range slices.Sorted(maps.Keys(alerts)) {
		a := alerts[id].rec
		if a.Phase == state.Resolved {
			continue
		}
		by := l.mutes.silencedBy(a, silences)
		inhibitor := ""
		if inhibition != nil && a.Phase == state.Firing {
			inhibitor = inhibition.By(route.Labelled{ID: id, Labels: a.Labels})
			if have := a.InhibitedBy; inhibitor != "" && have != "" && have != inhibitor {
				if other, ok := alerts[have]; ok && other.rec.Phase == state.Firing {
					inhibitor = have // one as good as the other: no change for its own sake
				}
			}
		}
		if slices.Equal(by, a.SilencedBy) && inhibitor == a.InhibitedBy {
			continue
		}
		if c, ok := state.SetMute(l.now, a, by, inhibitor, l.told(a)); ok {
			changes = append(changes, c)
		}
	}
	for id := range l.mutes.by {
		if _, ok := alerts[id]; !ok {
			delete(l.mutes.by, id)
		}
	}
	return l.commitAlerts(ctx, changes, Txn{})
}

func firing(alerts map[string]heldAlert) []route.Labelled {
	var out []route.Labelled
	for id, a := range alerts {
		if a.rec.Phase == state.Firing {
			out = append(out, route.Labelled{ID: id, Labels: a.rec.Labels})
		}
	}
	slices.SortFunc(out, func(a, b route.Labelled) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

func activeSilences(all map[string]*heldSilence, now int64) []*heldSilence {
	var out []*heldSilence
	for _, s := range all {
		if s.rec.State(now) == "active" {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b *heldSilence) int { return cmp.Compare(a.rec.ID, b.rec.ID) })
	return out
}

// maxSilencedBy bounds the silences that an alert's record names.
const maxSilencedBy = 10

func (c *muteCache) silencedBy(a *state.Alert, silences []*heldSilence) []string {
	if len(silences) == 0 {
		return nil
	}
	if e, ok := c.by[a.ID]; ok && e.alert == a {
		return e.by
	}
	var by []string
	for _, s := range silences {
		if len(by) < maxSilencedBy && s.matchers.Match(a.Labels) {
			by = append(by, s.rec.ID)
		}
	}
	c.by[a.ID] = muteEntry{a, by}
	return by
}

// told reports whether some receiver knows of the alert's newest change, or is about to.
func (l *leader) told(a *state.Alert) bool {
	b := l.s.board
	b.mu.RLock()
	defer b.mu.RUnlock()
	for _, k := range l.keysOf(a) {
		if g, ok := b.groups[k.key]; ok && g.rec.Knows(a) {
			return true
		}
	}
	return false
}

// escalate marks the alerts that nobody took in hand in the time of their route.
func (l *leader) escalate(ctx context.Context) error {
	b := l.s.board
	b.mu.RLock()
	cfg := b.routes.cfg
	b.mu.RUnlock()
	if cfg == nil || !cfg.Escalates() {
		return nil
	}
	alerts := b.snapshot()
	var changes []state.Change
	for _, id := range slices.Sorted(maps.Keys(alerts)) {
		a := alerts[id].rec
		if a.Phase != state.Firing || a.EscalatedAt != 0 || a.Muted() || a.Ack != nil && a.EscalateBy == "" {
			continue
		}
		for _, r := range cfg.For(a.Labels) {
			if r.Escalate != nil && (a.EscalateBy != "" || a.ChangedAt+route.Milliseconds(&r.Escalate.After) <= l.now) {
				if c, ok := state.Escalate(l.now, a, r.Escalate.Receiver); ok {
					changes = append(changes, c)
				}
				break
			}
		}
	}
	return l.commitAlerts(ctx, changes, Txn{})
}
