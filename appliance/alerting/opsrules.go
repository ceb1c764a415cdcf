package alerting

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/triward/triward/appliance/alerting/notify"
	"github.com/triward/triward/appliance/alerting/route"
	"github.com/triward/triward/appliance/alerting/rules"
)

// CheckRules reads a file of rules and says what is wrong with it (*rules.Error).
func (s *Service) CheckRules(name string, body []byte) (*rules.File, error) {
	return s.parse(name, body)
}

// File returns a file of rules as it is stored.
func (s *Service) File(name string) (FileRecord, error) {
	s.board.refresh()
	s.board.mu.RLock()
	defer s.board.mu.RUnlock()
	f := s.board.files[name]
	if f == nil || f.rec.Removed {
		return FileRecord{}, fmt.Errorf("rule file %.64q: %w", name, ErrNotFound)
	}
	return f.rec, nil
}

// FileChange is what is to become of a file of rules. Fields that are nil stay as they are.
type FileChange struct {
	Body     *string
	Disabled *bool
	Off      *[]string
	// Version, when not 0, must be the file's present one: who read it wants to change what was read.
	Version uint64
}

// PutFile adds or changes a file of rules. Its warnings are returned.
func (s *Service) PutFile(ctx context.Context, name string, ch FileChange, by By) (rec FileRecord, warnings []string, err error) {
	var parsed *rules.File
	if ch.Body != nil {
		if parsed, err = s.parse(name, []byte(*ch.Body)); err != nil {
			return rec, nil, err
		}
		if parsed.LogQL && !s.cfg.LogQL() {
			return rec, nil, fmt.Errorf("rule file %.64q: %w", name, ErrOldNodes)
		}
		warnings = parsed.Warnings
	}
	err = retrying(func() error {
		s.board.refresh()
		s.board.mu.RLock()
		have := s.board.files[name]
		total, files := s.board.countRules(name), len(s.board.files)
		s.board.mu.RUnlock()
		var mod uint64
		rec = FileRecord{Name: name, Origin: OriginOperator}
		if have != nil {
			rec, mod = have.rec, have.mod
		}
		exists := have != nil && !have.rec.Removed
		switch {
		case !exists && ch.Body == nil:
			return fmt.Errorf("rule file %.64q: %w", name, ErrNotFound)
		case ch.Version != 0 && ch.Version != rec.Version:
			return fmt.Errorf("rule file %s is at version %d, not %d: %w", name, rec.Version, ch.Version, ErrConflictNow)
		case have == nil && files >= MaxFiles:
			return fmt.Errorf("%d rule files: %w", files, ErrLimit)
		case parsed != nil && total+parsed.Count() > MaxRules:
			return fmt.Errorf("%d rules with this file, at most %d: %w", total+parsed.Count(), MaxRules, ErrLimit)
		}
		if err := change(&rec, ch, parsed, have); err != nil {
			return err
		}
		rec.Version++
		rec.UpdatedBy, rec.UpdatedAt = by.Actor, s.cfg.Meta.LogTime()
		t := Txn{
			Compares: []Compare{{BucketRules, name, mod}},
			Ops:      []Op{{Bucket: BucketRules, Key: name, Value: encode(rec)}},
			Audit:    by.audit("rules.apply", name, map[string]any{"version": rec.Version, "disabled": rec.Disabled, "off": rec.Off}),
		}
		if exists {
			was := Version{Version: have.rec.Version, UpdatedBy: have.rec.UpdatedBy, UpdatedAt: have.rec.UpdatedAt, Body: have.rec.Body}
			t.Ops = append(t.Ops, s.keepVersion("rules:"+name, was.Version, encode(was))...)
		}
		return s.commit(ctx, t)
	})
	return rec, warnings, err
}

// ErrConflictNow says that what was changed is no longer what was read, and that trying again does not help.
var ErrConflictNow = errors.New("it was changed by somebody else; read it again")

// change applies a change to a record.
func change(rec *FileRecord, ch FileChange, parsed *rules.File, have *heldFile) error {
	if ch.Body != nil {
		if have != nil && *ch.Body != have.rec.Body {
			rec.Origin = OriginOperator
		}
		rec.Body, rec.Removed = *ch.Body, false
	} else if have != nil {
		parsed = have.parsed
	}
	if ch.Disabled != nil {
		rec.Disabled = *ch.Disabled
	}
	if ch.Off != nil {
		rec.Off = slices.Clone(*ch.Off)
		slices.Sort(rec.Off)
		rec.Off = slices.Compact(rec.Off)
	}
	if parsed == nil {
		return nil
	}
	known := make(map[string]bool)
	for gi := range parsed.Groups {
		for ri := range parsed.Groups[gi].Rules {
			known[parsed.Groups[gi].Rules[ri].Name] = true
		}
	}
	for _, name := range rec.Off {
		if !known[name] && ch.Off != nil {
			return fmt.Errorf("off: the file has no rule %.100q: %w", name, ErrInvalid)
		}
	}
	rec.Off = slices.DeleteFunc(rec.Off, func(name string) bool { return !known[name] })
	return nil
}

// countRules counts the rules of all files but one. mu is held.
func (b *board) countRules(but string) int {
	n := 0
	for name, f := range b.files {
		if name != but && f.parsed != nil && !f.rec.Removed {
			n += f.parsed.Count()
		}
	}
	return n
}

// DeleteFile removes a file of rules; its alerts end. A shipped one stays away until it is put again.
func (s *Service) DeleteFile(ctx context.Context, name string, by By) error {
	return retrying(func() error {
		s.board.refresh()
		s.board.mu.RLock()
		have := s.board.files[name]
		s.board.mu.RUnlock()
		if have == nil || have.rec.Removed {
			return fmt.Errorf("rule file %.64q: %w", name, ErrNotFound)
		}
		op := Op{Delete: true, Bucket: BucketRules, Key: name}
		if have.rec.Shipped > 0 {
			rec := have.rec
			rec.Removed, rec.Version, rec.UpdatedBy, rec.UpdatedAt = true, rec.Version+1, by.Actor, s.cfg.Meta.LogTime()
			op = Op{Bucket: BucketRules, Key: name, Value: encode(rec)}
		}
		was := Version{Version: have.rec.Version, UpdatedBy: have.rec.UpdatedBy, UpdatedAt: have.rec.UpdatedAt, Body: have.rec.Body}
		return s.commit(ctx, Txn{
			Compares: []Compare{{BucketRules, name, have.mod}},
			Ops:      append([]Op{op}, s.keepVersion("rules:"+name, was.Version, encode(was))...),
			Audit:    by.audit("rules.delete", name, nil),
		})
	})
}

// Routes returns the document of routes and receivers, its secrets hidden.
func (s *Service) Routes() (RoutesRecord, *route.Config, error) {
	s.board.refresh()
	s.board.mu.RLock()
	defer s.board.mu.RUnlock()
	rt := s.board.routes
	if rt.mod == 0 {
		return RoutesRecord{}, nil, fmt.Errorf("routes: %w", ErrNotFound)
	}
	rec := rt.rec
	rec.Sealed = nil
	return rec, rt.cfg, rt.err
}

// PutRoutes replaces the document. Secrets in it are sealed; where it says <secret> the stored one of the same place is
// kept. version, when not 0, must be the present one.
func (s *Service) PutRoutes(ctx context.Context, body []byte, version uint64, by By) (RoutesRecord, error) {
	if _, err := route.Parse(body); err != nil {
		return RoutesRecord{}, err
	}
	shown, secrets, err := route.Split(body)
	if err != nil {
		return RoutesRecord{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	kept, err := route.Places(body)
	if err != nil {
		return RoutesRecord{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if len(secrets)+len(kept) > 0 && s.cfg.Sealer == nil {
		return RoutesRecord{}, ErrNoSealer
	}
	sealed := make(map[string]string)
	for place, plain := range secrets {
		if sealed[place], err = s.cfg.Sealer.Seal(sealPurpose+place, []byte(plain)); err != nil {
			return RoutesRecord{}, fmt.Errorf("seal %s: %w", place, err)
		}
	}
	var rec RoutesRecord
	err = retrying(func() error {
		s.board.refresh()
		s.board.mu.RLock()
		have := s.board.routes
		s.board.mu.RUnlock()
		if version != 0 && version != have.rec.Version {
			return fmt.Errorf("the routes are at version %d, not %d: %w", have.rec.Version, version, ErrConflictNow)
		}
		for _, place := range kept {
			old, ok := have.rec.Sealed[place]
			if !ok {
				return fmt.Errorf("%s: there is no stored secret to keep; write it out: %w", place, ErrInvalid)
			}
			sealed[place] = old
		}
		rec = RoutesRecord{Body: string(shown), Sealed: sealed, Version: have.rec.Version + 1, UpdatedBy: by.Actor, UpdatedAt: s.cfg.Meta.LogTime()}
		t := Txn{
			Compares: []Compare{{BucketRoutes, keyRoutes, have.mod}},
			Ops:      []Op{{Bucket: BucketRoutes, Key: keyRoutes, Value: encode(rec)}},
			Audit:    by.audit("routes.apply", keyRoutes, map[string]any{"version": rec.Version}),
		}
		if have.mod != 0 {
			was := Version{Version: have.rec.Version, UpdatedBy: have.rec.UpdatedBy, UpdatedAt: have.rec.UpdatedAt, Body: have.rec.Body}
			t.Ops = append(t.Ops, s.keepVersion(keyRoutes, was.Version, encode(was))...)
		}
		return s.commit(ctx, t)
	})
	rec.Sealed = nil
	return rec, err
}

// RouteHit is where an alert would go.
type RouteHit struct {
	Route      string            `json:"route"`
	Receiver   string            `json:"receiver"`
	GroupBy    map[string]string `json:"group_labels"`
	EscalateTo string            `json:"escalate_to,omitempty"`
	EscalateMs int64             `json:"escalate_after_ms,omitempty"`
}

// TestRoute says which receivers would get an alert with the labels.
func (s *Service) TestRoute(ls map[string]string) ([]RouteHit, error) {
	_, cfg, err := s.Routes()
	if err != nil {
		return nil, err
	}
	var out []RouteHit
	for _, r := range cfg.For(ls) {
		h := RouteHit{Route: r.Key(), Receiver: r.Receiver, GroupBy: r.GroupLabels(ls)}
		if r.Escalate != nil {
			h.EscalateTo, h.EscalateMs = r.Escalate.Receiver, route.Milliseconds(&r.Escalate.After)
		}
		out = append(out, h)
	}
	return out, nil
}

// TestResult is how one way of a receiver took a test message.
type TestResult struct {
	Integration string `json:"integration"`
	OK          bool   `json:"ok"`
	Error       string `json:"error,omitempty"`
	Key         string `json:"dedup_key"`
}

// TestReceiver sends a real message to every way of a receiver and says how each took it.
func (s *Service) TestReceiver(ctx context.Context, name string, by By) ([]TestResult, error) {
	s.board.refresh()
	s.board.mu.RLock()
	rt := s.board.routes
	s.board.mu.RUnlock()
	cfg, err := s.openRoutes(&rt)
	if err != nil {
		return nil, err
	}
	to := cfg.Receiver(name)
	if to == nil {
		return nil, fmt.Errorf("receiver %.100q: %w", name, ErrNotFound)
	}
	ways := to.Integrations()
	if len(ways) == 0 {
		return nil, fmt.Errorf("receiver %s has no way to be told: %w", name, ErrState)
	}
	if err := s.commit(ctx, Txn{Audit: by.audit("receivers.test", name, nil)}); err != nil {
		return nil, err
	}
	m := s.testMessage(name, by.Actor, s.cfg.Meta.LogTime(), unique())
	out := make([]TestResult, len(ways))
	done := make(chan struct{}, len(ways))
	for i := range ways {
		go func() {
			defer func() { done <- struct{}{} }()
			out[i] = TestResult{Integration: ways[i].Name, OK: true, Key: m.Key}
			if err := s.cfg.Send(ctx, &ways[i], m, notify.Gate(nil)); err != nil {
				out[i].OK, out[i].Error = false, err.Error()
			}
		}()
	}
	for range ways {
		<-done
	}
	return out, nil
}
