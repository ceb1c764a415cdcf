package tsdb

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/record"
	"github.com/prometheus/prometheus/tsdb/wlog"
)

// The library mends a damaged write-ahead log by dropping all that follows and opens with fewer samples. So every
// byte of the logs is read here first: a torn end that lies behind the last Flush is cut off (the Raft log brings
// it again), anything else is reported as damage.

const (
	walDir        = "wal"
	wblDir        = "wbl"
	headChunksDir = "chunks_head"
	snapshotGlob  = "chunk_snapshot.*"
)

type segment struct {
	index int
	path  string
}

// listSegments returns the segments of a log in order; none when the directory is absent.
func listSegments(dir string) ([]segment, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list log segments: %w", err)
	}
	var segs []segment
	for _, e := range entries {
		if i, err := strconv.Atoi(e.Name()); err == nil && !e.IsDir() {
			segs = append(segs, segment{i, filepath.Join(dir, e.Name())})
		}
	}
	slices.SortFunc(segs, func(a, b segment) int { return a.index - b.index })
	for i := 1; i < len(segs); i++ {
		if segs[i].index != segs[i-1].index+1 {
			return nil, damaged(filepath.Join(dir, fmt.Sprintf("%08d", segs[i-1].index+1)), errors.New("segment is missing"))
		}
	}
	return segs, nil
}

// checker prepares one store directory for the library.
type checker struct {
	dir      string
	log      *slog.Logger
	dec      record.Decoder
	pos      position
	manifest manifest
	series   map[chunks.HeadSeriesRef]struct{} // that have a record in the WAL
	torn     bool                              // an end was cut off
}

// check reads the logs and the names of the blocks.
func (c *checker) check() (err error) {
	if err := finishRewrite(c.dir); err != nil {
		return err
	}
	if c.pos, err = readPosition(c.dir); err != nil {
		return err
	}
	if c.manifest, err = checkBlocks(c.dir); err != nil {
		return err
	}
	c.series = make(map[chunks.HeadSeriesRef]struct{})
	c.dec = record.NewDecoder(labels.NewSymbolTable(), c.log)
	if err := c.checkWAL(); err != nil {
		return err
	}
	have, err := headChunks(c.dir)
	if err != nil {
		return err
	}
	if c.torn || c.pos.Clean && !maps.Equal(have, c.pos.Derived) ||
		!c.pos.Clean && (c.pos.Boot == "" || c.pos.Boot != bootID()) {
		// A power loss may have kept chunks of series that the log no longer knows; their numbers would be given
		// to other series. The image of the head that Close left needs the chunks that were there. All of it can
		// be had from the log.
		if err := os.RemoveAll(filepath.Join(c.dir, headChunksDir)); err != nil {
			return fmt.Errorf("drop chunks of the head: %w", err)
		}
		c.pos.Clean = false
	}
	if !c.pos.Clean {
		// A store that failed to write may hold series in its head that are not in the log.
		if err := c.dropSnapshots(); err != nil {
			return err
		}
	}
	return c.checkWBL()
}

func (c *checker) dropSnapshots() error {
	paths, err := filepath.Glob(filepath.Join(c.dir, snapshotGlob))
	if err != nil {
		return fmt.Errorf("list head snapshots: %w", err)
	}
	for _, p := range paths {
		if err := os.RemoveAll(p); err != nil {
			return fmt.Errorf("drop head snapshot: %w", err)
		}
	}
	return nil
}

// headChunks returns the sizes of the files with chunks of the head.
func headChunks(dir string) (map[string]int64, error) {
	paths, err := filepath.Glob(filepath.Join(dir, headChunksDir, "*"))
	if err != nil {
		return nil, fmt.Errorf("list chunks of the head: %w", err)
	}
	sizes := make(map[string]int64, len(paths))
	for _, p := range paths {
		st, err := os.Stat(p)
		if err != nil {
			return nil, fmt.Errorf("list chunks of the head: %w", err)
		}
		sizes[filepath.Base(p)] = st.Size()
	}
	return sizes, nil
}

func (c *checker) checkWAL() error {
	dir := filepath.Join(c.dir, walDir)
	checkpoint, index, err := wlog.LastCheckpoint(dir)
	switch {
	case errors.Is(err, record.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		checkpoint, index = "", -1
	case err != nil:
		return fmt.Errorf("find checkpoint: %w", err)
	}
	if checkpoint != "" {
		segs, err := listSegments(checkpoint)
		if err != nil {
			return err
		}
		for _, s := range segs {
			if _, err := c.scan(s, c.noteSeries); err != nil {
				return damaged(s.path, err)
			}
		}
	}
	segs, err := listSegments(dir)
	if err != nil {
		return err
	}
	if len(segs) > 0 && segs[0].index > index+1 {
		return damaged(filepath.Join(dir, fmt.Sprintf("%08d", index+1)), errors.New("segment is missing"))
	}
	return c.checkLog(dir, segs, c.pos.WAL, c.noteSeries)
}

// checkLog reads the segments and cuts off what is torn behind the flushed position.
func (c *checker) checkLog(dir string, segs []segment, flushed walPosition, visit func(rec []byte) error) error {
	end := walPosition{Segment: -1}
	for i, s := range segs {
		good, err := c.scan(s, visit)
		end = walPosition{Segment: s.index, Offset: good}
		if err == nil {
			continue
		}
		if end.before(flushed) {
			return damaged(s.path, fmt.Errorf("at byte %d of %d that were durable in segment %d: %w",
				good, flushed.Offset, flushed.Segment, err))
		}
		c.log.Warn("cut off the torn end of a write-ahead log; the cluster's log brings it again",
			"file", s.path, "keep", good, "error", err)
		c.torn = true
		if err := os.Truncate(s.path, good); err != nil {
			return fmt.Errorf("cut off torn end: %w", err)
		}
		for _, later := range segs[i+1:] {
			if err := os.Remove(later.path); err != nil {
				return fmt.Errorf("cut off torn end: %w", err)
			}
		}
		if err := syncPath(dir); err != nil {
			return err
		}
		break
	}
	if end.before(flushed) {
		return damaged(filepath.Join(dir, fmt.Sprintf("%08d", flushed.Segment)),
			fmt.Errorf("ends at byte %d of segment %d, but was durable up to byte %d", end.Offset, end.Segment, flushed.Offset))
	}
	return nil
}

// scan reads the records of one segment and returns where the last good one ends.
func (c *checker) scan(s segment, visit func(rec []byte) error) (good int64, err error) {
	seg, err := wlog.OpenReadSegment(s.path)
	if err != nil {
		return 0, fmt.Errorf("open segment: %w", err)
	}
	st, err := os.Stat(s.path)
	if err != nil {
		return 0, errors.Join(err, seg.Close())
	}
	rd := wlog.NewSegmentBufReader(seg)
	r := wlog.NewReader(rd)
	for r.Next() {
		if err := visit(r.Record()); err != nil {
			return good, errors.Join(err, rd.Close())
		}
		good = min(r.Offset(), st.Size())
	}
	if err := errors.Join(r.Err(), rd.Close()); err != nil {
		return good, err
	}
	if at, err := zeroPage(s.path, st.Size()); err != nil {
		return min(good, at), err
	}
	return st.Size(), nil // zeros up to the end of the page belong to it
}

// zeroPage finds a page of zeros, which the library's reader takes for padding; none is ever written.
func zeroPage(path string, size int64) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, fmt.Errorf("open segment: %w", err)
	}
	defer f.Close()
	var first [1]byte
	for at := int64(0); at < size; at += walPage {
		if _, err := f.ReadAt(first[:], at); err != nil {
			return at, fmt.Errorf("read segment: %w", err)
		}
		if first[0] == 0 {
			return at, errors.New("page without a record")
		}
	}
	return size, nil
}

func (c *checker) noteSeries(rec []byte) error {
	switch c.dec.Type(rec) {
	case record.Series:
		series, err := c.dec.Series(rec, nil)
		if err != nil {
			return fmt.Errorf("series record: %w", err)
		}
		for i := range series {
			c.series[series[i].Ref] = struct{}{}
		}
	case record.Unknown:
		return errors.New("record of an unknown kind")
	}
	return nil
}

// checkWBL reads the log of late samples and rewrites it without what would mislead the library: marks of chunks
// that another run or node wrote under the same number (or that were never written at all) make it forget samples,
// and samples of series that the WAL lost would go to whichever series gets that number next.
func (c *checker) checkWBL() error {
	dir := filepath.Join(c.dir, wblDir)
	segs, err := listSegments(dir)
	if err != nil {
		return err
	}
	rewrite := false
	var samples []record.RefSample
	err = c.checkLog(dir, segs, c.pos.WBL, func(rec []byte) error {
		switch c.dec.Type(rec) {
		case record.MmapMarkers:
			rewrite = true
		case record.Samples, record.SamplesV2:
			var err error
			if samples, err = c.dec.Samples(rec, samples[:0]); err != nil {
				return fmt.Errorf("samples record: %w", err)
			}
			for i := range samples {
				if _, ok := c.series[samples[i].Ref]; !ok {
					rewrite = true
				}
			}
		case record.Unknown:
			return errors.New("record of an unknown kind")
		}
		return nil
	})
	if err != nil || !rewrite {
		return err
	}
	return c.rewriteWBL(dir)
}

func (c *checker) rewriteWBL(dir string) error {
	fresh := dir + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return fmt.Errorf("rewrite the log of late samples: %w", err)
	}
	segs, err := listSegments(dir)
	if err != nil {
		return err
	}
	w, err := newLateLog(fresh)
	if err != nil {
		return err
	}
	var samples []record.RefSample
	for _, s := range segs {
		_, err := c.scan(s, func(rec []byte) error {
			if t := c.dec.Type(rec); t != record.Samples && t != record.SamplesV2 {
				return nil
			}
			var err error
			if samples, err = c.dec.Samples(rec, samples[:0]); err != nil {
				return err
			}
			samples = slices.DeleteFunc(samples, func(s record.RefSample) bool { _, ok := c.series[s.Ref]; return !ok })
			if len(samples) == 0 {
				return nil
			}
			return w.Log((&record.Encoder{}).Samples(samples, nil))
		})
		if err != nil {
			return errors.Join(fmt.Errorf("rewrite the log of late samples: %w", err), w.Close())
		}
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("rewrite the log of late samples: %w", err)
	}
	end, err := endOfLog(fresh)
	if err != nil {
		return err
	}
	if err := syncLog(fresh, walPosition{Segment: math.MinInt}, end); err != nil {
		return err
	}
	// The position comes first: the new log starts at another number and the old position would call it damaged.
	c.pos.WBL = walPosition{Segment: -1}
	if err := writePosition(c.dir, c.pos, true); err != nil {
		return err
	}
	c.pos.WBL = end
	return installRewrite(c.dir)
}

// installRewrite puts wbl.new into the place of wbl.
func installRewrite(dir string) error {
	wbl := filepath.Join(dir, wblDir)
	if err := os.RemoveAll(wbl + ".old"); err != nil {
		return fmt.Errorf("install the log of late samples: %w", err)
	}
	if err := os.Rename(wbl, wbl+".old"); err != nil {
		return fmt.Errorf("install the log of late samples: %w", err)
	}
	return finishRewrite(dir)
}

// finishRewrite completes a rewrite that was interrupted: once wbl is gone, wbl.new is whole.
func finishRewrite(dir string) error {
	wbl := filepath.Join(dir, wblDir)
	_, err := os.Stat(wbl)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.Rename(wbl+".new", wbl); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("install the log of late samples: %w", err)
		}
		if err := syncPath(dir); err != nil {
			return err
		}
	} else if err != nil {
		return fmt.Errorf("find the log of late samples: %w", err)
	}
	if err := errors.Join(os.RemoveAll(wbl+".old"), os.RemoveAll(wbl+".new")); err != nil {
		return fmt.Errorf("remove the former log of late samples: %w", err)
	}
	return nil
}

// newLateLog makes an empty write-ahead log that nothing else uses.
func newLateLog(dir string) (*wlog.WL, error) {
	w, err := wlog.NewSize(nil, nil, dir, 16<<20, "snappy")
	if err != nil {
		return nil, fmt.Errorf("make %s: %w", dir, err)
	}
	return w, nil
}
