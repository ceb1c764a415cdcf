package scrub

import (
	"context"
	"fmt"
	"unsafe"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/meta"
)

const (
	dayMs = 24 * 3600 * 1000

	// sampleBytes is what a sample counts as when the rate is kept: about what it takes on disk, XOR-encoded.
	sampleBytes = 2
	// seriesBytes is what looking up one series counts as.
	seriesBytes = 64
)

// Windows of a day in which samples are read: a reader holds up the truncation of the head, so it should be done in about a
// second. The width goes down while a window holds more than windowBytes.
const (
	widest      = 2 * 3600 * 1000
	narrowest   = 10 * 60 * 1000
	windowBytes = 16 << 20
)

// Samples reads samples as queries would; tsdb.Store does.
type Samples interface {
	Each(ctx context.Context, from, to int64, series func(wire.Labels) func(t int64, v float64)) error
	// Dir is the directory of the store that is open, another one after it was replaced.
	Dir() string
}

// Lines reads lines as searches would; logstore.Store does. Times are nanoseconds.
type Lines interface {
	Each(ctx context.Context, from, to int64, fn func(*logstore.Row) error) error
	Dir() string // as Samples has it
}

// Pace is told of the bytes that were read. It waits as long as the rate wants, and its error ends the reading.
type Pace func(bytes int) error

// MetricsDigest is the deep digest of the samples of a UTC day.
func MetricsDigest(ctx context.Context, s Samples, day int64, pace Pace) (meta.Digest, error) {
	var sum meta.Digests
	from, end, width := day*dayMs, (day+1)*dayMs, int64(widest)
	for from < end {
		to := min(from+width, end)
		read := 0
		err := s.Each(ctx, from, to, func(ls wire.Labels) func(int64, float64) {
			id := meta.HashLabels(ls)
			read += seriesBytes
			return func(t int64, v float64) {
				read += sampleBytes
				sum.Add(command.KindMetrics, t, meta.HashSample(id, t, v))
			}
		})
		if err == nil {
			err = pace(read) // between windows, when nothing is held
		}
		if err != nil {
			return meta.Digest{}, fmt.Errorf("%s of day %d: %w", command.KindMetrics, day, err)
		}
		from = to
		switch {
		case read > windowBytes:
			width = max(narrowest, width/2)
		case read < windowBytes/4:
			width = min(widest, width*2)
		}
	}
	return one(&sum, command.KindMetrics, day), nil
}

// LinesDigest is the deep digest of the lines (KindLogs) or events (KindEvents) of a UTC day, both of which are read: it
// returns those of both.
func LinesDigest(ctx context.Context, s Lines, day int64, pace Pace) (logs, events meta.Digest, err error) {
	var sum meta.Digests
	var buf []byte
	var line wire.LogLine
	var of []wire.Label // labels of the row before
	var ofKind wire.StreamKind
	var stream uint64
	read := 0
	err = s.Each(ctx, day*dayMs*1e6, (day+1)*dayMs*1e6, func(r *logstore.Row) error {
		if len(r.Labels) != len(of) || r.Kind != ofKind || unsafe.SliceData(r.Labels) != unsafe.SliceData(of) {
			stream, of, ofKind = meta.HashStream(r.Kind, r.Labels), r.Labels, r.Kind
		}
		line = wire.LogLine{T: r.T, Severity: r.Severity, Fields: r.Fields, Text: r.Text}
		var h meta.Sum
		h, buf = meta.HashLine(stream, &line, buf)
		kind := command.KindLogs
		if r.Kind == wire.StreamEvent {
			kind = command.KindEvents
		}
		sum.Add(kind, day*dayMs, h)
		if read += len(buf); read >= 1<<20 {
			n := read
			read = 0
			return pace(n)
		}
		return nil
	})
	if err == nil {
		err = pace(read)
	}
	if err != nil {
		return logs, events, fmt.Errorf("lines of day %d: %w", day, err)
	}
	return one(&sum, command.KindLogs, day), one(&sum, command.KindEvents, day), nil
}

func one(sums *meta.Digests, kind command.Kind, day int64) meta.Digest {
	for _, d := range sums.List() {
		if d.Kind == kind && d.Day == day {
			return d
		}
	}
	return meta.Digest{Kind: kind, Day: day}
}
