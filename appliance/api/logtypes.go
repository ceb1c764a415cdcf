package api

import (
	"cmp"
	"context"
	"encoding/base64"
	"slices"
	"time"
)

// LogQuery asks for lines.
type LogQuery struct {
	Query      string
	Start, End int64 // ns since 1970; End is not part of it
	Limit      int
	Cursor     string // of the page before, "" for the first
	Oldest     bool   // oldest first
}

// LogRow is one line.
type LogRow struct {
	T        string `json:"t"`              // ns since 1970, as text because JavaScript's numbers are too short
	Pos      string `json:"pos"`            // <index>.<ordinal>
	Kind     string `json:"kind,omitempty"` // event, or absent for a line of a log
	Severity string `json:"severity"`
	Text     string `json:"text"` // what is no UTF-8 is U+FFFD
	// TextB64 is the text as it came, in base64, when it is no UTF-8.
	TextB64 string            `json:"text_b64,omitempty"`
	Labels  map[string]string `json:"labels"`
	Fields  map[string]string `json:"fields,omitempty"`
}

// Raw returns the text as it came.
func (r *LogRow) Raw() []byte {
	if r.TextB64 != "" {
		if raw, err := base64.StdEncoding.DecodeString(r.TextB64); err == nil {
			return raw
		}
	}
	return []byte(r.Text)
}

// Cursor returns the cursor behind the row.
func (r *LogRow) Cursor() string { return r.T + "." + r.Pos }

// LogStats says what an answer cost and whether it is whole. Each of the blocks considered was skipped, counted or opened.
type LogStats struct {
	Considered    int `json:"considered"`     // blocks of streams that can match
	Skipped       int `json:"skipped"`        // blocks that were not opened; the four below together
	SkippedHeader int `json:"skipped_header"` // passed over by time and severity
	SkippedIndex  int `json:"skipped_index"`  // passed over by the word index
	SkippedFilter int `json:"skipped_filter"` // passed over by the filter of their words, or by the numbers of their fields
	// SkippedTemplates were passed over by what their lines have in common.
	SkippedTemplates int `json:"skipped_templates"`

	Counted int      `json:"counted"`       // answered by their header alone, by how many lines are in each of their minutes, or by remembered numbers of a field
	Blocks  int      `json:"blocks"`        // opened
	Pending int      `json:"pending_index"` // of those considered, not in the word index yet
	Lines   int64    `json:"scanned_lines"`
	Bytes   int64    `json:"bytes"`
	Ms      float64  `json:"ms"`
	Partial bool     `json:"partial"`           // something damaged on this node was left out, and no other node gave a whole answer
	Unasked bool     `json:"unasked,omitempty"` // partial, and no other node answered at all: none could be reached or asked, or only this one was meant
	Node    string   `json:"node,omitempty"`    // that answered, where the one that was asked would have left something out
	Damaged []string `json:"damaged,omitempty"` // what, at most ten places
	Expired bool     `json:"expired,omitempty"` // retention took lines away while the answer was on its way
}

// Add adds what another part of the same answer cost.
func (s *LogStats) Add(o *LogStats) {
	s.Considered += o.Considered
	s.Skipped += o.Skipped
	s.SkippedHeader += o.SkippedHeader
	s.SkippedIndex += o.SkippedIndex
	s.SkippedFilter += o.SkippedFilter
	s.SkippedTemplates += o.SkippedTemplates
	s.Counted += o.Counted
	s.Blocks += o.Blocks
	s.Pending += o.Pending
	s.Lines += o.Lines
	s.Bytes += o.Bytes
	s.Ms += o.Ms
	s.Partial = s.Partial || o.Partial
	s.Unasked = s.Unasked || o.Unasked
	s.Node = cmp.Or(o.Node, s.Node)
	s.Expired = s.Expired || o.Expired
	for _, place := range o.Damaged {
		if len(s.Damaged) < maxPlaces && !slices.Contains(s.Damaged, place) {
			s.Damaged = append(s.Damaged, place)
		}
	}
}

const maxPlaces = 10

// LogPage is some of the lines, newest first unless asked otherwise.
type LogPage struct {
	Rows  []LogRow `json:"rows"`
	Next  string   `json:"next"` // cursor of the next page, "" for none
	Stats LogStats `json:"stats"`
}

// LogHits counts lines by time and severity, or by time and the value of a field.
type LogHits struct {
	T0     int64        `json:"t0"`   // ms
	Step   int64        `json:"step"` // ms
	Total  int64        `json:"total"`
	Field  string       `json:"field,omitempty"` // that was asked for; "" for severities
	Series []HitsSeries `json:"series"`
	// Other and Without are the lines with other values than those of Series, and without the field; only with a field.
	Other   []int64 `json:"other,omitempty"`
	Without []int64 `json:"without,omitempty"`
	// Capped says that one of the other values may be more frequent than one of Series.
	Capped bool `json:"capped,omitempty"`
	// Partial says that something damaged on this node was left out: ask another one.
	Partial bool     `json:"partial,omitempty"`
	Stats   LogStats `json:"stats"`
}

// HitsSeries is the counts of one severity, or of one value of a field, one for each step.
type HitsSeries struct {
	Severity string  `json:"severity,omitempty"`
	Value    string  `json:"value,omitempty"`
	Counts   []int64 `json:"counts"`
}

// FacetValue is a value and how many lines have it.
type FacetValue struct {
	Value string `json:"value"`
	Count int64  `json:"count"`
}

// Facet is the most frequent values of a field.
type Facet struct {
	Field  string       `json:"field"`
	Lines  int64        `json:"lines"` // that have the field
	Values []FacetValue `json:"values"`
	// Capped says that a value which is not here may be more frequent than one which is; the counts are exact all the same.
	Capped bool `json:"capped,omitempty"`
	// Partial says that something damaged on this node was left out: ask another one.
	Partial bool     `json:"partial,omitempty"`
	Stats   LogStats `json:"stats"`
}

// LogAround is a line with its neighbours in the same stream, oldest first.
type LogAround struct {
	Rows []LogRow `json:"rows"`
	At   int      `json:"at"` // which of rows was asked for
	// Members are the fields that the text of that line holds by itself (JSON, logfmt) and a query finds by their names.
	Members map[string]string `json:"members,omitempty"`
	Stats   LogStats          `json:"stats"`
}

// LogStream is what the lines of a stream have in common.
type LogStream struct {
	Kind   string            `json:"kind"` // log or event
	Labels map[string]string `json:"labels"`
}

// LogStreams are streams, sorted.
type LogStreams struct {
	Streams []LogStream `json:"streams"`
	More    bool        `json:"more"` // there are others beyond the limit
	Stats   LogStats    `json:"stats"`
}

// LogNames are names or values of labels, sorted.
type LogNames struct {
	Names []string
	Stats LogStats
}

// Logs answers questions about lines. A query that cannot be read is a *QueryError. All methods end with ctx.
type Logs interface {
	LogSuggester
	LogPatterner
	Query(ctx context.Context, q LogQuery) (LogPage, error)
	// Export gives all lines of q (Limit 0: without a limit) to what begin returns, one by one. It calls begin once it is
	// clear that it can; a row is valid only during the call.
	Export(ctx context.Context, q LogQuery, begin func() func(*LogRow) error) (LogStats, error)
	// Hits counts the lines of [start, end) in steps that begin at multiples of step, so the first one may begin before start.
	Hits(ctx context.Context, query string, start, end int64, step time.Duration) (LogHits, error)
	// HitsBy does so for the `top` most frequent values of a field.
	HitsBy(ctx context.Context, query string, start, end int64, step time.Duration, field string, top int) (LogHits, error)
	Facets(ctx context.Context, query string, start, end int64, field string, limit int) (Facet, error)
	// Labels, LabelValues and Series tell of the streams that have lines on the days which [start, end) touches.
	Labels(ctx context.Context, start, end int64) (LogNames, error)
	LabelValues(ctx context.Context, name string, start, end int64, limit int) (LogNames, error)
	// Series leaves out streams that the query rules out by kind and labels.
	Series(ctx context.Context, query string, start, end int64, limit int) (LogStreams, error)
	// Context returns lines of the same stream around the line at pos, whose time is t (ns).
	Context(ctx context.Context, pos string, t int64, before, after int) (LogAround, error)
}
