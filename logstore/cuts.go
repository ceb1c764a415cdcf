package logstore

import (
	"errors"
	"math"
	"slices"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/block"
)

// Retention takes lines of single streams away before the rest of their day goes. A cut is of a kind and a UTC day: it
// hides the lines of the streams that a selector picks, as far as they came with entries up to one of the log. So what
// comes late stays until the next cut, and what is hidden is the same on every node, whether it has the lines on disk
// still or not. Removing them from disk (trim.go) changes no answer.

// cuts are what SetCuts was told at one moment. They never change.
type cuts struct {
	index  uint64 // the newest of the days'
	newest int64  // the last day that there is a cut of
	days   map[KindDay]*dayCut
}

// dayCut hides lines of a kind and day.
type dayCut struct {
	index     uint64
	selectors []cutSelector
}

type cutSelector struct {
	*wire.Picker
	through uint64
}

// through returns the entry up to which lines of a stream are hidden, 0 when none are.
func (d *dayCut) through(label func(string) string) (through uint64) {
	if d == nil {
		return 0
	}
	for i := range d.selectors {
		if s := &d.selectors[i]; s.through > through && s.Picks(label) {
			through = s.through
		}
	}
	return through
}

// hidden returns the entry up to which lines of a stream are hidden on a day.
func (c *cuts) hidden(day int64, st *stream) uint64 {
	return c.days[KindDay{st.kind, day}].through(st.label)
}

// hides reports whether retention hides some lines of a day of which the day's word index may know.
func (c *cuts) hides(day int64, low *floors) bool {
	for _, kind := range []wire.StreamKind{wire.StreamLog, wire.StreamEvent} {
		if c.days[KindDay{kind, day}] != nil || low.of(kind) > day*DayNs {
			return true
		}
	}
	return false
}

// hider answers hidden for the lines of one stream of the inbox, whose days are mostly the same.
type hider struct {
	cuts    *cuts
	st      *stream
	day     int64
	through uint64
	asked   bool
}

func (h *hider) hides(t int64, index uint64) bool {
	if len(h.cuts.days) == 0 || index > h.cuts.index {
		return false
	}
	if d := Day(t); !h.asked || d != h.day {
		h.day, h.asked, h.through = d, true, h.cuts.hidden(d, h.st)
	}
	return index <= h.through
}

// shows reports whether a stream, of which selectors cut a day, has lines on it that came later.
func (c *scan) shows(d int64, st *stream, cut uint64) (some bool, err error) {
	err = c.e.rows(c.snap, append(dayPrefix(prefixHeader, d), st.id[:]...), func(_, value []byte) error {
		h, err := block.ParseHeader(value)
		if err != nil {
			return err
		}
		if some = h.MaxIndex > cut; some {
			return errStop
		}
		return nil
	})
	if err != nil || some {
		return some, err
	}
	if c.late == nil {
		c.late = map[dayStream]uint64{}
		if err := c.findLate(); err != nil {
			return false, err
		}
	}
	return c.late[dayStream{d, st.id}] > cut, nil
}

// findLate finds of each stream with lines in the inbox on days that were cut the newest entry that brought one.
func (c *scan) findLate() error {
	return c.e.rows(c.snap, []byte{prefixInbox}, func(key, value []byte) error {
		r, err := parseInboxRow(key, value)
		if err != nil {
			return err
		}
		if Day(r.minT) > c.cuts.newest {
			return nil
		}
		b, err := c.e.lines(&r)
		if err != nil {
			return err
		}
		for i := range b.Streams {
			ws := &b.Streams[i]
			id := streamIDOf(ws.Kind, ws.Labels)
			for j := range ws.Lines {
				if d := Day(ws.Lines[j].T); c.cuts.days[KindDay{ws.Kind, d}] != nil {
					c.late[dayStream{d, id}] = r.index // rows ascend
				}
			}
		}
		return c.err()
	})
}

// SetCuts replaces what is known of lines that retention has removed by their stream: they are in no answer any more when
// it returns. It may be called at any time, also before Open.
func (s *Store) SetCuts(list []wire.LogCut) {
	known := map[string]*wire.Picker{}
	for _, d := range s.cuts.Load().days {
		for _, sel := range d.selectors {
			known[string(wire.AppendSelector(nil, sel.Selector))] = sel.Picker
		}
	}
	next := &cuts{newest: math.MinInt64, days: make(map[KindDay]*dayCut, len(list))}
	for i := range list {
		c := &list[i]
		next.index, next.newest = max(next.index, c.Index), max(next.newest, c.Day)
		day := &dayCut{index: c.Index}
		for _, cs := range c.Selectors {
			key := string(wire.AppendSelector(nil, cs.Selector))
			picker := known[key]
			if picker == nil {
				var err error
				if picker, err = wire.NewPicker(slices.Clone(cs.Selector)); err != nil {
					// Whoever proposed it knew more of expressions. Nothing may be shown that others hide.
					s.opt.Log.Error("log store: a selector of retention cannot be read, so all of its day is hidden", "selector", cs.Selector.String(), "err", err)
					picker = &wire.Picker{}
				}
				known[key] = picker
			}
			day.selectors = append(day.selectors, cutSelector{picker, cs.Through})
		}
		next.days[KindDay{c.Kind, c.Day}] = day
	}
	s.cuts.Store(next)
	s.wakeWork()
}

// Durable says that the state is durable up to an entry. What cuts of entries up to there hide is removed from disk.
func (s *Store) Durable(index uint64) {
	s.durable.Store(index)
	s.wakeWork()
}

func (s *Store) wakeWork() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.engine != nil {
		s.engine.poke()
	}
}

// ErrCutMeanwhile says that selectors cut lines while they were counted: count again.
var ErrCutMeanwhile = errors.New("retention has removed lines meanwhile")
