package alerting

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/triward/triward/appliance/alerting/route"
	"github.com/triward/triward/appliance/alerting/state"
)

// By is who changes something.
type By struct{ Actor, Address string }

func (by By) audit(action, target string, detail any) []Audit {
	a := Audit{Actor: clip(by.Actor, 256), Address: clip(by.Address, 256), Action: action, Target: clip(target, 256)}
	if detail != nil {
		a.Detail = encode(detail)
	}
	return []Audit{a}
}

// unique is a random text for keys.
func unique() string {
	var b [8]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// casRetries is how often a read-change-write is tried again when the leader was faster.
const casRetries = 16

// retrying runs a change until nobody else was faster.
func retrying(change func() error) error {
	var err error
	for range casRetries {
		if err = change(); !errors.Is(err, ErrConflict) {
			return err
		}
	}
	return err
}

// MaxAck bounds the alerts of one acknowledgement, assignment or escalation.
const MaxAck = 50

// changeAlerts changes alerts in one transaction. change says what becomes of one; ok is false when it stays as it is.
func (s *Service) changeAlerts(ctx context.Context, ids []string, comment, action string, by By, detail map[string]any,
	change func(now int64, have *state.Alert) (c state.Change, ok bool, err error),
) error {
	ids = slices.Clone(ids)
	slices.Sort(ids)
	ids = slices.Compact(ids)
	if len(ids) == 0 || len(ids) > MaxAck {
		return fmt.Errorf("1 to %d alerts are wanted: %w", MaxAck, ErrInvalid)
	}
	if len(comment) > route.MaxComment {
		return fmt.Errorf("comment: at most %d bytes: %w", route.MaxComment, ErrInvalid)
	}
	return retrying(func() error {
		s.board.refresh()
		now := s.cfg.Meta.LogTime()
		var t Txn
		for _, id := range ids {
			s.board.mu.RLock()
			have, ok := s.board.alerts[id]
			s.board.mu.RUnlock()
			if !ok {
				return fmt.Errorf("alert %.64q: %w", id, ErrNotFound)
			}
			c, changed, err := change(now, have.rec)
			if err != nil {
				return err
			}
			if !changed {
				continue
			}
			cmp, op := s.board.alertOp(&c)
			t.Compares, t.Ops = append(t.Compares, cmp), append(t.Ops, op)
			for _, h := range c.History {
				t.Ops = append(t.Ops, historyOp(h, unique()))
			}
		}
		if len(t.Ops) == 0 {
			return nil
		}
		all := map[string]any{"alerts": ids, "comment": comment}
		maps.Copy(all, detail)
		t.Audit = by.audit(action, ids[0], all)
		return s.commit(ctx, t)
	})
}

// Acknowledge takes alerts in hand (ack), or gives them back. All of them must fire.
func (s *Service) Acknowledge(ctx context.Context, ids []string, ack bool, comment string, by By) error {
	action := "alert.acknowledge"
	if !ack {
		action = "alert.unacknowledge"
	}
	return s.changeAlerts(ctx, ids, comment, action, by, nil, func(now int64, have *state.Alert) (state.Change, bool, error) {
		var mark *state.Ack
		if ack {
			mark = &state.Ack{By: by.Actor, At: now, Comment: comment}
		}
		c, changed := state.Acknowledge(now, have, mark, by.Actor)
		if !changed && have.Phase != state.Firing {
			return c, false, fmt.Errorf("alert %s is %s; only one that fires can be acknowledged: %w", have.ID, have.Shown(), ErrState)
		}
		return c, changed, nil // one that was not acknowledged has nothing to give back
	})
}

// maxAssignee bounds the name of who looks after an alert, in bytes.
const maxAssignee = 128

// Assign says who is to look after alerts; an empty name takes that back. Whether there is such a user is the caller's
// to know. All alerts must fire.
func (s *Service) Assign(ctx context.Context, ids []string, to, comment string, by By) error {
	if len(to) > maxAssignee {
		return fmt.Errorf("to: at most %d bytes: %w", maxAssignee, ErrInvalid)
	}
	return s.changeAlerts(ctx, ids, comment, "alert.assign", by, map[string]any{"to": to}, func(now int64, have *state.Alert) (state.Change, bool, error) {
		if have.Phase != state.Firing {
			return state.Change{}, false, fmt.Errorf("alert %s is %s; only one that fires can be assigned: %w", have.ID, have.Shown(), ErrState)
		}
		c, changed := state.Assign(now, have, to, comment, by.Actor)
		return c, changed, nil
	})
}

// Escalate lets the second receivers of alerts be told now, without waiting for the time of their routes.
func (s *Service) Escalate(ctx context.Context, ids []string, comment string, by By) error {
	return s.changeAlerts(ctx, ids, comment, "alert.escalate", by, nil, func(_ int64, have *state.Alert) (state.Change, bool, error) {
		s.board.mu.RLock()
		cfg := s.board.routes.cfg
		s.board.mu.RUnlock()
		switch {
		case have.Phase != state.Firing:
			return state.Change{}, false, fmt.Errorf("alert %s is %s; only one that fires can be escalated: %w", have.ID, have.Shown(), ErrState)
		case have.Muted():
			return state.Change{}, false, fmt.Errorf("alert %s is %s, and nobody is told of it: %w", have.ID, have.Shown(), ErrState)
		case cfg == nil || !slices.ContainsFunc(cfg.For(have.Labels), func(r *route.Route) bool { return r.Escalate != nil }):
			return state.Change{}, false, fmt.Errorf("no route of alert %s has a second step; give its route `escalate`: %w", have.ID, ErrState)
		}
		c, changed := state.AskEscalation(have, by.Actor)
		return c, changed, nil
	})
}

// PutSilence adds a silence, or changes the one of its id. A start of 0 means now.
func (s *Service) PutSilence(ctx context.Context, in route.Silence, by By) (route.Silence, error) {
	err := retrying(func() error {
		now := s.cfg.Meta.LogTime()
		sil := in
		s.board.refresh()
		s.board.mu.RLock()
		have := s.board.silences[in.ID]
		n := len(s.board.silences)
		s.board.mu.RUnlock()
		action, mod := "silence.add", uint64(0)
		if sil.StartsAt == 0 {
			sil.StartsAt = now
		}
		sil.CreatedBy, sil.CreatedAt, sil.UpdatedAt = by.Actor, now, now
		switch {
		case in.ID == "":
			sil.ID = unique()
			if n >= MaxSilences {
				return fmt.Errorf("%d silences: %w", n, ErrLimit)
			}
		case have == nil:
			return fmt.Errorf("silence %.64q: %w", in.ID, ErrNotFound)
		case have.rec.State(now) == "expired":
			return fmt.Errorf("silence %s has ended; add a new one: %w", in.ID, ErrState)
		default:
			action, mod = "silence.update", have.mod
			sil.CreatedBy, sil.CreatedAt = have.rec.CreatedBy, have.rec.CreatedAt
			if in.StartsAt == 0 {
				sil.StartsAt = have.rec.StartsAt
			}
		}
		if err := sil.Check(); err != nil {
			return fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		if sil.EndsAt <= now {
			return fmt.Errorf("ends_at is in the past: %w", ErrInvalid)
		}
		in2 := sil
		err := s.commit(ctx, Txn{
			Compares: []Compare{{BucketSilences, sil.ID, mod}},
			Ops:      []Op{{Bucket: BucketSilences, Key: sil.ID, Value: encode(sil), Expires: sil.EndsAt + keptSilences}},
			Audit:    by.audit(action, sil.ID, sil),
		})
		if err == nil {
			in = in2
		}
		return err
	})
	return in, err
}

// ExpireSilence ends a silence now.
func (s *Service) ExpireSilence(ctx context.Context, id string, by By) error {
	return retrying(func() error {
		s.board.refresh()
		now := s.cfg.Meta.LogTime()
		s.board.mu.RLock()
		have := s.board.silences[id]
		s.board.mu.RUnlock()
		if have == nil {
			return fmt.Errorf("silence %.64q: %w", id, ErrNotFound)
		}
		rec := have.rec
		if rec.State(now) == "expired" {
			return nil
		}
		rec.EndsAt, rec.UpdatedAt = now, now
		rec.StartsAt = min(rec.StartsAt, now)
		return s.commit(ctx, Txn{
			Compares: []Compare{{BucketSilences, id, have.mod}},
			Ops:      []Op{{Bucket: BucketSilences, Key: id, Value: encode(rec), Expires: now + keptSilences}},
			Audit:    by.audit("silence.expire", id, nil),
		})
	})
}

// keepVersion makes the operations that keep an earlier version of a file or of the routes, and drop the oldest.
func (s *Service) keepVersion(name string, version uint64, data []byte) []Op {
	key := func(v uint64) string { return fmt.Sprintf("%s/%012d", name, v) }
	ops := []Op{{Bucket: BucketVersions, Key: key(version), Value: data}}
	if version > keptVersions {
		ops = append(ops, Op{Delete: true, Bucket: BucketVersions, Key: key(version - keptVersions)})
	}
	return ops
}

// Version is an earlier version of a file of rules or of the routes.
type Version struct {
	Version   uint64 `json:"version"`
	UpdatedBy string `json:"updated_by"`
	UpdatedAt int64  `json:"updated_at"`
	Body      string `json:"body"`
}

// Versions lists earlier versions, newest first: of the file name, or of the routes when it is "".
func (s *Service) Versions(name string) []Version {
	prefix := "rules:" + name + "/"
	if name == "" {
		prefix = keyRoutes + "/"
	}
	out := []Version{}
	s.cfg.Meta.Scan(BucketVersions, prefix, func(_ string, v Value) bool {
		var one Version
		if json.Unmarshal(v.Data, &one) == nil {
			out = append(out, one)
		}
		return true
	})
	slices.Reverse(out)
	return out
}
