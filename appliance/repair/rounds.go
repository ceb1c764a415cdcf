package repair

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/triward/triward/raftstate"
)

// A repair that does not help is one after which the same place is found damaged again: the other node lacked it too, the
// disk damages it each time, or whoever finds it is wrong. Each round takes the state of another node and waits longer
// before, and after the last one it is left to a person.

const (
	maxRounds = 3
	// roundsWithin is how long after a repair damage of the same place is taken for damage that it did not mend.
	roundsWithin = 24 * time.Hour
	// roundFactor is by how much each wait is longer; the first is Config.RetryMost.
	roundFactor = 15
)

// ErrNoHelp says that repairs do not mend what is damaged.
var ErrNoHelp = errors.New("repairs did not help")

// tried are the nodes whose state was taken for the damage that r tells of, and when last (milliseconds since 1970). It is
// called with mu held.
func (s *Service) tried(r *Record) (from []string, last int64) {
	since := r.FoundAt - roundsWithin.Milliseconds()
	for i := range s.journal.Records {
		e := &s.journal.Records[i]
		if e.How == raftstate.HowRecheck && e.Part == r.Part && e.Place == r.Place { // it was none
			from, last = nil, 0
		}
		if !e.Open() && e.How == raftstate.HowImage && e.Part == r.Part && e.Place == r.Place && e.RepairedAt >= since {
			from, last = append(from, e.From), max(last, e.RepairedAt)
		}
	}
	return from, last
}

// Tried implements raftstate.Repairs.
func (s *Service) Tried() (nodes []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.journal.Records {
		if r := &s.journal.Records[i]; r.Open() {
			from, _ := s.tried(r)
			nodes = append(nodes, from...)
		}
	}
	slices.Sort(nodes)
	return slices.Compact(nodes)
}

// due returns nil when a repair is to be tried now, and why not otherwise, with the time of the next try, zero when there is
// none. Damage that is new is mended at once, and an operator's order is carried out whatever came before.
func (s *Service) due() (next time.Time, err error) {
	if s.From() != "" {
		return next, nil
	}
	open := s.open(inImage)
	if len(open) == 0 {
		return next, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range open {
		from, last := s.tried(&open[i])
		if len(from) >= maxRounds {
			err = fmt.Errorf("%w: the state of %d nodes (%s) was taken within a day, and %s is found damaged again; check disk and memory of this node, then run "+
				"`triward cluster repair --node %s` with --recheck, or with --from NODE for one more try", ErrNoHelp, len(from), strings.Join(from, ", "), open[i].Place, s.cfg.Node)
			continue
		}
		wait := time.Duration(0)
		if len(from) > 0 {
			wait = s.cfg.RetryMost
			for range len(from) - 1 {
				wait *= roundFactor
			}
		}
		at := time.UnixMilli(last).Add(wait)
		if !at.After(s.cfg.Now()) {
			return time.Time{}, nil
		}
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	if !next.IsZero() {
		err = fmt.Errorf("%w yet: what was repaired is found damaged again; the state of another node is taken at %s", ErrNoHelp, next.UTC().Format(time.RFC3339))
	}
	return next, err
}
