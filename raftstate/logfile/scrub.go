package logfile

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"syscall"
	"time"

	"github.com/hashicorp/raft"

	"github.com/triward/triward/raftstate/boltcheck"
)

// metaTries is how often the small storage is read when it does not look whole: it may be being written.
const metaTries = 5

// Scrub reads every entry from index from on out of the files, not out of the cache, and the small storage beside them.
// Entries that are removed meanwhile are passed over. pace is told of the bytes read and ends the reading with its
// error. It returns the first damage, ErrCorrupt wrapped.
func (s *Store) Scrub(ctx context.Context, from uint64, pace func(bytes int) error) error {
	if err := s.scrubMeta(ctx); err != nil {
		return err
	}
	first, end, err := s.bounds()
	if err != nil {
		return err
	}
	var l raft.Log
	for i := max(first, from); i <= end; i++ { // what comes meanwhile is for the next time
		if err := ctx.Err(); err != nil {
			return err
		}
		first, last, err := s.bounds()
		if err != nil {
			return err
		}
		if last == 0 || i > last {
			return nil
		}
		if i = max(i, first); i > min(last, end) {
			return nil
		}
		err = s.read(i, &l)
		if err == nil && l.Index != i {
			err = fmt.Errorf("it carries index %d", l.Index)
		}
		if err != nil {
			if first, last, berr := s.bounds(); berr != nil || i < first || i > last {
				continue // it was removed
			}
			return at(i, unread(fmt.Errorf("read entry %d in %s: %w", i, s.dir, err)))
		}
		if err := pace(sealBytes + len(l.Data)); err != nil {
			return err
		}
	}
	return nil
}

// unread marks errors of an entry that is there as corrupt does, and those of a sector that the disk cannot read.
func unread(err error) error {
	if errors.Is(err, syscall.EIO) {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return corrupt(err)
}

// scrubMeta reads the file with the list of segments, term and vote. It is small and written at any time, so what looks
// damaged is looked at again.
func (s *Store) scrubMeta(ctx context.Context) (err error) {
	path := filepath.Join(s.dir, metaFile)
	for range metaTries {
		err = boltcheck.Check(path, func(bucket string, key, rec []byte) error {
			_, err := unsealRecord(bucket, key, rec)
			return err
		})
		if err == nil || !errors.Is(err, boltcheck.ErrDamaged) && !errors.Is(err, errChecksum) && !errors.Is(err, syscall.EIO) {
			return err
		}
		wait := time.NewTimer(50 * time.Millisecond)
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return ctx.Err()
		}
	}
	return fmt.Errorf("%w: %w", ErrCorrupt, err)
}
