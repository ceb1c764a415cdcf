// Package realstores runs schedules of the simulation with the stores of the product under the nodes. Their files lie
// in directories of the machine, which a kill copies as they are: the process is gone, what it wrote is there.
package realstores

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/internal/simulation"
	"github.com/triward/triward/logstore"
	"github.com/triward/triward/raftstate"
	"github.com/triward/triward/raftstate/meta"
	"github.com/triward/triward/tsdb"
)

// stores are the real ones. They implement simulation.Stores.
type stores struct {
	metrics *tsdb.Store
	logs    *logstore.Store

	once  sync.Once
	open  chan struct{} // closed when the state can be asked
	state *meta.Store
}

func newStores(t *testing.T) func(simulation.Bed) simulation.Stores {
	return func(simulation.Bed) simulation.Stores {
		log := slog.New(slog.DiscardHandler)
		if os.Getenv("TRIWARD_TEST_LOG") != "" {
			log = slog.New(slog.NewTextHandler(os.Stderr, nil))
		}
		s := &stores{open: make(chan struct{})}
		var err error
		s.metrics, err = tsdb.New(tsdb.Options{
			Dictionary: s, Logger: log, WALSegmentBytes: 64 << 10, StripeSize: 64, CompactEvery: 7 * time.Second,
		})
		if err == nil {
			s.logs, err = logstore.New(logstore.Options{
				Log: log, CacheBytes: 1 << 20, MemTableBytes: 256 << 10, SealBytes: 2 << 10, SealAge: 2 * time.Second, NoIndex: true, // its library has goroutines of its own, which no bubble may use
				OnDamage: func(e *logstore.DamageError) { t.Errorf("%v", e) },
			})
		}
		if err != nil {
			t.Error(err)
		}
		return s
	}
}

// opened tells the stores of the state that names the series.
func opened(s simulation.Stores, n *raftstate.Node) {
	r := s.(*stores)
	r.once.Do(func() { r.state = n.State(); close(r.open) })
}

// SeriesLabels implements tsdb.Dictionary.
func (s *stores) SeriesLabels(id uint64) (wire.Labels, bool) {
	<-s.open
	return s.state.SeriesLabels(id)
}

// Sinks implements simulation.Stores.
func (s *stores) Sinks() (raftstate.MetricSink, raftstate.LogSink) { return s.metrics, s.logs }

// Content implements simulation.Stores.
func (s *stores) Content(n *raftstate.Node) ([]simulation.Sample, []simulation.Line, error) {
	samples, err := s.samples(n)
	if err != nil {
		return nil, nil, err
	}
	var lines []simulation.Line
	err = s.logs.Each(context.Background(), 0, math.MaxInt64, func(r *logstore.Row) error {
		if r.Kind == wire.StreamLog {
			lines = append(lines, simulation.Line{Index: r.Index, Ord: r.Ord, T: r.T, Text: simulation.Told(r.Text)})
		}
		return nil
	})
	slices.SortFunc(lines, func(a, b simulation.Line) int {
		return logstore.Position{Index: a.Index, Ord: a.Ord}.Compare(logstore.Position{Index: b.Index, Ord: b.Ord})
	})
	return samples, lines, err
}

func (s *stores) samples(n *raftstate.Node) (out []simulation.Sample, err error) {
	ids := make(map[uint64]uint64) // by hash of the labels
	n.State().EachSeries(func(id uint64, se meta.Series) bool {
		ids[hash(se.Labels)] = id
		return true
	})
	q, err := s.metrics.Querier(0, math.MaxInt64)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, q.Close()) }()
	set := q.Select(context.Background(), true, nil, labels.MustNewMatcher(labels.MatchNotEqual, "__name__", ""))
	for set.Next() {
		if out, err = appendSeries(out, set.At(), ids); err != nil {
			return nil, err
		}
	}
	return out, set.Err()
}

func hash(ls wire.Labels) uint64 { return meta.HashLabels(ls) }

func appendSeries(out []simulation.Sample, se storage.Series, ids map[uint64]uint64) ([]simulation.Sample, error) {
	id := ids[hash(wire.LabelsFromMap(se.Labels().Map()))]
	it := se.Iterator(nil)
	for typ := it.Next(); typ != chunkenc.ValNone; typ = it.Next() {
		t, v := it.At()
		out = append(out, simulation.Sample{Series: id, T: t, V: v})
	}
	return out, it.Err()
}

// TestSchedules runs TRIWARD_SIM_REAL schedules (3) from the seed TRIWARD_SIM_SEED (1) on.
func TestSchedules(t *testing.T) {
	simulation.Schedules(t, simulation.Number(t, "TRIWARD_SIM_REAL", 3), simulation.Options{Stores: newStores(t), Opened: opened, Shadow: true})
}
