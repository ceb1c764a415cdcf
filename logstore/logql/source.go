package logql

import (
	"context"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/logql/syntax"
)

// Line is a line of a source. Fields and Text are valid only during the call that hands it over; Labels are never changed,
// and lines of one stream should share one slice, which saves work.
type Line struct {
	T        int64 // nanoseconds since 1970
	Labels   wire.Labels
	Severity wire.Severity
	Fields   []wire.Label
	Text     []byte
}

// Query says which lines are wanted.
type Query struct {
	Selector   []*syntax.Matcher // the labels of the stream must match all of them
	Lines      []LineMatch       // the text must match all of them
	Fields     []*syntax.Matcher // the stream's label or else the field of the name must match; absent is ""
	Start, End int64             // nanoseconds, Start <= T < End
	Newest     bool              // newest first, else oldest first; lines of one time in the order of their positions
	Limit      int               // no more lines will be taken; 0 when that is not known
}

// LineMatch is a condition on the text of a line: that it holds any of Texts (as the operator says), or for the operators
// with ! none.
type LineMatch struct {
	Op    syntax.LineOp // not the ones of patterns
	Texts []string
}

// SourceStats tell what reading cost.
type SourceStats struct {
	Considered int64    // blocks whose header was looked at
	Skipped    int64    // of those passed over by header, index or filter
	Blocks     int64    // opened
	Lines      int64    // looked at
	Bytes      int64    // of text of those
	Partial    bool     // something damaged was left out
	Damaged    []string // what
	Expired    bool     // retention took lines of the range away meanwhile
}

// Source is a store of lines. It must be safe for concurrent use.
type Source interface {
	// Lines calls fn for every line that satisfies the query, in its order, until fn returns false. Conditions other than
	// the selector and the times may be left out: the caller judges each line again.
	Lines(ctx context.Context, q *Query, fn func(*Line) bool) (SourceStats, error)
}

// add sums up what several reads cost.
func (s *SourceStats) add(o SourceStats) {
	s.Considered += o.Considered
	s.Skipped += o.Skipped
	s.Blocks += o.Blocks
	s.Lines += o.Lines
	s.Bytes += o.Bytes
	s.Partial = s.Partial || o.Partial
	s.Expired = s.Expired || o.Expired
	s.Damaged = append(s.Damaged, o.Damaged...)
	s.Damaged = s.Damaged[:min(len(s.Damaged), 10)]
}
