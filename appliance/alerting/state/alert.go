package state

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Phase is where an alert stands by its rule alone.
type Phase string

// The phases. A rule whose condition does not hold has no record.
const (
	Pending  Phase = "pending"
	Firing   Phase = "firing"
	Resolved Phase = "resolved"
)

// Shown is how an alert is shown: its phase, or what was done about it while it fires.
type Shown string

// What an alert is shown as beside pending, firing and resolved.
const (
	Acknowledged Shown = "acknowledged"
	Silenced     Shown = "silenced"
	Inhibited    Shown = "inhibited"
)

// Value is a number that may be NaN or infinite; those are texts in JSON.
type Value float64

// MarshalJSON writes the number.
func (v Value) MarshalJSON() ([]byte, error) {
	f := float64(v)
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return json.Marshal(strconv.FormatFloat(f, 'g', -1, 64))
	}
	return json.Marshal(f)
}

// UnmarshalJSON is the inverse of MarshalJSON.
func (v *Value) UnmarshalJSON(b []byte) error {
	f, err := strconv.ParseFloat(strings.Trim(string(b), `"`), 64)
	*v = Value(f)
	return err
}

// Ack says who took an alert in hand.
type Ack struct {
	By      string `json:"by"`
	At      int64  `json:"at"`
	Comment string `json:"comment,omitempty"`
}

// Assignment says who is to look after an alert.
type Assignment struct {
	To string `json:"to"`
	By string `json:"by"`
	At int64  `json:"at"`
}

// Alert is the record of one alert: one rule and one set of labels. Times are log times in milliseconds, 0 for never.
// Records are never changed, only replaced.
type Alert struct {
	ID          string            `json:"id"`
	Rule        string            `json:"rule"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Value       Value             `json:"value"` // when the phase last changed
	Phase       Phase             `json:"phase"`
	Episode     uint64            `json:"episode"`            // counts how often it began
	ActiveAt    int64             `json:"active_at"`          // since when the condition holds
	FiredAt     int64             `json:"fired_at,omitempty"` // of this episode
	ResolvedAt  int64             `json:"resolved_at,omitempty"`
	KeepSince   int64             `json:"keep_since,omitempty"` // the condition is gone since then, and keep_firing_for runs
	Until       int64             `json:"until,omitempty"`      // an alert of an event fires until then
	Ack         *Ack              `json:"ack,omitempty"`
	Assigned    *Assignment       `json:"assigned,omitempty"`
	SilencedBy  []string          `json:"silenced_by,omitempty"`  // ids of silences
	InhibitedBy string            `json:"inhibited_by,omitempty"` // id of an alert
	// ChangedAt is when there was last something that receivers are told of: it fired, resolved, or was no longer muted.
	ChangedAt int64 `json:"changed_at,omitempty"`
	// Told says that receivers were told that it fires before it was muted, so that they hear of its end too.
	Told        bool  `json:"told,omitempty"`
	EscalatedAt int64 `json:"escalated_at,omitempty"` // of this episode
	// EscalateBy asks for the escalation now; the leader makes it, so that its time is in order with all others.
	EscalateBy string `json:"escalate_by,omitempty"`
}

// Muted reports whether receivers are not told of the alert.
func (a *Alert) Muted() bool { return len(a.SilencedBy) > 0 || a.InhibitedBy != "" }

// Shown returns how the alert is shown.
func (a *Alert) Shown() Shown {
	switch {
	case a.Phase != Firing:
		return Shown(a.Phase)
	case a.Ack != nil:
		return Acknowledged
	case len(a.SilencedBy) > 0:
		return Silenced
	case a.InhibitedBy != "":
		return Inhibited
	}
	return Shown(Firing)
}

// ID names the alert of a rule with the labels: the same on every node and for ever.
func ID(rule string, labels map[string]string) string {
	h := sha256.New()
	part := func(s string) {
		h.Write(strconv.AppendInt(nil, int64(len(s)), 10))
		h.Write([]byte{':'})
		h.Write([]byte(s))
	}
	part(rule)
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		part(name)
		part(labels[name])
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// What a history record tells of.
const (
	WhatFired       = "fired"
	WhatResolved    = "resolved"
	WhatAcked       = "acknowledged"
	WhatUnacked     = "unacknowledged"
	WhatSilenced    = "silenced"
	WhatUnsilenced  = "unsilenced"
	WhatInhibited   = "inhibited"
	WhatUninhibited = "uninhibited"
	WhatAssigned    = "assigned"
	WhatUnassigned  = "unassigned"
	WhatEscalated   = "escalated"
	WhatSent        = "sent"
	WhatSendFailed  = "send_failed"
	WhatSendLost    = "send_lost" // the sender of an attempt is gone and nobody knows whether it was received
	WhatUndelivered = "undelivered"
	WhatLimit       = "limit"
)

// History is one record of what happened to an alert, or to the notification of several.
type History struct {
	T        int64             `json:"t"`
	What     string            `json:"what"`
	Alert    string            `json:"alert,omitempty"` // id
	Rule     string            `json:"rule,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`
	Episode  uint64            `json:"episode,omitempty"`
	Value    *Value            `json:"value,omitempty"`
	By       string            `json:"by,omitempty"`
	To       string            `json:"to,omitempty"` // to whom it was assigned
	Detail   string            `json:"detail,omitempty"`
	Receiver string            `json:"receiver,omitempty"`
	Key      string            `json:"dedup_key,omitempty"`
	Alerts   []string          `json:"alerts,omitempty"` // of a notification: ids, at most MaxHistoryAlerts
	Count    int               `json:"count,omitempty"`  // of a notification: how many alerts it told of
	Node     string            `json:"node,omitempty"`   // of a notification: which node made the attempt
	Attempt  int               `json:"attempt,omitempty"`
}

// MaxHistoryAlerts bounds the alerts that the history of one notification names.
const MaxHistoryAlerts = 20

func (a *Alert) history(now int64, what string) History {
	v := a.Value
	return History{T: now, What: what, Alert: a.ID, Rule: a.Rule, Labels: a.Labels, Episode: a.Episode, Value: &v}
}

// Change is a new record of an alert (nil: it goes) and what is to be remembered of it.
type Change struct {
	ID      string
	Alert   *Alert
	History []History
}

func (a *Alert) clone() *Alert {
	c := *a
	return &c
}
