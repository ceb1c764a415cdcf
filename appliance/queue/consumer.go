package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/triward/triward/appliance/auth"
)

// Bounds of consumers.
const (
	maxConsumers = 256
	maxOwner     = 128
	// DefaultLease is how long a consumer is not opened by another owner without being forced to, in log time, after it
	// was opened or committed.
	DefaultLease = time.Minute
	minLease     = 5 * time.Second
	maxLease     = time.Hour
)

// casRetries is how often a change is tried again when another one was faster.
const casRetries = 16

var nameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$`)

// Consumer is a named reader and how far it has got. Times are log times in milliseconds since 1970.
type Consumer struct {
	Name   string  `json:"name"`
	Topics []Topic `json:"topics"`
	Agent  string  `json:"agent,omitempty"` // only what is of this agent, by id, host or the name it has itself
	// Position is the next message it has not committed.
	Position    Position `json:"position"`
	Time        int64    `json:"time_ms,omitempty"` // of the entry before Position
	Created     int64    `json:"created_ms"`
	CreatedBy   string   `json:"created_by"`
	Committed   int64    `json:"committed_ms,omitempty"` // when Position was committed last
	CommittedBy string   `json:"committed_by,omitempty"` // the owner who did
	// Token counts who opened it and replays: a commit with another one is refused.
	Token uint64 `json:"token"`
	Owner string `json:"owner,omitempty"`
	Until int64  `json:"lease_until_ms,omitempty"`
	Lease int64  `json:"lease_ms,omitempty"`
	// Elsewhere says that the consumer keeps its place itself: it is shown and cannot be read or changed here.
	Elsewhere bool `json:"elsewhere,omitempty"`
}

// held reports whether the consumer has an owner whose lease stands.
func (c *Consumer) held(now int64) bool { return c.Owner != "" && c.Until > now }

// List returns the consumers, by name, those that keep their place themselves included.
func (s *Service) List() []Consumer {
	out := s.records()
	if s.cfg.Others != nil {
		for _, c := range s.cfg.Others() {
			if !slices.ContainsFunc(out, func(o Consumer) bool { return o.Name == c.Name }) {
				c.Elsewhere = true
				out = append(out, c)
			}
		}
	}
	slices.SortFunc(out, func(a, b Consumer) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func (s *Service) records() (out []Consumer) {
	s.cfg.Meta.Scan(Bucket, "", func(_ string, v auth.Value) bool {
		var c Consumer
		if json.Unmarshal(v.Data, &c) == nil && c.Name != "" {
			out = append(out, c)
		}
		return true
	})
	return out
}

// Get returns a consumer. The error is ErrNoConsumer.
func (s *Service) Get(name string) (Consumer, error) {
	c, _, err := s.get(name)
	if err == nil || s.cfg.Others == nil {
		return c, err
	}
	for _, o := range s.cfg.Others() {
		if o.Name == name {
			o.Elsewhere = true
			return o, nil
		}
	}
	return c, err
}

func (s *Service) get(name string) (c Consumer, mod uint64, err error) {
	v, ok := s.cfg.Meta.Get(Bucket, name)
	if !ok {
		if s.elsewhere(name) {
			return c, 0, fmt.Errorf("%s: %w", name, ErrElsewhere)
		}
		return c, 0, fmt.Errorf("%.80q: %w", name, ErrNoConsumer)
	}
	if err := json.Unmarshal(v.Data, &c); err != nil {
		return c, 0, fmt.Errorf("record of consumer %s: %w", name, err)
	}
	return c, v.ModIndex, nil
}

func (s *Service) elsewhere(name string) bool {
	return s.cfg.Others != nil && slices.ContainsFunc(s.cfg.Others(), func(c Consumer) bool { return c.Name == name })
}

// Wish is what a consumer is to be.
type Wish struct {
	Name   string
	Topics []string // names or aliases; all when empty
	Agent  string
	From   string // where it begins, as Replay has it; "end" when empty
}

// Create makes a consumer. notes are what the caller should be told about names of topics. by is the audit record's
// actor and address.
func (s *Service) Create(ctx context.Context, w Wish, by auth.AuditRecord) (c Consumer, notes []string, err error) {
	if !nameForm.MatchString(w.Name) {
		return c, nil, fmt.Errorf("%w: name %.80q: 1 to 64 small letters, digits, dots, underscores and dashes are allowed", ErrInvalid, w.Name)
	}
	if len(w.Agent) > 253 || len(w.Topics) > 2*len(aliases) {
		return c, nil, fmt.Errorf("%w: agent or list of topics is too long", ErrInvalid)
	}
	if s.elsewhere(w.Name) {
		return c, nil, fmt.Errorf("%s: %w", w.Name, ErrExists)
	}
	c = Consumer{Name: w.Name, Agent: w.Agent, CreatedBy: by.Actor}
	for _, name := range w.Topics {
		t, note, err := ParseTopic(name)
		if err != nil {
			return c, nil, err
		}
		if note != "" {
			notes = append(notes, note)
		}
		if !slices.Contains(c.Topics, t) {
			c.Topics = append(c.Topics, t)
		}
	}
	if len(c.Topics) == 0 {
		c.Topics = Topics()
	}
	slices.SortFunc(c.Topics, func(a, b Topic) int { return a.place() - b.place() })
	if w.From == "" {
		w.From = "end"
	}
	if c.Position, c.Time, err = s.resolve(ctx, w.From); err != nil {
		return c, nil, err
	}
	if n := len(s.records()); n >= maxConsumers {
		return c, nil, fmt.Errorf("%w consumers: there are %d, at most %d are kept; delete some that nobody reads", ErrTooMany, n, maxConsumers)
	}
	// Greater than any that a consumer of this name had before: each of those took an entry.
	c.Created, c.Token = s.cfg.Meta.LogTime(), s.cfg.Log.AppliedIndex()+1
	by.Action, by.Target = "queue.consumer.create", c.Name
	by.Detail = encode(map[string]any{"topics": c.Topics, "agent": c.Agent, "position": c.Position})
	err = s.commit(ctx, &c, 0, by)
	if errors.Is(err, auth.ErrConflict) {
		err = fmt.Errorf("%s: %w", c.Name, ErrExists)
	}
	return c, notes, err
}

// commit writes a consumer that was last written at mod.
func (s *Service) commit(ctx context.Context, c *Consumer, mod uint64, by ...auth.AuditRecord) error {
	_, err := s.cfg.Meta.Commit(ctx, auth.Txn{
		Compares: []auth.Compare{{Bucket: Bucket, Key: c.Name, ModIndex: mod}},
		Ops:      []auth.Op{{Bucket: Bucket, Key: c.Name, Value: encode(c)}},
		Audit:    by,
	})
	return err
}

// change reads, changes and writes a consumer until nobody was faster. A change that returns false is none.
func (s *Service) change(ctx context.Context, name string, audit func(c *Consumer) []auth.AuditRecord, change func(c *Consumer) (bool, error)) (Consumer, error) {
	for range casRetries {
		c, mod, err := s.get(name)
		if err != nil {
			return c, err
		}
		changed, err := change(&c)
		if err != nil || !changed {
			return c, err
		}
		err = s.commit(ctx, &c, mod, audit(&c)...)
		if !errors.Is(err, auth.ErrConflict) {
			return c, err
		}
	}
	return Consumer{}, fmt.Errorf("consumer %s: %w", name, auth.ErrConflict)
}

func unaudited(*Consumer) []auth.AuditRecord { return nil }

// Delete removes a consumer.
func (s *Service) Delete(ctx context.Context, name string, by auth.AuditRecord) error {
	for range casRetries {
		c, mod, err := s.get(name)
		if err != nil {
			return err
		}
		by.Action, by.Target, by.Detail = "queue.consumer.delete", name, encode(map[string]any{"position": c.Position, "topics": c.Topics})
		_, err = s.cfg.Meta.Commit(ctx, auth.Txn{
			Compares: []auth.Compare{{Bucket: Bucket, Key: name, ModIndex: mod}},
			Ops:      []auth.Op{{Delete: true, Bucket: Bucket, Key: name}}, Audit: []auth.AuditRecord{by},
		})
		if !errors.Is(err, auth.ErrConflict) {
			return err
		}
	}
	return fmt.Errorf("consumer %s: %w", name, auth.ErrConflict)
}

// Open makes owner the reader of a consumer and returns it with the token that commits need; who had it before is
// refused from then on. While another owner's lease stands, force must be set, or the error is ErrHeld.
func (s *Service) Open(ctx context.Context, name, owner string, lease time.Duration, force bool, by auth.AuditRecord) (Consumer, error) {
	if lease == 0 {
		lease = DefaultLease
	}
	if owner == "" || len(owner) > maxOwner {
		return Consumer{}, fmt.Errorf("%w: owner: 1 to %d bytes that tell this reader from others are needed", ErrInvalid, maxOwner)
	}
	if lease < minLease || lease > maxLease {
		return Consumer{}, fmt.Errorf("%w: lease %s: want %s to %s", ErrInvalid, lease, minLease, maxLease)
	}
	var taken string
	audit := func(c *Consumer) []auth.AuditRecord {
		if taken == "" {
			return nil
		}
		by.Action, by.Target, by.Detail = "queue.consumer.take", c.Name, encode(map[string]any{"owner": owner, "from": taken})
		return []auth.AuditRecord{by}
	}
	return s.change(ctx, name, audit, func(c *Consumer) (bool, error) {
		now := s.cfg.Meta.LogTime()
		if taken = ""; c.held(now) && c.Owner != owner {
			if !force {
				return false, fmt.Errorf("%s is read by %s until %s: %w", c.Name, c.Owner, time.UnixMilli(c.Until).UTC().Format(time.RFC3339), ErrHeld)
			}
			taken = c.Owner
		}
		c.Owner, c.Lease, c.Until = owner, lease.Milliseconds(), now+lease.Milliseconds()
		c.Token++
		return true, nil
	})
}

// Commit says that all before p was dealt with by whoever holds the token, and renews the lease. A position that is not
// ahead of what was committed changes nothing, so it may be repeated. Errors: ErrFenced, ErrInvalid.
// With release nobody reads the consumer from then on.
func (s *Service) Commit(ctx context.Context, name string, token uint64, p Position, release bool) (Consumer, error) {
	if head := s.cfg.Log.AppliedIndex(); p.Index > head+1 {
		// Another node may have been read from, and be ahead.
		if err := s.waitFor(ctx, p.Index-1); err != nil {
			return Consumer{}, fmt.Errorf("%w: position %s lies behind the end of the log, entry %d", ErrInvalid, p, head)
		}
	}
	at := s.timeBefore(ctx, p)
	return s.change(ctx, name, unaudited, func(c *Consumer) (bool, error) {
		now := s.cfg.Meta.LogTime()
		if err := c.check(token); err != nil {
			return false, err
		}
		moves := c.Position.Less(p)
		if !moves && !release && c.Until-now > c.Lease/2 {
			return false, nil
		}
		if moves {
			c.Position, c.Committed, c.CommittedBy = p, now, c.Owner
			if at > 0 {
				c.Time = at
			}
		}
		if c.Until = now + max(c.Lease, minLease.Milliseconds()); release {
			c.Owner, c.Until = "", 0
		}
		return true, nil
	})
}

// check refuses a token that is not the consumer's. Tokens only grow: one that is greater was given out by an entry that this
// node has not applied.
func (c *Consumer) check(token uint64) error {
	switch {
	case token > c.Token:
		return fmt.Errorf("token %d of consumer %s is not known here yet: %w", token, c.Name, ErrBehind)
	case token < c.Token:
		return fmt.Errorf("token %d is not that of consumer %s, which %s has: %w", token, c.Name, c.owner(), ErrFenced)
	}
	return nil
}

func (c *Consumer) owner() string {
	if c.Owner == "" {
		return "nobody"
	}
	return c.Owner
}

// waitFor waits a little for this node to apply what another one has.
func (s *Service) waitFor(ctx context.Context, index uint64) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return s.cfg.Log.WaitApplied(ctx, index)
}

// timeBefore is the stamp of the entry that p lies in, or of the one before; 0 when it is not known.
func (s *Service) timeBefore(ctx context.Context, p Position) int64 {
	index := p.Index
	if p.Item == 0 {
		index--
	}
	for range 8 { // entries of raft's own have none
		if index == 0 {
			return 0
		}
		entries, _, err := s.cfg.Log.ReadQueue(ctx, index, 1, 1)
		if err != nil || len(entries) == 0 {
			return 0
		}
		if entries[0].Stamp > 0 {
			return entries[0].Stamp
		}
		index--
	}
	return 0
}

// Replay puts a consumer's cursor anywhere: from is "beginning", "end", a position, or a time. Whoever reads it must open
// it again. Nothing is applied to stores again by it.
func (s *Service) Replay(ctx context.Context, name, from string, by auth.AuditRecord) (Consumer, error) {
	p, at, err := s.resolve(ctx, from)
	if err != nil {
		return Consumer{}, err
	}
	var before Position
	audit := func(c *Consumer) []auth.AuditRecord {
		by.Action, by.Target = "queue.consumer.replay", c.Name
		by.Detail = encode(map[string]any{"from": from, "before": before, "after": p})
		return []auth.AuditRecord{by}
	}
	return s.change(ctx, name, audit, func(c *Consumer) (bool, error) {
		before = c.Position
		c.Position, c.Time = p, at
		c.Token++
		c.Owner, c.Until = "", 0
		return true, nil
	})
}

// resolve reads a place of the log: "beginning", "end", a position, or a time as RFC 3339 or as milliseconds with the
// letters ms behind.
func (s *Service) resolve(ctx context.Context, from string) (p Position, at int64, err error) {
	switch {
	case from == "beginning":
		first, _, err := s.cfg.Log.OldestEntry(ctx)
		if err != nil {
			return p, 0, fmt.Errorf("find the beginning of the log: %w", err)
		}
		p = Position{Index: first}
	case from == "end":
		p = Position{Index: s.cfg.Log.AppliedIndex() + 1}
	default:
		if ms, ok := parseTime(from); ok {
			index, err := s.cfg.Log.EntryAt(ctx, ms)
			if err != nil {
				return p, 0, fmt.Errorf("find %s in the log: %w", from, err)
			}
			p = Position{Index: index}
			break
		}
		if p, err = ParsePosition(from); err != nil {
			return p, 0, fmt.Errorf("%w: from %.60q: want beginning, end, a position, or a time as 2026-01-02T15:04:05Z", ErrInvalid, from)
		}
		if head := s.cfg.Log.AppliedIndex(); p.Index > head+1 {
			return p, 0, fmt.Errorf("%w: position %s lies behind the end of the log, entry %d", ErrInvalid, p, head)
		}
	}
	if at = s.timeBefore(ctx, p); at == 0 { // the very beginning
		at = s.timeBefore(ctx, Position{Index: p.Index + 8})
	}
	return p, at, nil
}

func parseTime(text string) (ms int64, ok bool) {
	if digits, found := strings.CutSuffix(text, "ms"); found {
		var n int64
		if _, err := fmt.Sscanf(digits, "%d", &n); err == nil && n > 0 && fmt.Sprint(n) == digits {
			return n, true
		}
		return 0, false
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	return t.UnixMilli(), err == nil && t.Year() >= 1970 && t.Year() < 2262
}

// encode marshals a record of this package; these are plain and cannot fail.
func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("queue: encode %T: %v", v, err))
	}
	return b
}
