package tsdb

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	promtsdb "github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/util/compression"

	"github.com/triward/triward/agent/wire"
)

// Dictionary tells the labels of a series id given out by the cluster. It is asked once per series and opened
// store, from several goroutines at once. The labels stay unchanged for ever.
type Dictionary interface {
	SeriesLabels(id uint64) (wire.Labels, bool)
}

// Options of a Store. The zero value of a field means its default; Dictionary and Logger have none.
type Options struct {
	Dictionary Dictionary
	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: the store's metrics are not exported

	// BlockDuration is the span of the smallest block: 2 h.
	BlockDuration time.Duration
	// MaxBlockDuration bounds the span of merged blocks and with it how late retention frees space: a day.
	MaxBlockDuration time.Duration
	// LateWindow is how much older than the newest sample a late one may be: 8 d. It must exceed the window in
	// which Apply accepts by the ten minutes that a sample may be ahead.
	LateWindow time.Duration
	// WALSegmentBytes is the size of a segment of the write-ahead log, a multiple of 32 KiB: 16 MiB. Cut copies
	// at most two segments while Apply waits.
	WALSegmentBytes int
	// StripeSize is the number of stripes of the series map, a power of two: 2048. Each costs about 100 bytes.
	StripeSize int
	// ReserveBytes of free space are not used for samples: 64 MiB. Compaction stops at four times as much.
	ReserveBytes uint64
	// CompactEvery is how often the store looks for something to compact: 3 min. A negative value turns the
	// schedule off; Compact still works.
	CompactEvery time.Duration
	// Stagger shifts the schedule within CompactEvery, so that nodes do not compact at the same moment.
	Stagger time.Duration
	// OnDamage is told, once for each place, of damage found by a query or by Scrub, or reported to the store. It must not
	// block.
	OnDamage func(*DamageError)
	// SwapPatience is how long readers may hold a store that was replaced before their queries fail: 5 s.
	SwapPatience time.Duration
}

const walPage = 32 << 10

func (o Options) withDefaults() (Options, error) {
	if o.Dictionary == nil {
		return o, errors.New("metrics store: Options.Dictionary is nil")
	}
	if o.Logger == nil {
		return o, errors.New("metrics store: Options.Logger is nil")
	}
	setDefault(&o.BlockDuration, 2*time.Hour)
	setDefault(&o.MaxBlockDuration, 12*o.BlockDuration)
	setDefault(&o.LateWindow, 8*24*time.Hour)
	setDefault(&o.WALSegmentBytes, 16<<20)
	setDefault(&o.StripeSize, 2048)
	setDefault(&o.ReserveBytes, 64<<20)
	setDefault(&o.CompactEvery, 3*time.Minute)
	setDefault(&o.SwapPatience, 5*time.Second)
	if o.WALSegmentBytes < walPage || o.WALSegmentBytes%walPage != 0 {
		return o, fmt.Errorf("metrics store: Options.WALSegmentBytes %d is no multiple of %d", o.WALSegmentBytes, walPage)
	}
	if o.StripeSize&(o.StripeSize-1) != 0 {
		return o, fmt.Errorf("metrics store: Options.StripeSize %d is no power of two", o.StripeSize)
	}
	return o, nil
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// library returns the options of the Prometheus store. Retention is ours: the library deletes what
// blocksToDelete names and nothing else.
func (o *Options) library() *promtsdb.Options {
	lo := promtsdb.DefaultOptions()
	lo.RetentionDuration = 0
	lo.MinBlockDuration = o.BlockDuration.Milliseconds()
	lo.MaxBlockDuration = o.MaxBlockDuration.Milliseconds()
	lo.BlockReloadInterval = reloadEvery
	lo.WALSegmentSize = o.WALSegmentBytes
	lo.WALCompression = compression.Snappy
	lo.StripeSize = o.StripeSize
	lo.OutOfOrderTimeWindow = o.LateWindow.Milliseconds()
	lo.EnableMemorySnapshotOnShutdown = true
	lo.EnableOverlappingCompaction = true
	lo.FloatChunkEncoding = chunkenc.EncXOR
	return lo
}
