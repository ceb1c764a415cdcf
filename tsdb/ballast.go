package tsdb

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// ballastName lies beside the store's directory, so that it is part of no copy of the store.
const ballastName = "ballast"

// ballastEvery is how often the store looks whether the ballast is to go or to come back. The library writes its chunks
// once a minute.
const ballastEvery = 500 * time.Millisecond

// ballast is room on the disk that the store holds for the library, which ends the process when it cannot write a chunk:
// samples that were taken before must find room for theirs although somebody else has filled the disk to the last byte.
// Nothing more is taken by then (keepReserve), so that little is needed.
type ballast struct {
	path    string
	bytes   uint64
	reserve uint64 // that must be free beside it for the ballast to come back
}

func newBallast(dir string, reserve uint64) *ballast {
	return &ballast{path: filepath.Join(filepath.Dir(dir), ballastName), bytes: min(reserve/4, 16<<20), reserve: reserve}
}

// look lets the ballast go when the disk has less room than it takes, and takes it again when there is plenty.
func (b *ballast) look() error {
	free, err := freeBytes(filepath.Dir(b.path))
	if err != nil {
		return err
	}
	return b.adjust(free)
}

func (b *ballast) adjust(free uint64) error {
	switch _, err := os.Stat(b.path); {
	case err == nil && free < b.bytes:
		if err := os.Remove(b.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("let go of the room kept for a full disk: %w", err)
		}
	case errors.Is(err, fs.ErrNotExist) && free > b.reserve+4*b.bytes:
		return b.take()
	}
	return nil
}

func (b *ballast) take() error {
	f, err := os.OpenFile(b.path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("keep room for a full disk: %w", err)
	}
	err = unix.Fallocate(int(f.Fd()), 0, 0, int64(b.bytes))
	if err = errors.Join(err, f.Close()); err == nil {
		return nil
	}
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil // an empty file keeps this from being tried over and over
	}
	return errors.Join(fmt.Errorf("keep room for a full disk: %w", err), os.Remove(b.path))
}

// keepBallast looks after the ballast until the store is closed.
func (s *Store) keepBallast() {
	tick := time.NewTicker(ballastEvery)
	defer tick.Stop()
	failed := ""
	for {
		select {
		case <-s.stop:
			return
		case <-tick.C:
		}
		g := s.current.Load()
		if g == nil {
			continue
		}
		why := ""
		if err := newBallast(g.dir, s.opts.ReserveBytes).look(); err != nil {
			why = err.Error()
		}
		if why != "" && why != failed {
			s.opts.Logger.Warn("metrics store: room for a full disk", "error", why)
		}
		failed = why
	}
}
