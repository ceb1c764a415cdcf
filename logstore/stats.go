package logstore

import (
	"slices"
	"time"
)

// Stats tell what an answer cost and whether it is whole. Of Considered each block is in exactly one of SkippedHeader,
// SkippedIndex, SkippedFilter, SkippedTemplates, Counted and Blocks, unless damage ended the look at it. A walk in the order of time
// considers a block once for every window that it reaches into.
type Stats struct {
	Considered    int // blocks of streams that can match
	SkippedHeader int // passed over by time, severities and what is wanted still
	SkippedIndex  int // passed over by the word index
	SkippedFilter int // passed over by the filter of their words, or by the numbers of their fields
	// SkippedTemplates were passed over by what their lines have in common: none of it can match.
	SkippedTemplates int

	Counted int // answered by their header alone, by how many lines are in each of their minutes, or by remembered numbers of a field
	Blocks  int // opened
	Pending int // of Considered, blocks that the word index should have answered for and does not hold yet

	Lines    int64 // lines looked at, or counted by a header
	Bytes    int64 // bytes of text of those, decompressed
	Duration time.Duration
	Partial  bool     // something damaged was left out
	Damaged  []string // what, at most ten places
	Expired  bool     // retention took lines of the range away while the walk went on
}

// maxPlaces bounds Stats.Damaged.
const maxPlaces = 10

// Skipped returns how many blocks were passed over without their text being looked at.
func (s *Stats) Skipped() int {
	return s.SkippedHeader + s.SkippedIndex + s.SkippedFilter + s.SkippedTemplates
}

func (s *Stats) leaveOut(place string) {
	s.Partial = true
	if len(s.Damaged) < maxPlaces && !slices.Contains(s.Damaged, place) {
		s.Damaged = append(s.Damaged, place)
	}
}

// add adds what another scan for the same answer cost.
func (s *Stats) add(o *Stats) {
	s.Considered += o.Considered
	s.SkippedHeader += o.SkippedHeader
	s.SkippedIndex += o.SkippedIndex
	s.SkippedFilter += o.SkippedFilter
	s.SkippedTemplates += o.SkippedTemplates
	s.Counted += o.Counted
	s.Blocks += o.Blocks
	s.Pending += o.Pending
	s.Lines += o.Lines
	s.Bytes += o.Bytes
	s.Duration += o.Duration
	s.Partial = s.Partial || o.Partial
	s.Expired = s.Expired || o.Expired
	for _, place := range o.Damaged {
		s.leaveOut(place)
	}
}
