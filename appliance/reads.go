package appliance

import (
	"context"
	"errors"
	"fmt"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/fleet"
	"github.com/triward/triward/raftstate"
	"github.com/triward/triward/raftstate/meta"
	"github.com/triward/triward/tsdb"
	"github.com/triward/triward/ui"
)

// reads says how far this node is, for the consistency that a reader asks for.
type reads struct{ node *raftstate.Node }

// AppliedIndex implements api.Reads.
func (r *reads) AppliedIndex() uint64 { return r.node.AppliedIndex() }

// WaitApplied implements api.Reads.
func (r *reads) WaitApplied(ctx context.Context, index uint64) error {
	return r.node.WaitApplied(ctx, index)
}

// ReadIndex implements api.Reads.
func (r *reads) ReadIndex(ctx context.Context) (uint64, error) { return r.node.ReadIndex(ctx) }

// ranges evaluates PromQL for the live hub.
type ranges struct {
	query    *tsdb.Query
	unusable func() error // why nothing is to be shown now
}

// QueryRange implements ui.RangeQuerier.
func (r *ranges) QueryRange(ctx context.Context, query string, start, end, step int64) ([]ui.Series, error) {
	if err := r.unusable(); err != nil {
		return nil, err
	}
	found, err := r.query.Range(ctx, query, start, end, step)
	if err == nil {
		err = r.unusable()
	}
	if err != nil {
		if pos, ok := tsdb.ErrorPosition(err); ok {
			return nil, &ui.QueryError{Pos: pos, Message: err.Error()}
		}
		return nil, err
	}
	out := make([]ui.Series, len(found))
	for i, s := range found {
		out[i] = ui.Series{Labels: s.Labels.Map(), T: s.T, V: s.V}
	}
	return out, nil
}

// warmer fills the fleet's view after a start.
type warmer struct{ app *App }

// maxWarmSeries bounds the table from labels to ids that is built for one moment.
const maxWarmSeries = 2_000_000

// LatestSamples implements fleet.Warmer. The store knows labels, the view ids: a table is made of the dictionary.
func (w *warmer) LatestSamples(ctx context.Context, since int64, fn func(id uint64, t int64, v float64)) error {
	ids, err := w.idsByLabels(ctx)
	if err != nil {
		return err
	}
	var key []byte
	return w.app.query.LatestSamples(ctx, "", since, func(ls wire.Labels, t int64, v float64) bool {
		key = ls.AppendKey(key[:0])
		if id, ok := ids[string(key)]; ok {
			fn(id, t, v)
		}
		return true
	})
}

func (w *warmer) idsByLabels(ctx context.Context) (map[string]uint64, error) {
	st := w.app.state.wait()
	if st == nil {
		return nil, errors.New("there is no state")
	}
	total := min(st.SeriesCount(), maxWarmSeries)
	ids := make(map[string]uint64, total)
	var key []byte
	st.EachSeries(func(id uint64, se meta.Series) bool {
		key = se.Labels.AppendKey(key[:0])
		ids[string(key)] = id
		return len(ids) < total && ctx.Err() == nil
	})
	return ids, ctx.Err()
}

// QueryRange implements fleet.Warmer.
func (w *warmer) QueryRange(ctx context.Context, query string, start, end, step int64) ([]fleet.AgentSeries, error) {
	found, err := w.app.query.Range(ctx, query, start, end, step)
	if err != nil {
		return nil, fmt.Errorf("warm up: %w", err)
	}
	out := make([]fleet.AgentSeries, len(found))
	for i, s := range found {
		out[i] = fleet.AgentSeries{Agent: s.Labels.Get("agent"), T: s.T, V: s.V}
	}
	return out, nil
}
