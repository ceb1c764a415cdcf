package logstore

import (
	"errors"
	"unsafe"

	"github.com/cockroachdb/pebble/v2"
	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/block"
	"github.com/triward/triward/logstore/members"
	"github.com/triward/triward/logstore/query"
)

// memberSink is a sink that looks at a field which texts may hold by themselves (package members).
type memberSink interface {
	sink
	// member returns the filter of the texts that hold it (query.Member); nil when the texts of the stream are not looked at.
	member(st *stream) *query.Filter
	// texts tells, before whole and needs are asked about a block, whether texts of it may hold the field.
	texts(may bool)
}

// tellTexts tells the sink of the texts of a block.
func (c *scan) tellTexts(d int64, k *candidate) error {
	c.member = nil
	sink, ok := c.sink.(memberSink)
	if !ok {
		return nil
	}
	m := sink.member(k.st)
	if m == nil {
		sink.texts(false)
		return nil
	}
	need := m.Need()
	may, err := c.mayHold(d, k.id, &need)
	if err != nil {
		return err
	}
	if sink.texts(may); may {
		c.member = m
	}
	return nil
}

// mayHold asks the filter of a block for a need.
func (c *scan) mayHold(d int64, id uint64, need *query.Need) (bool, error) {
	if may, known := c.mayHoldSeen(id, need); known {
		return may, nil
	}
	v, err := c.filters.get(c.snap, blockKey(prefixFilter, d, id))
	if err != nil && !errors.Is(err, pebble.ErrNotFound) {
		return false, err
	}
	c.e.outlines.PutFilter(id, v)
	f := block.ReadFilter(v)
	return c.lets(&f, need), nil
}

// mayHoldSeen is mayHold by what is remembered of the filter; known is false when that does not tell.
func (c *scan) mayHoldSeen(id uint64, need *query.Need) (may, known bool) {
	if need.Op == query.NeedAnything {
		return true, true
	}
	f := c.e.outlines.Filter(id)
	if f == nil {
		return true, false
	}
	may = c.lets(f, need)
	return may, !may || !f.IsBrief()
}

// lets reports whether a filter lets a need pass.
func (c *scan) lets(f *block.Filter, need *query.Need) bool {
	return need.May(func(word string) bool {
		w, ok := c.sought[word]
		if !ok {
			if c.sought == nil {
				c.sought = map[string]block.Sought{}
			}
			w = block.Seek(word)
			c.sought[word] = w
		}
		return f.MayHold(&w)
	})
}

// countedBy is what lines are counted by: severity (or level), kind, a label of the stream, or else a structured field, or
// else a field that the text holds by itself. It is not safe for concurrent use.
type countedBy struct {
	name   string
	named  members.Name
	leaf   *query.Filter // of texts that hold it
	may    bool          // texts of the block may
	reader members.Reader
}

func newCountedBy(field string) *countedBy {
	return &countedBy{name: field, named: members.NewName(field), leaf: query.Member(field)}
}

// perLine reports whether the fields of lines may have to be looked at.
func (f *countedBy) perLine() bool { return !ofEveryLine(f.name) }

func (f *countedBy) member(st *stream) *query.Filter {
	if !f.perLine() || st.label(f.name) != "" {
		return nil
	}
	return f.leaf
}

func (f *countedBy) texts(may bool) { f.may = may }

func (f *countedBy) needs() (positions, fields, text bool) {
	return false, f.perLine(), f.perLine() && f.may
}

// of returns the value of a line, "" when it has none. It is valid as long as the line and until the next call.
func (f *countedBy) of(st *stream, l *block.Line) string {
	switch {
	case f.name == "kind":
		return kindName(st.kind)
	case !f.perLine():
		return l.Severity.String()
	}
	if value := st.labels().Get(f.name); value != "" {
		return value
	}
	if value := wire.Labels(l.Fields).Get(f.name); value != "" {
		return value
	}
	value := f.reader.Get(l.Text, &f.named)
	return unsafe.String(unsafe.SliceData(value), len(value))
}

// whole counts all lines of a block by its header, and reports whether it could.
func (f *countedBy) whole(st *stream, h *block.Header, count func(value string, n int64)) bool {
	switch {
	case f.name == "kind":
		count(kindName(st.kind), int64(h.Lines))
		return true
	case !f.perLine():
		for s, n := range h.Severities {
			count(wire.Severity(s).String(), int64(n))
		}
		return true
	}
	value := st.label(f.name)
	if value == "" && (f.may || h.MayHaveField(f.name)) {
		return false
	}
	count(value, int64(h.Lines))
	return true
}
