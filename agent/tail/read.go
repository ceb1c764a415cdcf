package tail

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/triward/triward/agent/lines"
	"github.com/triward/triward/agent/wire"
)

const (
	// idleAfter is when a file that does not grow is looked at less often.
	idleAfter = time.Minute
	// heldUpAfter is after how many polls without a look at its path reading was held up.
	heldUpAfter = 20
)

func (t *Tailer) pollAll(ctx context.Context) error {
	for again := true; again; {
		again = false
		for _, f := range slices.Clone(t.files) {
			more, err := t.poll(ctx, f)
			if err != nil {
				return err
			}
			again = again || more
		}
		t.files = slices.DeleteFunc(t.files, func(f *file) bool { return f.finished })
		t.Open.Store(int64(len(t.files)))
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// poll reads what is new in f. more says that it has not come to the end.
func (t *Tailer) poll(ctx context.Context, f *file) (more bool, err error) {
	now := time.Now()
	if f.finished || now.Sub(f.grown) > idleAfter && now.Sub(f.checked) < 2*t.cfg.Poll {
		return false, nil
	}
	last := f.checked
	f.checked = now
	fi, err := f.f.Stat()
	if err != nil {
		t.log.Warn("log file is given up", "path", f.pos.Path, "err", err)
		t.finish(f, false)
		return false, nil
	}
	if f.rotated.IsZero() {
		t.checkPath(f, fi, now, last)
	}
	if fi.Size() != f.size {
		if err := t.checkContent(ctx, f, fi, last); err != nil {
			return false, err
		}
		f.size, f.grown = fi.Size(), now
	}
	idle := f.group.Multiline != nil && now.Sub(f.grown) >= f.group.Multiline.timeout()
	final := !f.rotated.IsZero() && now.Sub(f.rotated) >= t.cfg.Linger && now.Sub(f.grown) >= t.cfg.Linger
	more, err = t.read(ctx, f, fi.Size(), idle, final)
	if err == nil && f.pos.Off >= fi.Size() {
		f.caught = now
	}
	if err == nil && final && !more {
		t.finish(f, unlinked(fi))
	}
	return more, err
}

// checkPaths checks the paths of all files before a scan finds what lies there now, so that generations of a file are
// read in their order.
func (t *Tailer) checkPaths(now time.Time) {
	for _, f := range slices.Clone(t.files) {
		if fi, err := f.f.Stat(); err == nil && f.rotated.IsZero() && !f.finished {
			t.checkPath(f, fi, now, f.checked)
		}
	}
}

// watched reports whether last, when a file was looked at before now, is not longer ago than it should be.
func (t *Tailer) watched(last time.Time) bool { return time.Since(last) < heldUpAfter*t.cfg.Poll }

// checkPath finds out whether the path still leads to the open file fi, and follows the new one at once if not, with
// those that were there in between: reading may have waited for the spool over several rotations. It was looked at
// last before now.
func (t *Tailer) checkPath(f *file, fi os.FileInfo, now, last time.Time) {
	at, err := os.Stat(f.pos.Path)
	if err == nil && f.pos.sameFile(at) {
		return
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return
	}
	f.rotated = now
	id := *f.pos.identity
	id.Rotated, id.Seen = true, now.Unix()
	f.pos.identity = &id
	w := between{after: fi.ModTime(), old: fi, live: t.watched(last)}
	if w.print, err = printOf(f.f, fingerprintLen); err != nil {
		w.print = f.pos.Print
	}
	t.followBetween(f.group, f.pos.Path, w)
	t.discover(f.pos.Path, f.group)
}

// checkContent finds out whether the file was truncated or written anew, and lets its fingerprint grow.
func (t *Tailer) checkContent(ctx context.Context, f *file, fi os.FileInfo, last time.Time) error {
	if fi.Size() < f.pos.Off || fi.Size() < int64(f.pos.Print.N) || !f.pos.Print.matches(f.f) {
		return t.truncated(ctx, f, last)
	}
	if err := t.extendPrint(f, fi.Size()); err != nil {
		t.log.Warn("log file cannot be read", "path", f.pos.Path, "err", err)
	}
	return nil
}

func (t *Tailer) extendPrint(f *file, size int64) error {
	if f.pos.Print.N >= fingerprintLen || size <= int64(f.pos.Print.N) {
		return nil
	}
	p, err := printOf(f.f, fingerprintLen)
	if err != nil {
		return err
	}
	id := *f.pos.identity
	id.Print, id.Seen = p, time.Now().Unix()
	f.pos.identity = &id
	return nil
}

// truncated reads the rest of the old content from the copy, if there is one, and begins the file anew.
func (t *Tailer) truncated(ctx context.Context, f *file, last time.Time) error {
	if c, fi, path := f.group.findCopy(f.pos); c != nil {
		old := &file{key: f.key, group: f.group, stream: f.stream, f: c, pos: f.pos, grown: f.grown, caught: f.caught}
		for {
			more, err := t.read(ctx, old, fi.Size(), true, true)
			if err != nil {
				c.Close()
				f.pos = old.pos
				return err
			}
			if !more {
				break
			}
		}
		c.Close()
		t.log.Debug("log file was copied and truncated", "path", f.pos.Path, "copy", path)
		// The copy itself was read as a whole: should a glob match it, it is known.
		id := *old.pos.identity
		id.Path, id.Key, id.Rotated, id.Done, id.Seen = path, keyOf(fi), true, true, time.Now().Unix()
		p := position{identity: &id, Off: fi.Size()}
		key := t.newKey()
		t.known[key] = p
		t.note(lines.Mark{Key: key, Position: p})
		// Reading may have waited while the file was copied and truncated again.
		t.followBetween(f.group, f.pos.Path, between{
			after: fi.ModTime(), old: fi, print: old.pos.Print, copies: true, live: t.watched(last),
		})
	} else if f.pos.Off > 0 {
		t.log.Info("log file was truncated", "path", f.pos.Path, "at", f.pos.Off)
	}
	id := *f.pos.identity
	id.Print, id.Seen = fingerprint{}, time.Now().Unix()
	f.pos = position{identity: &id}
	err := t.extendPrint(f, fingerprintLen)
	t.note(lines.Mark{Key: f.key, Position: f.pos})
	return err
}

// finish closes a file. Its position is kept, unless nothing leads to the file any more.
func (t *Tailer) finish(f *file, gone bool) {
	f.finished = true
	f.f.Close()
	if gone {
		t.note(lines.Mark{Key: f.key})
		return
	}
	if !f.rotated.IsZero() {
		id := *f.pos.identity
		id.Rotated, id.Done, id.Seen = true, true, time.Now().Unix()
		f.pos.identity = &id
	}
	t.known[f.key] = f.pos
	t.note(lines.Mark{Key: f.key, Position: f.pos})
}

// read takes records from the file's position on, up to readPerPoll bytes. With idle or final it also takes what
// is known to be incomplete.
func (t *Tailer) read(ctx context.Context, f *file, size int64, idle, final bool) (more bool, err error) {
	for total := int64(0); f.pos.Off < size; {
		if total >= readPerPoll {
			return true, nil
		}
		n, err := f.f.ReadAt(t.buf, f.pos.Off)
		if err != nil && !errors.Is(err, io.EOF) {
			t.warnOnce("read "+f.pos.Path, "log file cannot be read", "path", f.pos.Path, "err", err)
			return false, nil
		}
		data := t.buf[:n]
		full := n == len(t.buf)
		taken, err := t.take(ctx, f, data, idle && !full, full && n >= bufferMax, final && !full)
		total += int64(taken)
		t.Bytes.Add(int64(taken))
		switch {
		case err != nil:
			return false, err
		case taken == 0 && full && n < bufferMax:
			t.buf = make([]byte, bufferMax) // a long line: look at more of it
		case taken == 0:
			return false, nil
		}
	}
	return false, nil
}

// take hands the records of data to the batcher and returns how many bytes they were.
func (t *Tailer) take(ctx context.Context, f *file, data []byte, idle, full, final bool) (taken int, err error) {
	for taken < len(data) {
		rest := data[taken:]
		if f.pos.Skip {
			i := slices.Index(rest, '\n')
			next := f.pos
			if i < 0 {
				next.Off += int64(len(rest))
			} else {
				next.Off, next.Skip = next.Off+int64(i)+1, false
			}
			taken += int(next.Off - f.pos.Off)
			f.pos = next
			t.note(lines.Mark{Key: f.key, Position: next})
			continue
		}
		p, ok := nextRecord(f.group.Multiline, rest, idle, full && taken == 0, final)
		if !ok {
			return taken, nil
		}
		next := f.pos
		next.Off += int64(p.size)
		next.Skip = p.cut
		if err := t.emit(ctx, f, p, next); err != nil {
			return taken, err
		}
		f.pos = next
		taken += p.size
	}
	return taken, nil
}

func (t *Tailer) emit(ctx context.Context, f *file, p piece, next position) error {
	mark := lines.Mark{Key: f.key, Position: next}
	if len(p.text) == 0 || f.group.leavesOut(p.text) {
		if len(p.text) > 0 {
			t.Filtered.Add(1)
		}
		t.note(mark)
		return nil
	}
	now := time.Now()
	line := wire.LogLine{T: now.UnixNano(), Severity: lines.Severity(p.text), Text: p.text}
	if at, ok := t.cfg.Parser.Time(p.text, now); ok {
		lines.SetTime(&line, at, f.caught, now)
	}
	if p.cut {
		line.Fields = append(line.Fields, wire.Label{Name: "truncated", Value: "true"})
	}
	if err := t.cfg.Batcher.Add(ctx, f.stream, line, mark); err != nil {
		return fmt.Errorf("take lines of %s: %w", f.pos.Path, err)
	}
	return nil
}

func (g *Group) leavesOut(text []byte) bool {
	for _, re := range g.Drop {
		if re.Match(text) {
			return true
		}
	}
	if len(g.Keep) == 0 {
		return false
	}
	for _, re := range g.Keep {
		if re.Match(text) {
			return false
		}
	}
	return true
}
