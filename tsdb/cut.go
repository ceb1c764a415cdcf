package tsdb

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
)

// Cut makes in dst, which must be absent, a complete copy of the store that Open accepts: hard links of blocks,
// checkpoints and closed log segments, copies of the two segments being written. The chunks of the head stay out,
// for the logs hold all of them. dst must lie on the same file system. Called paused and with Apply held up.
func (s *Store) Cut(dst string) error {
	start := time.Now()
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	g := s.current.Load()
	if g == nil {
		return fmt.Errorf("cut metrics store: %w", ErrClosed)
	}
	if err := g.usable(); err != nil {
		return fmt.Errorf("cut metrics store: %w", err)
	}
	if places := g.places(); len(places) > 0 { // whoever installs the copy would have it too
		return fmt.Errorf("cut metrics store: %w", &DamageError{
			File: places[0], Err: fmt.Errorf("%d places are damaged, so no copy is made for others", len(places)),
		})
	}
	if g.paused.Load() == 0 {
		return errors.New("cut metrics store: it must be paused")
	}
	if err := g.cut(dst); err != nil {
		return errors.Join(fmt.Errorf("cut metrics store %s: %w", g.dir, err), os.RemoveAll(dst))
	}
	s.metrics.cutSeconds.Observe(time.Since(start).Seconds())
	return nil
}

func (g *generation) cut(dst string) error {
	if _, err := os.Lstat(dst); !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(fmt.Errorf("%s must be absent", dst), err)
	}
	if err := os.Mkdir(dst, 0o750); err != nil {
		return err
	}
	pos, err := g.ends()
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(g.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if _, err := ulid.ParseStrict(e.Name()); err == nil && e.IsDir() {
			if err := linkTree(filepath.Join(g.dir, e.Name()), filepath.Join(dst, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := cutLog(filepath.Join(g.dir, walDir), filepath.Join(dst, walDir), pos.WAL); err != nil {
		return err
	}
	if err := cutLog(filepath.Join(g.dir, wblDir), filepath.Join(dst, wblDir), pos.WBL); err != nil {
		return err
	}
	blocks, err := scanBlocks(dst)
	if err != nil {
		return err
	}
	g.keepSums(blocks)
	if err := writeSealed(filepath.Join(dst, manifestFile), manifest{Floor: g.floor.Load(), Blocks: blocks}, false); err != nil {
		return err
	}
	pos.Boot = ""
	return writePosition(dst, pos, false)
}

// cutLog links the closed segments and checkpoints of a log and copies the one being written.
func cutLog(src, dst string, end walPosition) error {
	if err := os.Mkdir(dst, 0o750); err != nil {
		return err
	}
	segs, err := listSegments(src)
	if err != nil {
		return err
	}
	for _, s := range segs {
		to := filepath.Join(dst, filepath.Base(s.path))
		if s.index == end.Segment {
			err = copyFile(s.path, to, end.Offset)
		} else {
			err = os.Link(s.path, to)
		}
		if err != nil {
			return err
		}
	}
	checkpoints, err := filepath.Glob(filepath.Join(src, "checkpoint.*"))
	if err != nil {
		return err
	}
	for _, c := range checkpoints {
		if strings.HasSuffix(c, ".tmp") {
			continue
		}
		if err := linkTree(c, filepath.Join(dst, filepath.Base(c))); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(src, dst string, n int64) error {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(dst, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	_, err = io.CopyN(out, in, n)
	return errors.Join(err, out.Close())
}

func linkTree(src, dst string) error {
	return filepath.WalkDir(src, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(src, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.Mkdir(filepath.Join(dst, rel), 0o750)
		}
		return os.Link(path, filepath.Join(dst, rel))
	})
}
