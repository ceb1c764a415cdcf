package state

import (
	"cmp"
	"slices"
)

// Rule is what the state machine has to know of a rule. Durations are milliseconds.
type Rule struct {
	ID            string
	For           int64
	KeepFiringFor int64
	// Lenient says that a condition which is not met may only be missing: it ends no alert.
	Lenient bool
}

// Result is one element of what a rule's condition gave, with the labels that the alert has.
type Result struct {
	ID     string // of the alert, by ID
	Labels map[string]string
	Value  float64
	// Annotate renders the annotations. It is called only when the phase changes.
	Annotate func() map[string]string
	// Until is set for events alone: the alert fires until then.
	Until int64
}

// MaxPerRule bounds the alerts of one rule.
const MaxPerRule = 2000

// Evaluate brings the alerts of a rule to what its condition gives now. active are the rule's records by id. Results
// must not repeat an id. Beyond MaxPerRule new alerts are left out, those that are there keep their place, and refused
// says how many were left out. The changes are ordered by id.
func Evaluate(r Rule, now int64, active map[string]*Alert, results []Result) (changes []Change, refused int) {
	seen := make(map[string]bool, len(results))
	live := 0
	for _, a := range active {
		if a.Phase != Resolved {
			live++
		}
	}
	results = slices.Clone(results)
	slices.SortFunc(results, func(a, b Result) int { return cmp.Compare(a.ID, b.ID) })
	for i := range results {
		res := &results[i]
		seen[res.ID] = true
		have := active[res.ID]
		if have == nil || have.Phase == Resolved {
			if live >= MaxPerRule {
				refused++
				continue
			}
			live++
			changes = append(changes, begin(r, now, have, res))
			continue
		}
		if c, ok := hold(r, now, have, res); ok {
			changes = append(changes, c)
		}
	}
	for id, a := range active {
		if seen[id] || r.Lenient {
			continue
		}
		if c, ok := lapse(r, now, a); ok {
			changes = append(changes, c)
		}
	}
	slices.SortFunc(changes, func(a, b Change) int { return cmp.Compare(a.ID, b.ID) })
	return changes, refused
}

// begin makes the record of a condition that did not hold before.
func begin(r Rule, now int64, have *Alert, res *Result) Change {
	a := &Alert{
		ID: res.ID, Rule: r.ID, Labels: res.Labels, Value: Value(res.Value), Phase: Pending, Episode: 1, ActiveAt: now,
		Until: res.Until, Annotations: res.annotations(),
	}
	if have != nil { // until it fires, receivers may still have to hear of the end of the episode before
		a.Episode = have.Episode + 1
		a.FiredAt, a.ResolvedAt, a.ChangedAt, a.EscalatedAt = have.FiredAt, have.ResolvedAt, have.ChangedAt, have.EscalatedAt
	}
	c := Change{ID: a.ID, Alert: a}
	if r.For <= 0 {
		fire(a, now)
		c.History = append(c.History, a.history(now, WhatFired))
	}
	return c
}

func fire(a *Alert, now int64) {
	a.Phase, a.FiredAt, a.ChangedAt = Firing, now, now
	a.ResolvedAt, a.EscalatedAt, a.Told = 0, 0, false
	if a.Muted() {
		a.ChangedAt = 0
	}
}

func (res *Result) annotations() map[string]string {
	if res.Annotate == nil {
		return nil
	}
	return res.Annotate()
}

// hold goes on with a condition that held before.
func hold(r Rule, now int64, have *Alert, res *Result) (Change, bool) {
	switch {
	case have.Phase == Pending && now-have.ActiveAt >= r.For:
		a := have.clone()
		a.Value, a.Annotations, a.Until = Value(res.Value), res.annotations(), max(a.Until, res.Until)
		fire(a, now)
		return Change{ID: a.ID, Alert: a, History: []History{a.history(now, WhatFired)}}, true
	case have.KeepSince != 0:
		a := have.clone()
		a.KeepSince = 0
		return Change{ID: a.ID, Alert: a}, true
	case res.Until > have.Until:
		a := have.clone()
		a.Until, a.Value, a.Annotations = res.Until, Value(res.Value), res.annotations()
		return Change{ID: a.ID, Alert: a}, true
	}
	return Change{}, false
}

// lapse goes on with an alert whose condition does not hold now.
func lapse(r Rule, now int64, have *Alert) (Change, bool) {
	switch {
	case have.Phase == Resolved || have.Until > now:
		return Change{}, false
	case have.Phase == Pending:
		return drop(have), true
	case r.KeepFiringFor > 0 && have.KeepSince == 0:
		a := have.clone()
		a.KeepSince = now
		return Change{ID: a.ID, Alert: a}, true
	case have.KeepSince != 0 && now-have.KeepSince < r.KeepFiringFor:
		return Change{}, false
	}
	return Resolve(now, have), true
}

// drop ends an alert that has not fired: what was before it, if anything, is left.
func drop(have *Alert) Change {
	if have.ResolvedAt == 0 {
		return Change{ID: have.ID}
	}
	a := have.clone()
	a.Phase, a.Until, a.SilencedBy, a.InhibitedBy = Resolved, 0, nil, ""
	return Change{ID: a.ID, Alert: a}
}

// Resolve ends an alert that fires. One of which receivers know, or that they are still to be told of, is changed for
// them too.
func Resolve(now int64, have *Alert) Change {
	a := have.clone()
	a.Phase, a.ResolvedAt, a.KeepSince = Resolved, now, 0
	a.ChangedAt = 0
	if !a.Muted() || a.Told {
		a.ChangedAt = now
	}
	return Change{ID: a.ID, Alert: a, History: []History{a.history(now, WhatResolved)}}
}

// Retire ends an alert whose rule is gone or disabled.
func Retire(now int64, have *Alert) (Change, bool) {
	switch have.Phase {
	case Firing:
		c := Resolve(now, have)
		c.History[0].Detail = "the rule was removed or disabled"
		return c, true
	case Pending:
		return drop(have), true
	}
	return Change{}, false
}

// SetMute makes the record say by what the alert is muted, if that differs. told says that some receiver knows that it
// fires. Who silenced an alert is reminded of it when the silence ends; the end of an inhibition is news only to those
// who were not told before.
func SetMute(now int64, have *Alert, silences []string, inhibitor string, told bool) (Change, bool) {
	if have.Phase == Resolved || slices.Equal(have.SilencedBy, silences) && have.InhibitedBy == inhibitor {
		return Change{}, false
	}
	a := have.clone()
	a.SilencedBy, a.InhibitedBy = slices.Clone(silences), inhibitor
	c := Change{ID: a.ID, Alert: a}
	if a.Phase != Firing {
		return c, true
	}
	note := func(was, is, begun, ended string) {
		if (was == "") == (is == "") {
			return
		}
		h := a.history(now, begun)
		h.Detail = is
		if is == "" {
			h.What, h.Detail = ended, was
		}
		c.History = append(c.History, h)
	}
	note(first(have.SilencedBy), first(silences), WhatSilenced, WhatUnsilenced)
	note(have.InhibitedBy, inhibitor, WhatInhibited, WhatUninhibited)
	switch {
	case have.Muted() && !a.Muted() && (!a.Told || len(have.SilencedBy) > 0):
		a.ChangedAt = now
	case !have.Muted() && a.Muted():
		if a.Told = told; !told {
			a.ChangedAt = 0
		}
	}
	return c, true
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

// Acknowledge takes the alert in hand; a nil ack gives it back. by is who does it.
func Acknowledge(now int64, have *Alert, ack *Ack, by string) (Change, bool) {
	if have.Phase != Firing || ack == nil && have.Ack == nil {
		return Change{}, false
	}
	a := have.clone()
	a.Ack = ack
	h := a.history(now, WhatAcked)
	if ack == nil {
		h.What = WhatUnacked
	} else {
		h.Detail = ack.Comment
	}
	h.By = by
	return Change{ID: a.ID, Alert: a, History: []History{h}}, true
}

// AskEscalation lets the second receiver be told now, whether somebody has the alert in hand or not. by is who wants it.
func AskEscalation(have *Alert, by string) (Change, bool) {
	if have.Phase != Firing || have.EscalatedAt != 0 || have.EscalateBy != "" || have.Muted() {
		return Change{}, false
	}
	a := have.clone()
	a.EscalateBy = by
	return Change{ID: a.ID, Alert: a}, true
}

// Escalate marks that nobody took the alert in hand in time, or that somebody asked for the escalation.
func Escalate(now int64, have *Alert, receiver string) (Change, bool) {
	if have.Phase != Firing || have.Ack != nil && have.EscalateBy == "" || have.EscalatedAt != 0 || have.Muted() {
		return Change{}, false
	}
	a := have.clone()
	a.EscalatedAt = now
	h := a.history(now, WhatEscalated)
	h.Receiver, h.By = receiver, a.EscalateBy
	return Change{ID: a.ID, Alert: a, History: []History{h}}, true
}

// Assign says who is to look after the alert; an empty name takes that back. by is who does it. It changes nothing of who
// is told when: until somebody acknowledges the alert, it is repeated and escalates.
func Assign(now int64, have *Alert, to, comment, by string) (Change, bool) {
	if have.Phase != Firing || have.Assigned == nil && to == "" || have.Assigned != nil && have.Assigned.To == to {
		return Change{}, false
	}
	a := have.clone()
	a.Assigned = nil
	h := a.history(now, WhatUnassigned)
	h.By, h.To = by, to
	h.Detail = comment
	if to != "" {
		a.Assigned = &Assignment{To: to, By: by, At: now}
		h.What = WhatAssigned
	}
	return Change{ID: a.ID, Alert: a, History: []History{h}}, true
}
