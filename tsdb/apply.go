package tsdb

import (
	"errors"
	"fmt"
	"math"
	"syscall"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	promtsdb "github.com/prometheus/prometheus/tsdb"

	"github.com/triward/triward/agent/wire"
)

// ApplySamples stores the samples; they can be queried when it returns and are durable after Flush and a syncfs.
// Samples that the store holds already are passed over: the value held stays. Several calls may run at once with
// disjoint series; the columns belong to the caller.
//
// An error that matches syscall.ENOSPC means that nothing was stored and the call may be repeated when there is space.
// One that matches ErrBroken never does: which of the samples since the last Flush are in the files is not known then,
// so that the store must be opened again and all of them be applied again.
func (s *Store) ApplySamples(in *wire.Samples) error {
	if len(in.IDs) != len(in.T) || len(in.IDs) != len(in.Values) {
		return fmt.Errorf("apply samples: columns of %d ids, %d times and %d values", len(in.IDs), len(in.T), len(in.Values))
	}
	if len(in.IDs) == 0 {
		return nil
	}
	s.applyMu.RLock()
	defer s.applyMu.RUnlock()
	g := s.current.Load()
	if g == nil {
		return fmt.Errorf("apply samples: %w", ErrClosed)
	}
	if err := g.usable(); err != nil {
		return fmt.Errorf("apply samples: %w", err)
	}
	if err := g.keepReserve(); err != nil {
		return fmt.Errorf("apply samples: %w", err)
	}
	passed, err := g.append(in)
	if err != nil {
		return fmt.Errorf("apply samples: %w", err)
	}
	s.metrics.appended.Add(float64(len(in.IDs) - passed))
	if passed > 0 {
		s.metrics.passed.Add(float64(passed))
	}
	return nil
}

// keepReserve refuses samples before the disk is full: the library panics when it cannot write a chunk and only
// logs when it cannot write a late sample.
func (g *generation) keepReserve() error {
	free, err := freeBytes(g.dir)
	if err != nil {
		return err
	}
	if free < g.opts.ReserveBytes {
		return fmt.Errorf("%s has %d bytes free and keeps %d in reserve; free or add space: %w",
			g.dir, free, g.opts.ReserveBytes, syscall.ENOSPC)
	}
	return nil
}

func (g *generation) append(in *wire.Samples) (passed int, err error) {
	app := g.db.Appender(g.ctx)
	var page *refPage
	pageNo := uint64(math.MaxUint64)
	for i, id := range in.IDs {
		if n := id >> refPageBits; n != pageNo || page == nil {
			page, pageNo = g.refs.page(id), n
		}
		var known storage.SeriesRef
		if page != nil {
			known = storage.SeriesRef(page[id&(1<<refPageBits-1)])
		}
		ref, err := g.appendOne(app, id, known, in.T[i], in.Values[i])
		switch {
		case err == nil:
			if ref != known && page != nil {
				page[id&(1<<refPageBits-1)] = uint64(ref)
			}
		case heldAlready(err):
			passed++
		default:
			return 0, errors.Join(err, app.Rollback())
		}
	}
	if err := app.Commit(); err != nil {
		return 0, g.fail(err)
	}
	if g.reg.count(lateWriteFailed) > g.lostWBL {
		// The library only logs this. The samples are in memory, but a restart would lose them.
		return 0, g.fail(fmt.Errorf("the log of late samples could not be written: %w", g.whyNoWrite()))
	}
	return passed, nil
}

func (g *generation) appendOne(app storage.Appender, id uint64, known storage.SeriesRef, t int64, v float64) (storage.SeriesRef, error) {
	if known != 0 {
		ref, err := app.Append(known, labels.EmptyLabels(), t, v)
		if !errors.Is(err, promtsdb.ErrInvalidSample) {
			return ref, err
		}
		// The head has let go of the series since; labels bring it back.
	}
	ls, ok := g.opts.Dictionary.SeriesLabels(id)
	if !ok {
		return 0, fmt.Errorf("series %d is not in the dictionary", id)
	}
	return app.Append(0, toLibrary(ls), t, v)
}

// heldAlready recognises what the library says of samples that it holds. Apply decides what is accepted, so that
// these can only be repeats after a restart; too old is what a repeat looks like when time went on far since.
func heldAlready(err error) bool {
	return errors.Is(err, storage.ErrDuplicateSampleForTimestamp) || errors.Is(err, storage.ErrOutOfOrderSample) ||
		errors.Is(err, storage.ErrTooOldSample) || errors.Is(err, storage.ErrOutOfBounds)
}

func (g *generation) whyNoWrite() error {
	if free, err := freeBytes(g.dir); err == nil && free < g.opts.ReserveBytes {
		return syscall.ENOSPC
	}
	return syscall.EIO
}

func toLibrary(ls wire.Labels) labels.Labels {
	b := labels.NewScratchBuilder(len(ls))
	for _, l := range ls {
		b.Add(l.Name, l.Value)
	}
	return b.Labels()
}

func fromLibrary(ls labels.Labels) wire.Labels {
	out := make(wire.Labels, 0, ls.Len())
	ls.Range(func(l labels.Label) { out = append(out, wire.Label{Name: l.Name, Value: l.Value}) })
	return out
}
