package tail

import (
	"compress/bzip2"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/triward/triward/agent/lines"
)

// resume opens the files that were being read: at their path, or beside it when they were rotated meanwhile.
func (t *Tailer) resume() {
	keys := make([]string, 0, len(t.known))
	for key := range t.known {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		p := t.known[key]
		if p.Done {
			continue
		}
		g := t.groupOf(p.Path)
		if g == nil {
			continue // not configured any more; the position is kept for a while
		}
		if f, fi, err := g.open(p.Path); err == nil && !p.Rotated {
			if p.sameFile(fi) && fi.Size() >= int64(p.Print.N) && p.Print.matches(f) {
				if p.Print.N == 0 {
					// It was empty when we saw it last: a whole generation may have been copied away since.
					t.followBetween(g, p.Path, between{after: time.Unix(p.Seen-1, 0), old: fi, copies: true})
				}
				t.track(key, g, f, p, fi)
				continue
			}
			if p.sameFile(fi) && p.Key != (fileKey{}) && p.Print.N > 0 && fi.Size() < p.Off {
				t.track(key, g, f, p, fi) // truncated in place: poll finds out and looks for the copy
				continue
			}
			f.Close()
		} else if err == nil {
			f.Close()
		}
		t.resumeRotated(key, g, p)
	}
}

// resumeRotated looks for a file that left its path while the agent was down.
func (t *Tailer) resumeRotated(key string, g *Group, p position) {
	f, fi, path := g.findSibling(p.Path, func(_ string, f *os.File, fi os.FileInfo) bool {
		return p.sameFile(fi) && (p.Key != (fileKey{}) || p.Print.N > 0) && fi.Size() >= p.Off && p.Print.matches(f)
	})
	w := between{print: p.Print}
	if f == nil {
		f, fi, path = g.findCopy(p)
		w.copies = f != nil
	}
	if f == nil {
		t.lost(p, "it was rotated away and cannot be found")
		delete(t.known, key)
		t.note(lines.Mark{Key: key})
		w.after = time.Unix(p.Seen-1, 0)
		t.followBetween(g, p.Path, w)
		return
	}
	id := *p.identity
	id.Rotated, id.Key = true, keyOf(fi)
	p.identity = &id
	t.log.Debug("rotated log file is found again", "path", p.Path, "at", path)
	nf := t.track(key, g, f, p, fi)
	nf.rotated = time.Now()
	w.after, w.old = fi.ModTime(), fi
	t.followBetween(g, p.Path, w)
}

// between says which files are looked for beside a path: those that came to it and left it again before anybody
// looked, while the agent was down or reading was held up.
type between struct {
	after  time.Time   // they were written last after this
	old    os.FileInfo // not this one: what was at the path before them; nil when it is gone
	print  fingerprint // of old
	copies bool        // the file is copied and truncated: what begins like it now is a copy being made
	live   bool        // nothing was held up: what cannot be looked into is taken to be old
}

// followBetween follows such files, oldest first, and tells of those that are compressed already.
func (t *Tailer) followBetween(g *Group, path string, w between) {
	type sibling struct {
		path string
		fi   os.FileInfo
	}
	var found []sibling
	var now fingerprint
	if f, _, err := g.open(path); err == nil {
		if p, err := printOf(f, fingerprintLen); err == nil && w.copies {
			now = p
		}
		f.Close()
	}
	g.findSibling(path, func(name string, f *os.File, fi os.FileInfo) bool {
		if !rotatedName(path, name) || !fi.ModTime().After(w.after) || os.SameFile(fi, w.old) || t.groupOf(name) != nil ||
			now.N > 0 && now.matches(f) {
			return false
		}
		for _, p := range t.known {
			if p.sameFile(fi) && p.Print.matches(f) {
				return false
			}
		}
		if !slices.ContainsFunc(t.files, func(o *file) bool { return o.pos.sameFile(fi) && o.pos.Key != fileKey{} }) {
			found = append(found, sibling{name, fi})
		}
		return false
	})
	slices.SortFunc(found, func(a, b sibling) int { return a.fi.ModTime().Compare(b.fi.ModTime()) })
	for _, s := range found {
		f, fi, err := g.open(s.path)
		if err != nil {
			continue
		}
		p := position{identity: &identity{Path: path, Stream: path, Key: keyOf(fi), Rotated: true, Seen: time.Now().Unix()}}
		nf := t.track(t.newKey(), g, f, p, fi)
		nf.rotated = time.Now()
	}
	if gone := t.compressedBetween(path, w); len(gone) > 0 {
		t.Lost.Add(int64(len(gone)))
		names := strings.Join(gone[:min(len(gone), 3)], ", ")
		t.log.Warn("rotated log files were compressed before they were read", "path", path, "files", names, "count", len(gone))
		t.cfg.Report("lost", fmt.Sprintf("lines of %s are lost: %d rotated files were compressed before they were read: %s", path, len(gone), names))
	}
}

// rotatedName reports whether name is what path is called once it is rotated: a.log.1, a.log-20261123, a.log.old.
func rotatedName(path, name string) bool {
	rest, ok := strings.CutPrefix(name, path)
	if !ok || rest == "" || !strings.ContainsRune(".-_~", rune(rest[0])) {
		return false
	}
	return strings.ContainsAny(rest, "0123456789") || slices.Contains([]string{"old", "prev", "bak", "save", "last", ""}, rest[1:])
}

// compressedBetween lists compressed files beside path that hold what nobody read.
func (t *Tailer) compressedBetween(path string, w between) []string {
	names, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil
	}
	var gone []string
	for _, n := range names {
		name := filepath.Join(filepath.Dir(path), n.Name())
		if !compressed(name) || !rotatedName(path, strings.TrimSuffix(name, filepath.Ext(name))) || len(gone) >= maxSiblings {
			continue
		}
		fi, err := n.Info()
		if err != nil || !fi.Mode().IsRegular() || !fi.ModTime().After(w.after) {
			continue
		}
		head, err := headOf(name)
		if err != nil && w.live || err == nil && (w.print.begins(head) || t.readAlready(head)) {
			continue
		}
		gone = append(gone, name)
	}
	return gone
}

// readAlready reports whether a file that began like this is known.
func (t *Tailer) readAlready(head []byte) bool {
	for _, p := range t.known {
		if p.Print.begins(head) {
			return true
		}
	}
	return slices.ContainsFunc(t.files, func(f *file) bool { return f.pos.Print.begins(head) })
}

var errNotRead = errors.New("compressed in a way that is not read")

// headOf returns the beginning of what a compressed file holds.
func headOf(name string) ([]byte, error) {
	f, _, err := openRegular(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var r io.Reader
	switch filepath.Ext(name) {
	case ".gz":
		r, err = gzip.NewReader(f)
	case ".bz2":
		r = bzip2.NewReader(f)
	case ".zst":
		var z *zstd.Decoder
		if z, err = zstd.NewReader(f, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(64<<20)); err == nil {
			defer z.Close()
			r = z
		}
	default:
		err = errNotRead
	}
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(r, fingerprintLen)) // one that is being written still is an error
}

func (t *Tailer) lost(p position, why string) {
	t.Lost.Add(1)
	t.log.Warn("lines of a log file may be lost", "path", p.Path, "after", p.Off, "because", why)
	t.cfg.Report("lost", fmt.Sprintf("lines of %s after byte %d may be lost: %s", p.Path, p.Off, why))
}

// maxSiblings bounds how many files of a folder are looked at for a rotated one.
const maxSiblings = 512

// findSibling returns the first file beside path, with a name that begins like it, for which ok holds.
func (g *Group) findSibling(path string, ok func(string, *os.File, os.FileInfo) bool) (*os.File, os.FileInfo, string) {
	dir, base := filepath.Split(path)
	stem := strings.TrimSuffix(base, filepath.Ext(base))
	names, err := os.ReadDir(filepath.Clean(dir))
	if err != nil {
		return nil, nil, ""
	}
	looked := 0
	for _, n := range names {
		if !strings.HasPrefix(n.Name(), stem) || compressed(n.Name()) || looked >= maxSiblings {
			continue
		}
		looked++
		p := filepath.Join(dir, n.Name())
		f, fi, err := g.open(p)
		if err != nil {
			continue
		}
		if ok(p, f, fi) {
			return f, fi, p
		}
		f.Close()
	}
	return nil, nil, ""
}

// findCopy looks for the copy that copy-and-truncate made of a file: another file with the same beginning that
// holds at least what was read, the newest of them.
func (g *Group) findCopy(p position) (*os.File, os.FileInfo, string) {
	if p.Print.N == 0 || p.Off == 0 {
		return nil, nil, ""
	}
	var newest time.Time
	var best string
	match := func(f *os.File, fi os.FileInfo) bool {
		return (p.Key == fileKey{} || keyOf(fi) != p.Key) && fi.Size() >= p.Off && p.Print.matches(f)
	}
	f, _, _ := g.findSibling(p.Path, func(name string, f *os.File, fi os.FileInfo) bool {
		if match(f, fi) && fi.ModTime().After(newest) {
			newest, best = fi.ModTime(), name
		}
		return false
	})
	if f != nil || best == "" {
		return nil, nil, ""
	}
	f, fi, err := g.open(best)
	if err != nil {
		return nil, nil, ""
	}
	if !match(f, fi) {
		f.Close()
		return nil, nil, ""
	}
	return f, fi, best
}

func compressed(name string) bool {
	switch filepath.Ext(name) {
	case ".gz", ".xz", ".bz2", ".zst", ".zip", ".lz4", ".journal":
		return true
	}
	return false
}
