package logstore

import (
	"fmt"
	"slices"
	"testing"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/block"
	"github.com/triward/triward/logstore/query"
	"github.com/triward/triward/logstore/sieve"
)

// aloneBlock is a block that no store keeps.
type aloneBlock struct {
	id      uint64
	lines   []block.Line
	head    block.Header
	encoded block.Encoded
	filter  []byte
}

// blocks makes a block of the lines of each of n entries.
func (a *attacker) blocks(t *testing.T, codec *block.Codec, n int, id *uint64) (out []aloneBlock) {
	t.Helper()
	for range n {
		e := a.entry()
		var lines []block.Line
		for _, b := range e.Batches {
			for _, st := range b.Batch.Streams {
				for _, l := range st.Lines {
					k := len(lines)
					lines = append(lines, block.Line{T: testDay*DayNs + int64(k), Index: e.Index, Ord: uint32(k), Severity: l.Severity, Fields: l.Fields, Text: l.Text})
				}
			}
		}
		if len(lines) == 0 {
			continue
		}
		var voc block.Vocabulary
		encoded, err := codec.Encode(lines, block.Version2, &voc)
		if err != nil || encoded.Fallback != nil {
			t.Fatal(err, encoded.Fallback)
		}
		*id++
		out = append(out, aloneBlock{*id, lines, block.HeaderOf(lines), encoded, slices.Clone(voc.Filter(block.Version2))})
	}
	return out
}

// asking is a question to blocks, asked as a scan asks it.
type asking struct {
	t       *testing.T
	codec   *block.Codec
	cache   *sieve.Cache
	reducer *query.Reducer
	stream  *query.Filter // reduced to the stream
	plans   query.Plans
	learn   bool
}

// find returns which lines of a block are found; why says what ruled all of them out, "" when nothing did.
func (q *asking) find(b *aloneBlock) (found query.Bits, why string) {
	found = query.Range(len(b.lines), 0, 0)
	filter := block.ReadFilter(b.filter)
	may := func(n *query.Need) bool {
		return n.Op == query.NeedAnything || n.May(func(w string) bool { sought := block.Seek(w); return filter.MayHold(&sought) })
	}
	f := q.reducer.Stored(q.reducer.Block(q.stream, &b.head), may)
	if f.IsNone() {
		return found, "the header"
	}
	if need := f.Need(); !may(&need) {
		return found, "the filter"
	}
	var spans block.Spans
	if err := q.codec.Spans(&spans, b.encoded.Columns); err != nil {
		q.t.Fatal(err)
	}
	if !f.MayBeWithin(&spans) {
		return found, "the spans of numbers"
	}
	outline := q.cache.Get(b.id)
	var view block.View
	if ok, err := q.codec.ViewSeen(&view, b.encoded.Text, len(b.lines), outline); err != nil || !ok {
		q.t.Fatal(ok, err)
	}
	var sight *query.Sight
	if f.NeedsText() {
		if outline == nil {
			outline = q.cache.Put(b.id, &view)
		} else if q.learn {
			q.cache.Learn(b.id, outline, &view)
		}
		if sight = q.plans.Look(f, outline, nil); !sight.Any() {
			return found, "the outline"
		}
	}
	var cols block.Columns
	if err := q.codec.DecodeColumns(&cols, b.encoded.Columns, len(b.lines), block.What{Fields: true, ByName: true}); err != nil {
		q.t.Fatal(err)
	}
	lines := query.Lines{N: len(b.lines), Times: cols.Times, Severities: cols.Severities, Fields: cols.Fields, View: &view, Plans: &q.plans, Outline: outline}
	if cols.ByName() {
		lines.Columns = &cols
	}
	all := query.Range(len(b.lines), 0, len(b.lines))
	if sight == nil {
		found = f.Select(&lines, all)
	} else {
		found = f.SelectSeen(&lines, all, sight)
	}
	if lines.Err() != nil {
		q.t.Fatal(lines.Err())
	}
	return found, ""
}

// A block answers as its lines do one by one: by its header, filter and spans, by what is remembered of it and what is learned of its
// values, and by its templates and columns.
func TestBlocksAnswerAsTheirLines(t *testing.T) {
	seeds, first := campaignSeeds(t, rounds(12, 2))
	codec, err := block.NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	defer codec.Close()
	cache, id := sieve.New(300<<10), uint64(0)
	host := wire.LabelsFromMap(map[string]string{"host": "web-1"})
	for seed := first; seeds(); seed++ {
		a := newAttacker(seed)
		blocks := a.blocks(t, codec, 4, &id)
		for range 60 {
			f, q := a.question()
			asked := &asking{t: t, codec: codec, cache: cache, reducer: f.Reducer()}
			asked.stream = asked.reducer.Stream(wire.StreamLog, host.Get)
			for turn := range 3 { // what a block is asked for again and again is remembered
				asked.learn = turn == 2
				for i := range blocks {
					b := &blocks[i]
					found, why := asked.find(b)
					for k, l := range b.lines {
						if is := f.Match(&query.Line{T: l.T, Kind: wire.StreamLog, Severity: l.Severity, Labels: host, Fields: l.Fields, Text: l.Text}); is != found.Has(k) {
							t.Fatalf("seed %d, turn %d, %s: %q with %s is found: %v, ruled out by %q", seed, turn, q.text, l.Text, fmt.Sprint(l.Fields), !is, why)
						}
					}
				}
			}
		}
	}
}
