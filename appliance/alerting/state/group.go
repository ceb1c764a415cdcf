package state

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
)

// Mark is a place in the order of changes: by time, then by alert.
type Mark struct {
	T  int64  `json:"t"`
	ID string `json:"id,omitempty"`
}

// Compare orders marks.
func (m Mark) Compare(o Mark) int { return cmp.Or(cmp.Compare(m.T, o.T), cmp.Compare(m.ID, o.ID)) }

// Group is the record of one group of alerts and one integration of a receiver: what it was told and when.
type Group struct {
	Key         string            `json:"key"`
	Route       string            `json:"route"`
	Receiver    string            `json:"receiver"`
	Integration string            `json:"integration"` // such as webhook/0
	Labels      map[string]string `json:"labels"`      // that all its alerts share
	Escalation  bool              `json:"escalation,omitempty"`
	FlushedAt   int64             `json:"flushed_at"` // log time of the newest claim
	Through     Mark              `json:"through"`    // changes up to here are told, or claimed
	Quiet       bool              `json:"quiet,omitempty"`
	More        bool              `json:"more,omitempty"` // changes were left for the next message
	Seq         uint64            `json:"seq"`
	Claim       string            `json:"claim,omitempty"` // dedup key of the claim that is not settled
}

// Timing of a group, in milliseconds.
type Timing struct {
	Wait     int64 // from the first alert to the first message
	Interval int64 // from one message to the next with something new
	Repeat   int64 // from one message to the next with nothing new; 0 never
	// Resolved says that the end of alerts is told.
	Resolved bool
}

// ClaimState is what is known of a claim's newest attempt.
type ClaimState string

// The states of a claim. One that was sent is settled and has no record.
const (
	Sending ClaimState = "sending" // an attempt may be under way, or its result be lost
	Failed  ClaimState = "failed"  // the newest attempt failed; the next is at NextAt
)

// Claim is the intent to send one message. It is committed before each attempt to send it.
type Claim struct {
	Key         string            `json:"key"` // dedup key
	Group       string            `json:"group"`
	Receiver    string            `json:"receiver"`
	Integration string            `json:"integration"`
	Labels      map[string]string `json:"labels"`
	Escalation  bool              `json:"escalation,omitempty"`
	Seq         uint64            `json:"seq"`
	Alerts      []Told            `json:"alerts"`
	Truncated   int               `json:"truncated,omitempty"` // alerts that fire and are not listed
	ClaimedAt   int64             `json:"claimed_at"`
	State       ClaimState        `json:"state"`
	Attempts    int               `json:"attempts"`
	AttemptAt   int64             `json:"attempt_at"`
	NextAt      int64             `json:"next_at,omitempty"`
	Error       string            `json:"error,omitempty"`
	Node        string            `json:"node"`  // that makes the attempt
	Lease       uint64            `json:"lease"` // under which it is made
}

// Told is an alert in a message.
type Told struct {
	ID      string `json:"id"`
	Episode uint64 `json:"episode"`
	Firing  bool   `json:"firing"`
}

// MaxMessage bounds the alerts that one message lists.
const MaxMessage = 300

// mark returns where the alert's newest change stands for the group; ok is false when there is nothing to tell.
func (g *Group) mark(a *Alert) (m Mark, firing, ok bool) {
	m = Mark{a.ChangedAt, a.ID}
	if a.Phase == Firing {
		if g.Escalation {
			m.T = a.EscalatedAt
		}
		return m, true, m.T != 0 && !a.Muted()
	}
	return m, false, a.ChangedAt != 0 && a.ResolvedAt != 0
}

// Knows reports whether the integration was told of the alert's newest change, or is about to be.
func (g *Group) Knows(a *Alert) bool {
	m, _, ok := g.mark(a)
	return ok && m.Compare(g.Through) <= 0
}

// Settled reports whether the alert may be forgotten as far as this group goes.
func (g *Group) Settled(a *Alert, t Timing) bool {
	m, firing, ok := g.mark(a)
	if ok && !firing && !t.Resolved {
		ok = false
	}
	return g.Claim == "" && (!ok || m.Compare(g.Through) <= 0)
}

// review sorts the members of a group by what there is to tell of them.
func (g *Group) review(members []*Alert, t Timing) (changed, standing []Told, marks []Mark, repeat bool) {
	type change struct {
		mark Mark
		told Told
	}
	var all []change
	for _, a := range members {
		m, firing, ok := g.mark(a)
		if !ok || !firing && !t.Resolved {
			continue
		}
		told := Told{ID: a.ID, Episode: a.Episode, Firing: firing}
		if a.Phase == Pending { // it tells of the episode before
			told.Episode--
		}
		if m.Compare(g.Through) > 0 {
			all = append(all, change{m, told})
		} else if firing {
			standing = append(standing, told)
			repeat = repeat || a.Ack == nil
		}
	}
	slices.SortFunc(all, func(a, b change) int { return a.mark.Compare(b.mark) })
	for i := range all {
		changed, marks = append(changed, all[i].told), append(marks, all[i].mark)
	}
	slices.SortFunc(standing, func(a, b Told) int { return cmp.Compare(a.ID, b.ID) })
	return changed, standing, marks, repeat
}

// Due returns when the group has to send next; false when there is nothing to send.
func (g *Group) Due(members []*Alert, t Timing) (at int64, ok bool) {
	if g.Claim != "" {
		return 0, false
	}
	changed, _, marks, repeat := g.review(members, t)
	switch {
	case len(changed) > 0 && g.More:
		return g.FlushedAt, true
	case len(changed) > 0 && (g.FlushedAt == 0 || g.Quiet):
		return marks[0].T + t.Wait, true
	case len(changed) > 0:
		return g.FlushedAt + t.Interval, true
	case repeat && t.Repeat > 0:
		return g.FlushedAt + t.Repeat, true
	}
	return 0, false
}

// Plan makes the claim of the message that is due, and the group's record with it.
func (g *Group) Plan(now int64, members []*Alert, t Timing) (*Group, *Claim) {
	changed, standing, marks, _ := g.review(members, t)
	next := *g
	next.FlushedAt, next.Seq = now, g.Seq+1
	next.More = len(changed) > MaxMessage
	n := min(len(changed), MaxMessage)
	c := &Claim{
		Group: g.Key, Receiver: g.Receiver, Integration: g.Integration, Labels: g.Labels, Escalation: g.Escalation,
		Seq: next.Seq, ClaimedAt: now, Alerts: changed[:n:n],
	}
	if n > 0 {
		next.Through = marks[n-1]
	}
	room := min(MaxMessage-n, len(standing))
	c.Alerts = append(c.Alerts, standing[:room]...)
	c.Truncated = len(standing) - room
	next.Quiet = c.Truncated == 0 && !slices.ContainsFunc(c.Alerts, func(t Told) bool { return t.Firing })
	c.Key = c.dedupKey()
	next.Claim = c.Key
	return &next, c
}

// dedupKey names the message: what is said to whom for which time.
func (c *Claim) dedupKey() string {
	h := sha256.New()
	fmt.Fprintf(h, "%q %q %q %d", c.Group, c.Receiver, c.Integration, c.Seq)
	for _, t := range c.Alerts {
		fmt.Fprintf(h, " %s %d %t", t.ID, t.Episode, t.Firing)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// Firing reports whether the message tells of an alert that fires.
func (c *Claim) Firing() bool {
	return c.Truncated > 0 || slices.ContainsFunc(c.Alerts, func(t Told) bool { return t.Firing })
}

// Back-off of attempts and the time after which a message is given up, in milliseconds.
const (
	firstRetry = 2_000
	lastRetry  = 60_000
	GiveUp     = 24 * 3600 * 1000
)

// Attempt is the claim before its next attempt.
func (c *Claim) Attempt(now int64, node string, lease uint64) *Claim {
	next := *c
	next.State, next.Attempts, next.AttemptAt, next.NextAt = Sending, c.Attempts+1, now, 0
	next.Node, next.Lease = node, lease
	return &next
}

// Fail is the claim after an attempt that failed; giveUp says that it was the last.
func (c *Claim) Fail(now int64, why string) (next *Claim, giveUp bool) {
	n := *c
	n.State, n.Error = Failed, why
	wait := int64(lastRetry)
	if c.Attempts < 6 {
		wait = min(wait, firstRetry<<max(c.Attempts-1, 0))
	}
	n.NextAt = now + wait
	return &n, now-c.ClaimedAt >= GiveUp
}

// Sent returns the history of a message that was sent, or not (WhatSendFailed, WhatSendLost, WhatUndelivered).
func (c *Claim) Sent(now int64, what, detail string) History {
	h := History{T: now, What: what, Receiver: c.Receiver + "/" + c.Integration, Key: c.Key, Detail: detail, Count: len(c.Alerts), Labels: c.Labels, Node: c.Node, Attempt: c.Attempts}
	for _, t := range c.Alerts[:min(len(c.Alerts), MaxHistoryAlerts)] {
		h.Alerts = append(h.Alerts, t.ID)
	}
	return h
}
