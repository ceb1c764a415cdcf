package logstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/block"
)

// KindDay is a kind of streams and a UTC day.
type KindDay struct {
	Kind wire.StreamKind
	Day  int64
}

// String returns "logs of 2024-10-04".
func (k KindDay) String() string {
	return kindName(k.Kind) + "s of " + time.Unix(k.Day*(DayNs/1e9), 0).UTC().Format(time.DateOnly)
}

// ErrBehind says that the store does not hold the log as far as it was asked for.
var ErrBehind = errors.New("log store is behind")

// Counts returns how many lines of the entries up to through the store holds, by kind and day. It reads the headers of
// blocks, and lines only where a block holds later entries too. It fails with ErrBehind when there are later entries in
// through than the store has, and with a DamageError.
func (s *Store) Counts(ctx context.Context, through uint64) (map[KindDay]int64, error) {
	c, done, err := s.scan(ctx, nil, minTime, 0)
	if err != nil {
		return nil, err
	}
	defer done()
	return c.counts(through)
}

// Verify compares the lines of the entries up to through with what the state says was accepted, by kind and day, and
// reports every difference as damage: rows that are not there are missed by nobody who reads what is there. floor tells
// where the state's retention floor of a kind is, in nanoseconds; it is asked after the lines are counted, and days
// below it are left out. cut is the newest entry by which selectors cut lines that want accounts for, 0 for none: it fails with
// ErrCutMeanwhile when the store knows of others. Searches over days that are known to differ say that they are partial.
func (s *Store) Verify(ctx context.Context, through uint64, want map[KindDay]int64, cut uint64, floor func(wire.StreamKind) int64) error {
	c, done, err := s.scan(ctx, nil, minTime, 0)
	if err != nil {
		return err
	}
	defer done()
	have, err := c.counts(through)
	if err != nil && !errors.Is(err, ErrDamaged) {
		return err
	}
	if c.cuts.index != cut || s.cuts.Load().index != cut {
		return ErrCutMeanwhile
	}
	errs := []error{err}
	low := s.floorsNow()
	for _, k := range slices.SortedFunc(maps.Keys(want), KindDay.compare) {
		if have[k] == want[k] || k.Day < Day(max(low.of(k.Kind), floor(k.Kind))) {
			continue
		}
		c.e.noteShort(k)
		errs = append(errs, c.e.damaged(k.String(), fmt.Errorf("%d lines are there, %d were accepted", have[k], want[k])))
	}
	return errors.Join(errs...)
}

func (k KindDay) compare(o KindDay) int {
	if k.Day != o.Day {
		return int(k.Day - o.Day)
	}
	return int(k.Kind) - int(o.Kind)
}

func (e *engine) noteShort(k KindDay) {
	e.failMu.Lock()
	defer e.failMu.Unlock()
	e.short[k] = true
}

// shortDay notes that lines are missing when the scan covers a day which Verify found to differ.
func (c *scan) shortDay() {
	c.e.failMu.Lock()
	days := slices.SortedFunc(maps.Keys(c.e.short), KindDay.compare)
	c.e.failMu.Unlock()
	for _, k := range days {
		if k.Day >= Day(max(c.start, c.floors.of(k.Kind))) && k.Day <= Day(c.last) {
			c.leaveOut(k.String())
		}
	}
}

// counts goes on beside what is damaged, which it returns together with the counts of the rest.
func (c *scan) counts(through uint64) (map[KindDay]int64, error) {
	out := map[KindDay]int64{}
	var damage []error
	v, closer, err := c.snap.Get(keyApplied)
	applied := uint64(0)
	if err == nil {
		applied, err = parseApplied(v)
		err = errors.Join(err, closer.Close())
	}
	if err != nil && !errors.Is(err, pebble.ErrNotFound) {
		return nil, c.e.wrap("key aT", err)
	}
	if applied < through {
		return nil, fmt.Errorf("%w: it holds the log up to entry %d, %d is asked for", ErrBehind, applied, through)
	}
	err = c.e.rows(c.snap, []byte{prefixInbox}, func(key, value []byte) error {
		if err := c.countRow(key, value, through, out); err != nil {
			damage = append(damage, c.e.wrap(fmt.Sprintf("key %x", key), err))
		}
		return c.err()
	})
	if err != nil {
		return nil, err
	}
	days, err := c.days()
	if err != nil {
		return nil, err
	}
	for _, d := range days {
		err := c.countDay(d, through, out)
		if err != nil && !errors.Is(err, ErrDamaged) {
			return nil, err
		}
		if err != nil {
			c.e.noteShort(KindDay{wire.StreamLog, d})
			c.e.noteShort(KindDay{wire.StreamEvent, d})
			damage = append(damage, err)
		}
	}
	return out, errors.Join(damage...)
}

// countRow counts the lines of a row of the inbox.
func (c *scan) countRow(key, value []byte, through uint64, out map[KindDay]int64) error {
	r, err := parseInboxRow(key, value)
	if err != nil || r.index > through {
		return err
	}
	b, err := c.e.lines(&r)
	if err != nil {
		return err
	}
	for i := range b.Streams {
		ws := &b.Streams[i]
		hide := hider{cuts: c.cuts, st: &stream{kind: ws.Kind, decoded: ws.Labels}}
		for j := range ws.Lines {
			if t := ws.Lines[j].T; !hide.hides(t, r.index) {
				out[KindDay{ws.Kind, Day(t)}]++
			}
		}
	}
	return nil
}

// countDay counts the lines in the blocks of a day. Both its streams and its headers are sorted by stream.
func (c *scan) countDay(d int64, through uint64, out map[KindDay]int64) (err error) {
	prefix := dayPrefix(prefixStream, d)
	streams, err := c.snap.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)})
	if err != nil {
		return c.e.wrap("streams", err)
	}
	defer func() {
		if cerr := streams.Close(); err == nil {
			err = c.e.wrap("streams", cerr)
		}
	}()
	var kind wire.StreamKind
	var at streamID
	var cut uint64
	n := 0
	return c.e.rows(c.snap, dayPrefix(prefixHeader, d), func(key, value []byte) error {
		if n++; n%1024 == 0 {
			if err := c.err(); err != nil {
				return err
			}
		}
		_, sid, id := parseHeaderKey(key)
		if n == 1 || sid != at {
			if !streams.SeekGE(streamKey(d, sid)) || !bytes.Equal(streams.Key()[5:], sid[:]) {
				return errors.Join(fmt.Errorf("%w: its stream is missing", block.ErrDamaged), streams.Error())
			}
			var st stream
			if err := parseStream(&st, sid, streams.Value()); err != nil {
				return err
			}
			at, kind, cut = sid, st.kind, c.cuts.hidden(d, &st)
		}
		h, err := block.ParseHeader(value)
		if err != nil {
			return err
		}
		if h.MaxIndex <= cut {
			return nil
		}
		lines := h.Lines
		if h.MaxIndex > through || h.MinIndex <= cut {
			if lines, err = c.linesBetween(d, kind, id, &h, cut, through); err != nil {
				return err
			}
		}
		if lines > 0 {
			out[KindDay{kind, d}] += int64(lines)
		}
		return nil
	})
}

// linesBetween counts the lines of a block that came with entries behind cut and up to through.
func (c *scan) linesBetween(d int64, kind wire.StreamKind, id uint64, h *block.Header, cut, through uint64) (n int, err error) {
	if h.MinIndex > through {
		return 0, nil
	}
	v, closer, err := c.snap.Get(blockKey(prefixColumns, d, id))
	if err != nil {
		return 0, c.missing(d, kind, err)
	}
	err = c.e.store.codec.DecodeColumns(&c.cols, v, h.Lines, block.What{Positions: true})
	if err = errors.Join(err, closer.Close()); err != nil {
		return 0, err
	}
	for _, index := range c.cols.Indexes {
		if index > cut && index <= through {
			n++
		}
	}
	return n, nil
}

// Damaged lists the places where the open store is known to be damaged, at most maxDamage.
func (s *Store) Damaged() []string {
	e, release, err := s.acquire()
	if err != nil {
		return nil
	}
	defer release()
	return e.places()
}
