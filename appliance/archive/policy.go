package archive

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/backup/schedule"
	"github.com/triward/triward/appliance/record"
)

// Bucket of the metadata that this package owns.
const Bucket = "log_archive"

const (
	keyPolicy  = "policy"
	keyRunning = "running"
	keySweep   = "sweeping"
	prefixDay  = "day/"
	prefixRun  = "run/"
	prefixLost = "lost/"
	prefixLeft = "left/"
)

// Bounds of records.
const (
	maxDays    = 2000
	maxRuns    = 100
	maxLost    = 400
	maxHold    = 90  // days
	maxAfter   = 720 // hours
	casRetries = 32
)

// Policy says where lines are archived, and when. There is one of a cluster.
type Policy struct {
	Enabled bool           `json:"enabled"`
	Target  schedule.Where `json:"target"`
	// Node is the one that archives; the leader when empty. For a folder that not all nodes share it should be named.
	Node string `json:"node,omitempty"`
	// After is how many hours after its end a day is archived, so that what comes late is in it; 24 when it was never set.
	After int `json:"after_h"`
	// Hold keeps retention by age from removing a day that is not archived, for HoldDays days. A disk that fills up is not held.
	Hold     bool `json:"hold,omitempty"`
	HoldDays int  `json:"hold_days,omitempty"`

	Paused  string `json:"paused,omitempty"` // why it was taken out of use by the program; cleared when it is saved
	By      string `json:"by,omitempty"`
	Changed int64  `json:"changed,omitempty"` // log time, milliseconds
}

func (p *Policy) check() error {
	if err := p.Target.Check(); err != nil {
		return err
	}
	switch {
	case !p.Target.Secure():
		return fmt.Errorf("%w: lines are archived as they are, so they do not go over http; use https", ErrInvalid)
	case p.After < 1 || p.After > maxAfter:
		return fmt.Errorf("%w: after_h %d: want 1 to %d hours after the end of a day", ErrInvalid, p.After, maxAfter)
	case p.Hold && (p.HoldDays < 1 || p.HoldDays > maxHold):
		return fmt.Errorf("%w: hold_days %d: want 1 to %d", ErrInvalid, p.HoldDays, maxHold)
	case !p.Hold && p.HoldDays != 0:
		return fmt.Errorf("%w: hold_days %d without hold", ErrInvalid, p.HoldDays)
	case len(p.Node) > 64:
		return fmt.Errorf("%w: node %.80q", ErrInvalid, p.Node)
	}
	return nil
}

func (p *Policy) active() bool { return p.Enabled && p.Paused == "" }

// DayRecord is what became of a day. Times are log time in milliseconds.
type DayRecord struct {
	Date    string `json:"date"`
	Tag     string `json:"tag"`
	Through uint64 `json:"through"` // 0: nothing of it is archived
	// Totals are those of the archive, Seen those of the cluster when it was written: when they change, lines came late.
	Totals Totals `json:"totals"`
	Seen   Totals `json:"seen"`
	Stored int64  `json:"stored"` // bytes of its parts
	Agents int    `json:"agents"`
	Node   string `json:"node,omitempty"`   // that wrote it
	Target string `json:"target,omitempty"` // without secrets
	At     int64  `json:"at,omitempty"`

	// Plan is the attempt under way, or the one that failed and is repeated with the same entries.
	Plan     *Plan  `json:"plan,omitempty"`
	Attempts int    `json:"attempts,omitempty"`
	Told     int    `json:"told,omitempty"` // the attempt of those whose failure was last told
	Error    string `json:"error,omitempty"`
	Retry    int64  `json:"retry,omitempty"`
}

// Plan is what an attempt is of: up to an entry, as of which the cluster had these totals.
type Plan struct {
	Through uint64 `json:"through"`
	Want    Totals `json:"want"`
}

// Run is one attempt at a day, ended.
type Run struct {
	ID      string `json:"id"`
	Date    string `json:"date"`
	Node    string `json:"node"`
	By      string `json:"by,omitempty"`
	Started int64  `json:"started"`
	Ended   int64  `json:"ended"`
	OK      bool   `json:"ok"`
	Error   string `json:"error,omitempty"`
	Attempt int    `json:"attempt"`
	Tell    bool   `json:"tell,omitempty"` // an event says that it failed
	Lines   int64  `json:"lines"`
	Stored  int64  `json:"stored"`
	Target  string `json:"target"`
}

// Claim is the attempt under way.
type Claim struct {
	ID      string `json:"id"`
	Date    string `json:"date"`
	Node    string `json:"node"`
	By      string `json:"by,omitempty"`
	Started int64  `json:"started"`
	Done    int64  `json:"done"`  // lines
	Total   int64  `json:"total"` // lines of the day
}

// Lost is a day that retention took before it was archived.
type Lost struct {
	Date string `json:"date"`
	At   int64  `json:"at"`
	Why  string `json:"why"` // age or size, as retention calls it
}

// RunOf decodes a record of the bucket that is a Run.
func RunOf(key string, data []byte) (r Run, ok bool) {
	return r, strings.HasPrefix(key, prefixRun) && json.Unmarshal(data, &r) == nil && r.Date != ""
}

// LostOf decodes a record of the bucket that is a Lost.
func LostOf(key string, data []byte) (l Lost, ok bool) {
	return l, strings.HasPrefix(key, prefixLost) && json.Unmarshal(data, &l) == nil && l.Date != ""
}

func encode(v any) []byte { return record.Encode(v) }

func get[T any](m auth.Meta, key string) (v T, mod uint64, ok bool) {
	return record.Get[T](m, Bucket, key)
}

func list[T any](m auth.Meta, prefix string) []T {
	return record.List[T](m, Bucket, prefix, math.MaxInt)
}

// trim adds to the transaction what keeps the records with the prefix, which are in the order of their keys, within a bound.
func trim(m auth.Meta, prefix string, most int, txn *auth.Txn) {
	var keys []string
	m.Scan(Bucket, prefix, func(key string, _ auth.Value) bool {
		keys = append(keys, key)
		return true
	})
	for ; len(keys) >= most; keys = keys[1:] {
		txn.Ops = append(txn.Ops, auth.Op{Delete: true, Bucket: Bucket, Key: keys[0]})
	}
}

// Policy returns the policy, with the sealed secret; ok is false when there is none.
func (s *Service) policy() (p Policy, mod uint64, ok bool) { return get[Policy](s.cfg.Meta, keyPolicy) }

// Put sets the policy. A secret key that is left out stays as it was.
func (s *Service) Put(ctx context.Context, p Policy, by schedule.Actor) error {
	if p.After == 0 {
		p.After = 24
	}
	if err := p.check(); err != nil {
		return err
	}
	given := p.Target
	for range casRetries {
		held, mod, ok := s.policy()
		var before *schedule.Where
		if ok {
			before = &held.Target
		}
		p.Target = given
		if err := s.cfg.Places.Seal(&p.Target, before); err != nil {
			return err
		}
		p.Paused, p.By, p.Changed = "", by.Name, s.cfg.Meta.LogTime()
		shown := p
		shown.Target = p.Target.Shown()
		txn := auth.Txn{
			Compares: []auth.Compare{{Bucket: Bucket, Key: keyPolicy, ModIndex: mod}},
			Ops:      []auth.Op{{Bucket: Bucket, Key: keyPolicy, Value: encode(p)}},
			Audit:    []auth.AuditRecord{{Actor: by.Name, Address: by.Address, Action: "logs.archive.set", Target: p.Target.String(), Detail: record.Detail(shown)}},
		}
		s.askAgain(&txn)
		_, err := s.cfg.Meta.Commit(ctx, txn)
		if !errors.Is(err, auth.ErrConflict) {
			return err
		}
	}
	return auth.ErrConflict
}

// askAgain has days that failed tried at once: what was wrong may have been the policy.
func (s *Service) askAgain(txn *auth.Txn) {
	s.cfg.Meta.Scan(Bucket, prefixDay, func(key string, held auth.Value) bool {
		var r DayRecord
		if json.Unmarshal(held.Data, &r) == nil && r.Retry > 0 {
			r.Retry, r.Attempts, r.Told = 0, 0, 0
			txn.Ops = append(txn.Ops, auth.Op{Bucket: Bucket, Key: key, Value: encode(r)})
		}
		return len(txn.Ops) < 64
	})
}

// Delete ends archiving. What is archived stays, and is known of.
func (s *Service) Delete(ctx context.Context, by schedule.Actor) error {
	_, mod, ok := s.policy()
	if !ok {
		return fmt.Errorf("%w: lines are not archived", ErrNotFound)
	}
	_, err := s.cfg.Meta.Commit(ctx, auth.Txn{
		Compares: []auth.Compare{{Bucket: Bucket, Key: keyPolicy, ModIndex: mod}},
		Ops:      []auth.Op{{Delete: true, Bucket: Bucket, Key: keyPolicy}},
		Audit:    []auth.AuditRecord{{Actor: by.Name, Address: by.Address, Action: "logs.archive.remove"}},
	})
	return err
}

// Check finds out whether days can be stored in a place. A secret key that is left out is the one of the policy.
func (s *Service) Check(ctx context.Context, w schedule.Where) error {
	if err := w.Check(); err != nil {
		return err
	}
	held, _, ok := s.policy()
	var before *schedule.Where
	if ok {
		before = &held.Target
	}
	if err := s.cfg.Places.Seal(&w, before); err != nil {
		return err
	}
	to, err := s.cfg.Places.Open(&w)
	if err != nil {
		return err
	}
	return to.Check(ctx)
}

// Reseal seals the secret key anew when current says that it is not sealed with the present key, and returns how many that
// were.
func (s *Service) Reseal(ctx context.Context, current func(sealed string) bool, by schedule.Actor) (int, error) {
	for range casRetries {
		p, mod, ok := s.policy()
		if !ok || p.Target.SecretKey == "" || current(p.Target.SecretKey) {
			return 0, nil
		}
		if err := s.cfg.Places.Reseal(&p.Target); err != nil {
			return 0, err
		}
		_, err := s.cfg.Meta.Commit(ctx, auth.Txn{
			Compares: []auth.Compare{{Bucket: Bucket, Key: keyPolicy, ModIndex: mod}},
			Ops:      []auth.Op{{Bucket: Bucket, Key: keyPolicy, Value: encode(p)}},
			Audit:    []auth.AuditRecord{{Actor: by.Name, Address: by.Address, Action: "logs.archive.reseal"}},
		})
		if !errors.Is(err, auth.ErrConflict) {
			return 1, err
		}
	}
	return 0, auth.ErrConflict
}

// Pause edits the metadata of a backup that is being restored: the archive would go on in the place of the cluster that was
// backed up. edit is called with every value that changes; nil removes the key.
func Pause(keys []string, value func(key string) []byte, edit func(key string, value []byte)) {
	for _, key := range keys {
		switch key {
		case keyRunning, keySweep:
			edit(key, nil)
		case keyPolicy:
			var p Policy
			if json.Unmarshal(value(key), &p) != nil {
				edit(key, nil)
				continue
			}
			p.Paused = "the cluster was restored from a backup; look at the target, then save the policy"
			edit(key, encode(p))
		}
	}
}

// Overview is everything that is known of the archive. Secrets are left out.
type Overview struct {
	Policy    *Policy `json:"policy,omitempty"`
	SecretSet bool    `json:"secret_set"`
	Running   *Claim  `json:"running,omitempty"`
	// Days are those that are archived, or waited for, or failed, the newest first.
	Days []DayRecord `json:"days"`
	// Waiting are days that are over and not archived, or got lines since.
	Waiting []string `json:"waiting"`
	Runs    []Run    `json:"runs"` // the newest first
	Lost    []Lost   `json:"lost"` // the newest first
	LogTime int64    `json:"log_time"`
	Tag     string   `json:"tag"` // of this cluster's files
}

// Overview returns what is known, at most so many days and runs.
func (s *Service) Overview(most int) Overview {
	m := s.cfg.Meta
	out := Overview{LogTime: m.LogTime(), Tag: s.tag, Waiting: []string{}}
	if p, _, ok := s.policy(); ok {
		out.SecretSet = p.Target.SecretKey != ""
		p.Target = p.Target.Shown()
		out.Policy = &p
	}
	if c, _, ok := s.claims.Held(); ok {
		out.Running = &c
	}
	newest := func(a, b string) int { return cmp.Compare(b, a) }
	out.Days, out.Runs, out.Lost = list[DayRecord](m, prefixDay), list[Run](m, prefixRun), list[Lost](m, prefixLost)
	slices.SortFunc(out.Days, func(a, b DayRecord) int { return newest(a.Date, b.Date) })
	slices.SortFunc(out.Runs, func(a, b Run) int { return cmp.Compare(b.Started, a.Started) })
	slices.SortFunc(out.Lost, func(a, b Lost) int { return newest(a.Date, b.Date) })
	out.Days, out.Runs, out.Lost = clipped(out.Days, most), clipped(out.Runs, most), clipped(out.Lost, most)
	for _, d := range s.unarchived(s.over(out.LogTime, 0)) {
		out.Waiting = append(out.Waiting, DateOf(d))
	}
	return out
}

func clipped[T any](s []T, most int) []T {
	if s == nil {
		return []T{}
	}
	return s[:min(len(s), most)]
}
