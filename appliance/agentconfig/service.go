package agentconfig

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/triward/triward/agent/config"
	"github.com/triward/triward/appliance/auth"
)

// Service reads and changes the configurations. Safe for concurrent use.
type Service struct {
	meta auth.Meta

	mu   sync.Mutex
	held map[string]heldVersion // decoded, by group
}

type heldVersion struct {
	mod uint64
	rec *Version
}

// New makes a Service.
func New(meta auth.Meta) *Service { return &Service{meta: meta, held: make(map[string]heldVersion)} }

// Own returns the newest version of the group's own configuration and the index that wrote it; false when it has none.
// The version is shared and must not be changed.
func (s *Service) Own(group string) (rec *Version, mod uint64, ok bool) {
	v, ok := s.meta.Get(Bucket, group)
	if !ok {
		return nil, 0, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if h, ok := s.held[group]; ok && h.mod == v.ModIndex {
		return h.rec, h.mod, true
	}
	rec = new(Version)
	if err := json.Unmarshal(v.Data, rec); err != nil {
		return nil, v.ModIndex, false
	}
	if len(s.held) >= 2*MaxGroups { // groups that were removed
		clear(s.held)
	}
	s.held[group] = heldVersion{v.ModIndex, rec}
	return rec, v.ModIndex, true
}

// For returns what the agents of a group are to have: its own configuration, else that of the default group, else one
// of version 0. It must not be changed.
func (s *Service) For(group string) *Version {
	for _, g := range []string{GroupOf(group), DefaultGroup} {
		if rec, _, ok := s.Own(g); ok {
			return rec
		}
	}
	return &Version{Group: DefaultGroup}
}

// Wanted says which configuration the agents of a group are to have.
func (s *Service) Wanted(group string) (of string, version uint64, hash string) {
	v := s.For(group)
	return v.Group, v.Version, v.Hash
}

// Groups returns the newest version of each group that has one, in order of their names, without their texts. The default
// group is always among them.
func (s *Service) Groups() []Version {
	var out []Version
	s.meta.Scan(Bucket, "", func(_ string, v auth.Value) bool {
		var rec Version
		if json.Unmarshal(v.Data, &rec) == nil {
			rec.Body = ""
			out = append(out, rec)
		}
		return len(out) <= MaxGroups
	})
	if !slices.ContainsFunc(out, func(v Version) bool { return v.Group == DefaultGroup }) {
		out = append(out, Version{Group: DefaultGroup})
		slices.SortFunc(out, func(a, b Version) int { return strings.Compare(a.Group, b.Group) })
	}
	return out
}

func historyKey(group string, version uint64) string { return fmt.Sprintf("%s/%020d", group, version) }

// History returns the kept versions of a group, the newest first, without their texts.
func (s *Service) History(group string) []Version {
	out := []Version{}
	s.meta.Scan(BucketHistory, group+"/", func(_ string, v auth.Value) bool {
		var rec Version
		if json.Unmarshal(v.Data, &rec) == nil {
			rec.Body = ""
			out = append(out, rec)
		}
		return len(out) <= 2*MaxHistory
	})
	slices.Reverse(out)
	return out
}

// Version returns a kept version of a group; version 0 is the newest.
func (s *Service) Version(group string, version uint64) (Version, error) {
	if version == 0 {
		if rec, _, ok := s.Own(group); ok {
			return *rec, nil
		}
		return Version{}, fmt.Errorf("group %.70q has no configuration: %w", group, ErrNotFound)
	}
	v, ok := s.meta.Get(BucketHistory, historyKey(group, version))
	if !ok {
		return Version{}, fmt.Errorf("version %d of group %.70q: %w; the newest %d are kept", version, group, ErrNotFound, MaxHistory)
	}
	var rec Version
	if err := json.Unmarshal(v.Data, &rec); err != nil {
		return Version{}, fmt.Errorf("read version %d of group %s: %w", version, group, err)
	}
	return rec, nil
}

// Change is a new text of a group's configuration.
type Change struct {
	Body string
	// Base is the version that was read and is replaced; 0 when the group had none.
	Base uint64
	Note string
	from uint64
}

// Put makes the text the newest version of the group's configuration.
func (s *Service) Put(ctx context.Context, group string, ch Change, by By) (Version, error) {
	if err := checkChange(group, &ch); err != nil {
		return Version{}, err
	}
	if _, err := Check([]byte(ch.Body)); err != nil {
		return Version{}, err
	}
	var rec Version
	err := s.change(ctx, group, ch.Base, func(old *Version, txn *auth.Txn) error {
		rec = Version{
			Group: group, Version: 1, Hash: config.HashGroup([]byte(ch.Body)), Body: ch.Body,
			Author: by.Actor, At: s.meta.LogTime(), Note: ch.Note, From: ch.from,
		}
		kept := s.History(group)
		if old != nil {
			rec.Version = old.Version + 1
		}
		if old == nil && len(s.Groups()) >= MaxGroups {
			return fmt.Errorf("%d groups have configurations: %w", MaxGroups, ErrLimit)
		}
		txn.Ops = append(txn.Ops, auth.Op{Bucket: Bucket, Key: group, Value: encode(&rec)},
			auth.Op{Bucket: BucketHistory, Key: historyKey(group, rec.Version), Value: encode(&rec)})
		for i := MaxHistory - 1; i < len(kept); i++ {
			txn.Ops = append(txn.Ops, auth.Op{Delete: true, Bucket: BucketHistory, Key: historyKey(group, kept[i].Version)})
		}
		action := "agents.config.set"
		if ch.from != 0 {
			action = "agents.config.rollback"
		}
		txn.Audit = append(txn.Audit, audit(by, action, group, map[string]any{
			"version": rec.Version, "replaces": ch.Base, "hash": rec.Hash, "from": ch.from, "note": ch.Note,
		}))
		return nil
	})
	return rec, err
}

// Rollback makes the text of an earlier version the newest one.
func (s *Service) Rollback(ctx context.Context, group string, to uint64, ch Change, by By) (Version, error) {
	old, err := s.Version(group, to)
	if err != nil {
		return Version{}, err
	}
	ch.Body, ch.from = old.Body, to
	if ch.Note == "" {
		ch.Note = fmt.Sprintf("back to version %d", to)
	}
	return s.Put(ctx, group, ch, by)
}

// Remove takes the group's own configuration away with its history: its agents have that of the default group then.
func (s *Service) Remove(ctx context.Context, group string, base uint64, by By) error {
	if _, _, ok := s.Own(group); !ok {
		return fmt.Errorf("group %.70q has no configuration: %w", group, ErrNotFound)
	}
	return s.change(ctx, group, base, func(old *Version, txn *auth.Txn) error {
		txn.Ops = append(txn.Ops, auth.Op{Delete: true, Bucket: Bucket, Key: group})
		for _, v := range s.History(group) {
			txn.Ops = append(txn.Ops, auth.Op{Delete: true, Bucket: BucketHistory, Key: historyKey(group, v.Version)})
		}
		txn.Audit = append(txn.Audit, audit(by, "agents.config.remove", group, map[string]any{"replaces": base, "hash": old.Hash}))
		return nil
	})
}

// change reads the newest version and replaces it when it is base.
func (s *Service) change(ctx context.Context, group string, base uint64, fn func(old *Version, txn *auth.Txn) error) error {
	old, mod, ok := s.Own(group)
	var have uint64
	if ok {
		have = old.Version
	}
	if have != base {
		return fmt.Errorf("the configuration of group %s is at version %d, not %d: %w", group, have, base, ErrConflict)
	}
	txn := auth.Txn{Compares: []auth.Compare{{Bucket: Bucket, Key: group, ModIndex: mod}}}
	if err := fn(old, &txn); err != nil {
		return err
	}
	_, err := s.meta.Commit(ctx, txn)
	if errors.Is(err, auth.ErrConflict) {
		return fmt.Errorf("the configuration of group %s is not at version %d any more: %w", group, base, ErrConflict)
	}
	if err != nil {
		return fmt.Errorf("change configuration of group %s: %w", group, err)
	}
	return nil
}

func checkChange(group string, ch *Change) error {
	switch {
	case !groupName.MatchString(group):
		return fmt.Errorf("group %.70q: want 1 to 64 of letters, digits, . _ -: %w", group, ErrInvalid)
	case len(ch.Note) > MaxNote || !utf8.ValidString(ch.Note):
		return fmt.Errorf("note of %d bytes: want text of at most %d: %w", len(ch.Note), MaxNote, ErrInvalid)
	case !utf8.ValidString(ch.Body):
		return fmt.Errorf("body: it is not UTF-8: %w", ErrInvalid)
	}
	return nil
}

func audit(by By, action, target string, detail map[string]any) auth.AuditRecord {
	return auth.AuditRecord{Actor: by.Actor, Address: by.Address, Action: action, Target: target, Detail: encode(detail)}
}

// encode marshals a record of this package; these are plain fields and cannot fail. It escapes no more than it must, so
// that the longest text fits in a value of the metadata whatever it holds.
func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(fmt.Sprintf("agentconfig: encode %T: %v", v, err))
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
