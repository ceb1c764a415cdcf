package repair

import (
	"context"
	"fmt"
	"slices"

	"github.com/triward/triward/raftstate"
)

// recheckParts are those whose damage can turn out to be none. Of the log that is seen whenever it is mended, and a word
// index is made again anyway.
var recheckParts = []string{raftstate.PartState, raftstate.PartMetrics, raftstate.PartLogs}

// recheck has what is called damaged read again, and lets go of what is not found damaged any more. On error everything
// stays as it was.
func (s *Service) recheck(ctx context.Context) error {
	defer s.Doing("", 0, 0)
	s.Doing("reading again what is called damaged", 0, 0)
	var list []Damage
	for _, r := range s.open(inImage) {
		list = append(list, r.Damage)
	}
	if len(list) > 0 {
		s.Replacing(recheckParts) // what is found from here on is found again
		err := s.cfg.Recheck(ctx, list)
		s.keepFound(err != nil)
		if err != nil {
			return fmt.Errorf("what is called damaged cannot be read again: %w", err)
		}
		s.Done(raftstate.Repaired{Parts: recheckParts, How: raftstate.HowRecheck})
		s.mu.Lock()
		s.refused = ""
		s.mu.Unlock()
	}
	s.cfg.Rechecked(ctx)
	return nil
}

// keepFound keeps the records open whose places were found again, or all, and drops what tells of them twice.
func (s *Service) keepFound(all bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	again := func(r *Record, replaced bool) int {
		return slices.IndexFunc(s.journal.Records, func(e Record) bool {
			return e.Open() && e.replaced == replaced && e.Part == r.Part && e.Place == r.Place
		})
	}
	for i := 0; i < len(s.journal.Records); i++ {
		r := &s.journal.Records[i]
		if !r.Open() || !r.replaced {
			continue
		}
		twice := again(r, false)
		if twice >= 0 || all {
			r.replaced = false
		}
		if twice >= 0 { // it is behind this one
			s.journal.Records = slices.Delete(s.journal.Records, twice, twice+1)
		}
	}
	s.save()
}
