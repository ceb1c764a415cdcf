package archive

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/backup/target"
	"github.com/triward/triward/appliance/claim"
)

// An attempt that was given up leaves parts and manifests of agents under names that no other attempt uses, since another range of
// entries is in theirs. They go once the day is archived. A node that went on late with such an attempt must not call whole what
// is being removed, however late it is, and no claim and no clock can keep it from trying. So each side puts up a mark before it
// looks for the other's, and goes on only when there is none: who writes puts up Name.closing before the manifest of the day, who
// sweeps Name.swept before it removes anything. At least one of them sees the other. The mark of a sweep stays for good, that of a
// writer until the manifest stands; where both stand nothing is finished and nothing removed.

func (n Name) closing() string { return n.Date + "-" + n.mark() + ".closing" }

func (n Name) swept() string { return n.Date + "-" + n.mark() + ".swept" }

// close stores the manifest of a day, unless what it names is being removed.
func (d *writing) close(ctx context.Context, body []byte) error {
	days := d.To.Below(folderDays)
	if err := putMark(ctx, days, d.name.closing()); err != nil {
		return err
	}
	swept, err := stands(ctx, days, d.name.swept())
	if err != nil {
		return err
	}
	if swept {
		return fmt.Errorf("%s in %s: %w", d.name.file(), days, ErrTaken)
	}
	if err := d.same(ctx, days, d.name.file(), body); err != nil {
		return err // the mark stays: another node may have gone past it
	}
	if err := days.Remove(ctx, d.name.closing()); err != nil && !errors.Is(err, target.ErrAbsent) {
		return err
	}
	return nil
}

// putMark makes sure that a mark stands.
func putMark(ctx context.Context, at target.Target, name string) error {
	err := put(ctx, at, name, []byte("a mark of Triward's archive of logs\n"))
	if errors.Is(err, target.ErrExists) {
		return nil
	}
	return err
}

// stands reports whether there is an object of that name.
func stands(ctx context.Context, at target.Target, name string) (bool, error) {
	found := false
	err := at.List(ctx, name, func(i target.Item) error {
		found = found || i.Name == name
		return nil
	})
	return found, err
}

const (
	sweepTime  = 10 * time.Minute // for one sweep of a day, however slow the store is
	sweepAgain = time.Hour        // before one that failed is repeated
)

// sweeper removes what attempts at a day left.
type sweeper struct {
	to        target.Target
	date, tag string
	named     map[Name]bool // days that have a manifest
	through   uint64        // end of the day's archive; attempts at later entries may be under way
	mine      map[Name]bool // whether what is so named may go, as far as was asked

	files int
	bytes int64
}

// sweep removes what nothing names of attempts at a day which end before its archive does, and returns how much that was. It may be
// broken off anywhere and run beside writers and other sweeps.
func sweep(ctx context.Context, to target.Target, date, tag string) (files int, bytes int64, err error) {
	names, err := Names(ctx, to, date)
	if err != nil {
		return 0, 0, err
	}
	s := &sweeper{to: to, date: date, tag: tag, named: map[Name]bool{}, mine: map[Name]bool{}}
	for _, n := range names {
		s.named[n] = true
	}
	for _, n := range Chain(names, date, tag) {
		s.through = n.Through
	}
	if s.through == 0 {
		return 0, 0, nil
	}
	logs := to.Below(folderLogs)
	err = logs.Places(ctx, func(agent string) error {
		of := logs.Below(agent).Below(date)
		if err := s.remove(ctx, of, "day-"+tag+"-"); err != nil {
			return err
		}
		return of.Places(ctx, func(kind string) error {
			at := of.Below(kind)
			return at.Places(ctx, func(file string) error { return s.remove(ctx, at.Below(file), tag+"-") })
		})
	})
	return s.files, s.bytes, err
}

// remove removes what may go of the objects whose names begin with the prefix.
func (s *sweeper) remove(ctx context.Context, at target.Target, prefix string) error {
	var items []target.Item // first, so that nothing is removed from a listing under way
	err := at.List(ctx, prefix, func(i target.Item) error {
		if n, ok := s.nameOf(i.Name); ok && n.Tag == s.tag && n.Through <= s.through && !s.named[n] {
			items = append(items, i)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, i := range items {
		n, _ := s.nameOf(i.Name)
		may, asked := s.mine[n]
		if !asked {
			if may, err = s.giveUp(ctx, n); err != nil {
				return err
			}
			s.mine[n] = may
		}
		if !may {
			continue
		}
		if err := at.Remove(ctx, i.Name); err != nil && !errors.Is(err, target.ErrAbsent) {
			return err
		}
		s.files, s.bytes = s.files+1, s.bytes+i.Size
	}
	return nil
}

// nameOf returns the day that would name an object: a part, or a manifest of an agent.
func (s *sweeper) nameOf(object string) (Name, bool) {
	if rest, ok := strings.CutPrefix(object, "day-"); ok {
		return parseName(s.date + "-" + rest)
	}
	rest, ok := strings.CutSuffix(object, partSuffix)
	pieces := strings.Split(rest, "-") // tag, from, through, id of the path, number
	if !ok || len(pieces) != 5 {
		return Name{}, false
	}
	return parseName(s.date + "-" + strings.Join(pieces[:3], "-") + ".json")
}

// giveUp keeps everybody from calling an attempt whole from now on, and reports whether nobody has or is about to.
func (s *sweeper) giveUp(ctx context.Context, n Name) (bool, error) {
	days := s.to.Below(folderDays)
	if err := putMark(ctx, days, n.swept()); err != nil {
		return false, err
	}
	// In this order: the mark of a writer goes when its manifest stands.
	for _, name := range []string{n.closing(), n.file()} {
		if there, err := stands(ctx, days, name); err != nil || there {
			return false, err
		}
	}
	return true, nil
}

// left says that attempts at a day were given up, whose files go when it is archived.
type left struct {
	Date string `json:"date"`
	Tag  string `json:"tag"`
	// Again is when it is tried again to remove them, log time in milliseconds; 0 for as soon as the day is archived.
	Again int64 `json:"again,omitempty"`
}

// leave adds to a transaction that an attempt at a day was given up.
func (s *Service) leave(txn *auth.Txn, date string) {
	if _, _, ok := get[left](s.cfg.Meta, prefixLeft+date); !ok {
		trim(s.cfg.Meta, prefixLeft, maxDays, txn)
	}
	txn.Ops = append(txn.Ops, auth.Op{Bucket: Bucket, Key: prefixLeft + date, Value: encode(left{Date: date, Tag: s.tag})})
}

// tidy removes what was left of a day that is archived in the place of the policy, if there is one.
func (s *Service) tidy(ctx context.Context, p *Policy) error {
	for _, l := range list[left](s.cfg.Meta, prefixLeft) {
		r, _, ok := get[DayRecord](s.cfg.Meta, prefixDay+l.Date)
		if ok && l.Tag == s.tag && l.Again <= s.cfg.Meta.LogTime() && r.Tag == s.tag && r.Target == p.Target.String() {
			return s.tidyDay(ctx, p, l.Date)
		}
	}
	return nil
}

// tidyDay removes what was left of a day. The claim keeps two nodes from doing the same; nothing rests on it.
func (s *Service) tidyDay(ctx context.Context, p *Policy, date string) error {
	h, err := s.sweeps.Take(ctx, Claim{ID: newID(), Date: date, Node: s.cfg.Node, Started: s.cfg.Meta.LogTime()}, auth.Txn{})
	if errors.Is(err, auth.ErrConflict) {
		return nil
	}
	if err != nil {
		return err
	}
	_, asOf, _ := get[left](s.cfg.Meta, prefixLeft+date)
	var files int
	var bytes int64
	err = h.While(ctx, s.ctx, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, sweepTime)
		defer cancel()
		to, err := s.cfg.Places.Open(&p.Target)
		if err == nil {
			files, bytes, err = sweep(ctx, to, date, s.tag)
		}
		return err
	})
	s.cfg.Log.Info("removed from the archive what attempts left that were given up", "day", date, "files", files, "bytes", bytes, "err", err)
	claim.Record(s.ctx, func(ctx context.Context) error { return s.tidied(ctx, h.Claim().ID, date, asOf, err) }, func(err error) {
		s.cfg.Log.Warn("what became of files left in the archive is not recorded yet", "day", date, "err", err)
	})
	return nil
}

// tidied writes down what became of tidying a day, provided that no attempt at it was given up since asOf, and ends the claim.
func (s *Service) tidied(ctx context.Context, id, date string, asOf uint64, failed error) error {
	txn := auth.Txn{}
	key := prefixLeft + date
	if l, mod, ok := get[left](s.cfg.Meta, key); ok && mod == asOf {
		op := auth.Op{Bucket: Bucket, Key: key, Delete: failed == nil}
		if failed != nil {
			l.Again = s.cfg.Meta.LogTime() + sweepAgain.Milliseconds()
			op.Value = encode(l)
		}
		txn.Compares = append(txn.Compares, auth.Compare{Bucket: Bucket, Key: key, ModIndex: mod})
		txn.Ops = append(txn.Ops, op)
	}
	s.sweeps.Release(&txn, id)
	if len(txn.Ops) == 0 {
		return nil
	}
	_, err := s.cfg.Meta.Commit(ctx, txn)
	return err
}
