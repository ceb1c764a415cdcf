package tsdb

import (
	"context"
	"math"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	promtsdb "github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"
)

var (
	_ storage.SampleAndChunkQueryable = (*Store)(nil)
	_ storage.ExemplarQueryable       = (*Store)(nil)
)

// Querier returns a reader of the samples in [mint, maxt], in milliseconds, that are not below the retention floor.
// It must be closed; it holds up the closing of the store, and after the store was replaced it fails with ErrSwapped
// once SwapPatience is over.
func (s *Store) Querier(mint, maxt int64) (storage.Querier, error) {
	g, err := s.hold()
	if err != nil {
		return nil, err
	}
	if mint = max(mint, s.floor.Load()); mint > maxt {
		g.release()
		return storage.NoopQuerier(), nil
	}
	if err := g.answerable(mint, maxt); err != nil {
		g.release()
		return nil, err
	}
	q, err := g.db.Querier(mint, maxt)
	if err != nil {
		g.release()
		return nil, g.noticed(err)
	}
	return &querier{reader: reader{LabelQuerier: q, g: g, mint: mint, maxt: maxt}, q: q}, nil
}

// ChunkQuerier is Querier for chunks, as remote read wants them.
func (s *Store) ChunkQuerier(mint, maxt int64) (storage.ChunkQuerier, error) {
	g, err := s.hold()
	if err != nil {
		return nil, err
	}
	if mint = max(mint, s.floor.Load()); mint > maxt {
		g.release()
		return storage.NoopChunkedQuerier(), nil
	}
	if err := g.answerable(mint, maxt); err != nil {
		g.release()
		return nil, err
	}
	q, err := g.db.ChunkQuerier(mint, maxt)
	if err != nil {
		g.release()
		return nil, g.noticed(err)
	}
	return &chunkQuerier{reader: reader{LabelQuerier: q, g: g, mint: mint, maxt: maxt}, q: q}, nil
}

// ExemplarQuerier returns a reader that finds nothing: agents send no exemplars.
func (s *Store) ExemplarQuerier(context.Context) (storage.ExemplarQuerier, error) {
	return noExemplars{}, nil
}

type noExemplars struct{}

func (noExemplars) Select(int64, int64, ...[]*labels.Matcher) ([]exemplar.QueryResult, error) {
	return []exemplar.QueryResult{}, nil
}

// reader is what both kinds of queriers have in common.
type reader struct {
	storage.LabelQuerier
	g          *generation
	mint, maxt int64
	closed     bool
}

// Close lets the store go.
func (r *reader) Close() error {
	if r.closed {
		return nil
	}
	r.closed = true
	defer r.g.release()
	return r.LabelQuerier.Close()
}

// LabelValues fails when the store was replaced too long ago.
func (r *reader) LabelValues(ctx context.Context, name string, hints *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	if r.g.ctx.Err() != nil {
		return nil, nil, ErrSwapped
	}
	values, notes, err := r.LabelQuerier.LabelValues(ctx, name, hints, ms...)
	return values, notes, r.g.noticed(err)
}

// LabelNames fails when the store was replaced too long ago.
func (r *reader) LabelNames(ctx context.Context, hints *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	if r.g.ctx.Err() != nil {
		return nil, nil, ErrSwapped
	}
	names, notes, err := r.LabelQuerier.LabelNames(ctx, hints, ms...)
	return names, notes, r.g.noticed(err)
}

// clamp keeps hints, which the library prefers to the querier's own range, within that range.
func (r *reader) clamp(hints *storage.SelectHints) *storage.SelectHints {
	if hints == nil {
		return nil
	}
	h := *hints
	h.Start, h.End = max(h.Start, r.mint), min(h.End, r.maxt)
	h.DisableTrimming = false
	return &h
}

type querier struct {
	reader
	q storage.Querier
}

// Select returns the matching series.
func (q *querier) Select(ctx context.Context, sorted bool, hints *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	return &seriesSet{SeriesSet: q.q.Select(ctx, sorted, q.clamp(hints), ms...), g: q.g}
}

type seriesSet struct {
	storage.SeriesSet
	g *generation
}

// Next stops when the store was replaced too long ago.
func (s *seriesSet) Next() bool { return s.g.ctx.Err() == nil && s.SeriesSet.Next() }

// At returns the current series.
func (s *seriesSet) At() storage.Series { return series{s.SeriesSet.At(), s.g} }

// Err tells why Next stopped.
func (s *seriesSet) Err() error {
	if s.g.ctx.Err() != nil {
		return ErrSwapped
	}
	return s.g.noticed(s.SeriesSet.Err())
}

type series struct {
	storage.Series
	g *generation
}

// Iterator fails when the store was replaced too long ago.
func (s series) Iterator(it chunkenc.Iterator) chunkenc.Iterator {
	if s.g.ctx.Err() != nil {
		return swappedIterator{chunkenc.NewNopIterator()}
	}
	if w, ok := it.(*watchedSamples); ok {
		it = w.Iterator
	}
	return &watchedSamples{s.Series.Iterator(it), s.g}
}

// watchedSamples reports damage that reading meets.
type watchedSamples struct {
	chunkenc.Iterator
	g *generation
}

// Err implements chunkenc.Iterator.
func (w *watchedSamples) Err() error { return w.g.noticed(w.Iterator.Err()) }

type swappedIterator struct{ chunkenc.Iterator }

// Err returns ErrSwapped.
func (swappedIterator) Err() error { return ErrSwapped }

type chunkQuerier struct {
	reader
	q storage.ChunkQuerier
}

// Select returns the chunks of the matching series.
func (q *chunkQuerier) Select(ctx context.Context, sorted bool, hints *storage.SelectHints, ms ...*labels.Matcher) storage.ChunkSeriesSet {
	return &chunkSeriesSet{ChunkSeriesSet: q.q.Select(ctx, sorted, q.clamp(hints), ms...), g: q.g}
}

type chunkSeriesSet struct {
	storage.ChunkSeriesSet
	g *generation
}

// Next stops when the store was replaced too long ago.
func (s *chunkSeriesSet) Next() bool { return s.g.ctx.Err() == nil && s.ChunkSeriesSet.Next() }

// At returns the current series.
func (s *chunkSeriesSet) At() storage.ChunkSeries { return chunkSeries{s.ChunkSeriesSet.At(), s.g} }

// Err tells why Next stopped.
func (s *chunkSeriesSet) Err() error {
	if s.g.ctx.Err() != nil {
		return ErrSwapped
	}
	return s.g.noticed(s.ChunkSeriesSet.Err())
}

type chunkSeries struct {
	storage.ChunkSeries
	g *generation
}

// Iterator fails when the store was replaced too long ago.
func (s chunkSeries) Iterator(it chunks.Iterator) chunks.Iterator {
	if s.g.ctx.Err() != nil {
		return swappedChunks{}
	}
	if w, ok := it.(*watchedChunks); ok { // what the library gave is used again
		it = w.Iterator
	}
	return &watchedChunks{s.ChunkSeries.Iterator(it), s.g}
}

// watchedChunks reports damage that reading chunks met.
type watchedChunks struct {
	chunks.Iterator
	g *generation
}

// Err tells why Next stopped.
func (w *watchedChunks) Err() error { return w.g.noticed(w.Iterator.Err()) }

type swappedChunks struct{}

func (swappedChunks) At() chunks.Meta { return chunks.Meta{} }
func (swappedChunks) Next() bool      { return false }
func (swappedChunks) Err() error      { return ErrSwapped }

// Stats returns the library's figures of the head: how many series, and which labels have most of them. limit
// bounds each list.
func (s *Store) Stats(byLabel string, limit int) (*promtsdb.Stats, error) {
	g, err := s.hold()
	if err != nil {
		return nil, err
	}
	defer g.release()
	return g.db.Head().Stats(byLabel, limit), nil
}

// BlockMetas describes the blocks that are not below the floor as a whole.
func (s *Store) BlockMetas() ([]promtsdb.BlockMeta, error) {
	g, err := s.hold()
	if err != nil {
		return nil, err
	}
	defer g.release()
	var metas []promtsdb.BlockMeta
	for _, m := range g.db.BlockMetas() {
		if m.MaxTime > s.floor.Load() {
			metas = append(metas, m)
		}
	}
	return metas, nil
}

// Size is what the store takes and holds.
type Size struct {
	Bytes            int64 // of all its files
	Series           uint64
	Blocks           int
	MinTime, MaxTime int64 // milliseconds; 0 when empty
}

// Size returns figures for status pages.
func (s *Store) Size() (Size, error) {
	g, err := s.hold()
	if err != nil {
		return Size{}, err
	}
	defer g.release()
	head := g.db.Head()
	size := Size{Bytes: int64(dirBytes(g.dir)), Series: head.NumSeries(), MinTime: head.MinTime(), MaxTime: head.MaxTime()}
	if size.MinTime == math.MaxInt64 {
		size.MinTime, size.MaxTime = 0, 0
	}
	for _, m := range g.db.BlockMetas() {
		size.Blocks++
		if size.MinTime == 0 || m.MinTime < size.MinTime {
			size.MinTime = m.MinTime
		}
		size.MaxTime = max(size.MaxTime, m.MaxTime-1)
	}
	size.MinTime = max(size.MinTime, s.floor.Load())
	return size, nil
}
