package tail

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/triward/triward/agent/lines"
	"github.com/triward/triward/agent/wire"
)

// Group is a set of files that are read alike.
type Group struct {
	Include   []string // globs, ** allowed
	Exclude   []string
	Multiline *Multiline       // nil: every line is a record
	Drop      []*regexp.Regexp // records that match any are left out
	Keep      []*regexp.Regexp // when not empty, records that match none are left out
	Labels    wire.Labels      // added to the stream
	Within    []string         // the files must really lie in one of these places; nil: anywhere
}

// Config of a Tailer.
type Config struct {
	Groups         []Group
	State          map[string][]byte // the spool's state when it was opened
	Batcher        *lines.Batcher
	Parser         *lines.Parser
	Log            *slog.Logger
	InitialBacklog int64                   // bytes read of a file that is there at the first start of all
	Before         []Group                 // what was followed until now, when the groups changed; nil: as at the last start
	MaxFiles       int                     // 0 is 256
	Poll           time.Duration           // 0 is 500 ms
	Rescan         time.Duration           // 0 is 10 s
	Linger         time.Duration           // how long a rotated file is watched for late lines; 0 is 10 s
	Report         func(kind, text string) // may be nil
}

const (
	maxKnown    = 4096           // positions of files that are finished
	knownFor    = 30 * 24 * 3600 // seconds they are kept
	readChunk   = 64 << 10
	bufferMax   = wire.MaxLine + readChunk
	readPerPoll = 1 << 20 // bytes of one file before the next one has its turn
)

// Tailer follows files. Run does all the work in one goroutine.
type Tailer struct {
	cfg    Config
	log    *slog.Logger
	files  []*file
	known  map[string]position // by state key: files that are not open
	broken []string            // state keys whose position cannot be read
	next   int                 // number of the next state key
	first  bool                // nothing was known when the agent started
	fresh  bool                // files that Before did not name may be met for the first time
	buf    []byte
	ctx    context.Context // of Run
	warned map[string]bool

	suspects map[string]time.Time // new files that may be copies of followed ones

	Open, Filtered, Lost, Bytes atomic.Int64
}

// file is an open file.
type file struct {
	key      string
	group    *Group
	stream   *lines.Stream
	f        *os.File
	pos      position
	size     int64
	grown    time.Time // when it last grew or changed
	rotated  time.Time // when its path was found to lead elsewhere; zero while it does not
	checked  time.Time // when it was looked at last
	caught   time.Time // when nothing of it was unread last: what is unread now was written later; zero before
	finished bool
}

// New makes a Tailer.
func New(cfg Config) *Tailer {
	cfg.MaxFiles = cmp.Or(cfg.MaxFiles, 256)
	cfg.Poll = cmp.Or(cfg.Poll, 500*time.Millisecond)
	cfg.Rescan = cmp.Or(cfg.Rescan, 10*time.Second)
	cfg.Linger = cmp.Or(cfg.Linger, 10*time.Second)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Report == nil {
		cfg.Report = func(string, string) {}
	}
	t := &Tailer{
		cfg: cfg, log: cfg.Log, known: map[string]position{}, first: true, fresh: cfg.Before != nil, buf: make([]byte, readChunk),
		warned: map[string]bool{}, suspects: map[string]time.Time{},
	}
	for key, value := range cfg.State {
		if !strings.HasPrefix(key, statePrefix) {
			continue
		}
		t.first = false
		if n, err := strconv.Atoi(key[len(statePrefix):]); err == nil {
			t.next = max(t.next, n+1)
		}
		p, err := decodePosition(value)
		if err != nil {
			t.log.Error("file is read from its beginning", "key", key, "err", err)
			t.broken = append(t.broken, key)
			continue
		}
		t.known[key] = p
	}
	return t
}

// Run follows the files until ctx ends. It returns an error only when lines cannot be spooled any more.
func (t *Tailer) Run(ctx context.Context) error {
	defer func() {
		for _, f := range t.files {
			f.f.Close()
		}
	}()
	t.ctx = ctx
	for _, key := range t.broken {
		t.note(lines.Mark{Key: key})
	}
	t.resume()
	poll := time.NewTicker(t.cfg.Poll)
	defer poll.Stop()
	var scanned time.Time
	for {
		if now := time.Now(); now.Sub(scanned) >= t.cfg.Rescan {
			scanned = now
			t.checkPaths(now)
			t.scan()
			t.first, t.fresh = false, false
		}
		if err := t.pollAll(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-poll.C:
		}
	}
}

var errNotRegular = errors.New("no regular file")

func openRegular(path string) (*os.File, os.FileInfo, error) {
	// Looked at before it is opened: opening a named pipe would wait for its writer.
	if fi, err := os.Stat(path); err != nil {
		return nil, nil, err
	} else if !fi.Mode().IsRegular() {
		return nil, nil, errNotRegular
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = errNotRegular
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, fi, nil
}

// Within reports whether a path is one of the places or lies below one.
func Within(name string, places []string) bool {
	name = filepath.Clean(name)
	return slices.ContainsFunc(places, func(place string) bool {
		place = filepath.Clean(place)
		return name == place || strings.HasPrefix(name, strings.TrimSuffix(place, "/")+"/")
	})
}

// errOutside says that a link leads to where the group may not read.
var errOutside = errors.New("it lies outside of the places that may be read (remote.files in agent.yaml)")

// open opens a file for reading as the group may: where all links are followed it must lie within the group's places.
func (g *Group) open(path string) (*os.File, os.FileInfo, error) {
	if g.Within == nil {
		return openRegular(path)
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, nil, err
	}
	for _, p := range g.Within {
		if place, err := filepath.EvalSymlinks(p); err == nil && Within(real, []string{place}) {
			return openBelow(place, real)
		}
	}
	return nil, nil, errOutside
}

// openBelow opens a file that is the place or lies below it; neither has a link in it. The way from the place on is gone
// so that a link that was put into it meanwhile, for the file or for a folder above it, leads to nothing outside.
func openBelow(place, name string) (*os.File, os.FileInfo, error) {
	if name == place {
		place = filepath.Dir(place)
	}
	rel, err := filepath.Rel(place, name)
	if err != nil {
		return nil, nil, err
	}
	root, err := os.OpenRoot(place)
	if err != nil {
		return nil, nil, err
	}
	defer root.Close()
	if at, err := root.Lstat(rel); err != nil {
		return nil, nil, err
	} else if !at.Mode().IsRegular() { // opening a named pipe would wait for its writer
		return nil, nil, errNotRegular
	}
	f, err := root.Open(rel)
	if err != nil {
		return nil, nil, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = errNotRegular
	}
	if err == nil {
		// A place may be a single file: a link that took its name leads to another.
		if at, lerr := root.Lstat(rel); lerr != nil || !os.SameFile(at, fi) {
			err = errOutside
		}
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, fi, nil
}

func (t *Tailer) groupOf(path string) *Group { return groupOf(t.cfg.Groups, path) }

func groupOf(groups []Group, path string) *Group {
	for i := range groups {
		g := &groups[i]
		if matchesAny(g.Include, path) && !matchesAny(g.Exclude, path) {
			return g
		}
	}
	return nil
}

func matchesAny(globs []string, path string) bool {
	for _, g := range globs {
		if ok, err := doublestar.PathMatch(g, path); err == nil && ok {
			return true
		}
		if ok, err := doublestar.Match(g, filepath.Base(path)); err == nil && ok && !strings.Contains(g, "/") {
			return true
		}
	}
	return false
}

// track begins to follow an open file.
func (t *Tailer) track(key string, g *Group, f *os.File, p position, fi os.FileInfo) *file {
	delete(t.known, key)
	nf := &file{key: key, group: g, stream: t.streamOf(g, p.Stream), f: f, pos: p, size: -1}
	nf.grown, nf.checked = time.Now(), time.Now()
	t.files = append(t.files, nf)
	t.Open.Store(int64(len(t.files)))
	return nf
}

// streamOf makes the stream of a file. Its name may be any bytes; the label that shows it may not.
func (t *Tailer) streamOf(g *Group, path string) *lines.Stream {
	own := wire.LabelsFromMap(map[string]string{"source": "file", "file": lines.Valid(path, wire.MaxLabelValue)})
	all := own
	for _, l := range g.Labels {
		all = all.With(l.Name, l.Value)
	}
	s, err := lines.NewStream(wire.StreamLog, all)
	if err != nil {
		t.warnOnce("labels "+path, "labels of a group of files are left out: they cannot be sent", "path", path, "err", err)
		if s, err = lines.NewStream(wire.StreamLog, own); err != nil {
			panic(fmt.Sprintf("tail: labels made here are not valid: %v", err))
		}
	}
	return s
}

// scan looks for new files and forgets old positions.
func (t *Tailer) scan() {
	for i := range t.cfg.Groups {
		g := &t.cfg.Groups[i]
		for _, glob := range g.Include {
			paths, err := doublestar.FilepathGlob(glob)
			if err != nil {
				t.warnOnce("glob "+glob, "files cannot be listed", "glob", glob, "err", err)
				continue
			}
			for _, path := range paths {
				if compressed(path) || t.groupOf(path) != g {
					continue
				}
				t.discover(path, g)
			}
		}
	}
	t.forgetOld()
}

func (t *Tailer) warnOnce(key, msg string, args ...any) {
	if t.warned[key] {
		return
	}
	if len(t.warned) > 1000 {
		clear(t.warned)
	}
	t.warned[key] = true
	t.log.Warn(msg, args...)
}

func (t *Tailer) forgetOld() {
	old := time.Now().Unix() - knownFor
	keys := make([]string, 0, len(t.known))
	for key := range t.known {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b string) int { return cmp.Compare(t.known[a].Seen, t.known[b].Seen) })
	for i, key := range keys {
		if t.known[key].Seen < old || len(keys)-i > maxKnown {
			delete(t.known, key)
			t.note(lines.Mark{Key: key})
		}
	}
}

// discover begins to follow the file at path unless it is followed already. A file that was read before goes on
// where it stood.
func (t *Tailer) discover(path string, g *Group) {
	fi, err := os.Stat(path)
	if err != nil || !fi.Mode().IsRegular() {
		return
	}
	for _, f := range t.files {
		if f.pos.Key != (fileKey{}) && f.pos.sameFile(fi) || f.pos.Key == (fileKey{}) && f.pos.Path == path {
			return
		}
	}
	if len(t.files) >= t.cfg.MaxFiles {
		t.warnOnce("limit", "more log files than may be open: some are not read", "limit", t.cfg.MaxFiles, "path", path)
		return
	}
	f, fi, err := g.open(path)
	if err != nil {
		t.warnOnce("open "+path, "log file cannot be opened", "path", path, "err", err)
		return
	}
	for key, p := range t.known {
		if p.sameFile(fi) && (p.Key != (fileKey{}) || p.Path == path) && fi.Size() >= p.Off && p.Print.matches(f) {
			if p.Done && fi.Size() == p.Off {
				f.Close() // read to its end before it was rotated
				return
			}
			t.track(key, g, f, p, fi)
			return
		}
	}
	if t.looksLikeCopy(path, f) {
		f.Close()
		return
	}
	t.begin(path, g, f, fi)
}

// copyGrace is how long a file that begins like its neighbour is not begun: should the neighbour be truncated,
// it was a copy.
const copyGrace = time.Minute

// looksLikeCopy reports whether the new file at path may be the copy that copy-and-truncate is making of a file
// that is followed: it lies beside it, has a similar name and the same beginning, of which little or nothing may be
// written yet.
func (t *Tailer) looksLikeCopy(path string, f *os.File) bool {
	dir, base := filepath.Split(path)
	for _, other := range t.files {
		odir, obase := filepath.Split(other.pos.Path)
		stem := strings.TrimSuffix(obase, filepath.Ext(obase))
		if path == other.pos.Path || path == other.pos.Stream { // the next generation of a file that was renamed
			continue
		}
		if odir != dir || !strings.HasPrefix(base, stem) || other.pos.Print.N < 64 || !mayBegin(f, other) {
			continue
		}
		since, seen := t.suspects[path]
		if !seen {
			t.suspects[path] = time.Now()
			return true
		}
		if time.Since(since) < copyGrace {
			return true
		}
	}
	delete(t.suspects, path)
	return false
}

// mayBegin reports whether f begins as the followed file does, or will when it goes on so.
func mayBegin(f *os.File, followed *file) bool {
	p, err := printOf(f, followed.pos.Print.N)
	if err != nil || p.N == followed.pos.Print.N {
		return err == nil && p == followed.pos.Print
	}
	q, err := printOf(followed.f, p.N)
	return err == nil && p == q
}

// begin follows a file that was never seen.
func (t *Tailer) begin(path string, g *Group, f *os.File, fi os.FileInfo) {
	head := t.buf[:min(len(t.buf), 512)]
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		f.Close()
		return
	}
	if slices.Contains(head[:n], 0) {
		t.warnOnce("binary "+path, "file is left out: it is not text", "path", path)
		f.Close()
		return
	}
	p := position{identity: &identity{Path: path, Stream: path, Key: keyOf(fi), Seen: time.Now().Unix()}}
	met := t.first || t.fresh && groupOf(t.cfg.Before, path) == nil
	if met && fi.Size() > t.cfg.InitialBacklog {
		p.Off = t.lineAfter(f, fi.Size()-t.cfg.InitialBacklog, fi.Size())
	}
	key := t.newKey()
	nf := t.track(key, g, f, p, fi)
	if err := t.extendPrint(nf, fi.Size()); err != nil {
		t.log.Warn("log file cannot be read", "path", path, "err", err)
	}
	t.note(lines.Mark{Key: key, Position: nf.pos})
}

func (t *Tailer) note(m lines.Mark) { t.cfg.Batcher.Note(t.ctx, m) }

func (t *Tailer) newKey() string {
	key := statePrefix + strconv.Itoa(t.next)
	t.next++
	return key
}

// lineAfter returns where the first line begins at or behind off.
func (t *Tailer) lineAfter(f *os.File, off, size int64) int64 {
	if off <= 0 {
		return 0
	}
	for off < size {
		n, err := f.ReadAt(t.buf[:readChunk], off-1)
		if n == 0 || err != nil && !errors.Is(err, io.EOF) {
			return size
		}
		if i := slices.Index(t.buf[:n], '\n'); i >= 0 {
			return off + int64(i)
		}
		off += int64(n)
	}
	return size
}
