package archive

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/url"
	"slices"
	"strings"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/backup/target"
	"github.com/triward/triward/logstore"
)

// The tree /logs/{agent}/{date}/{type}/{file} shows lines where an operator would look for files. Its pieces are escaped as those
// of the archive are, so that a path of the one is a path of the other.

// Entry is something in the tree.
type Entry struct {
	Name string `json:"name"` // as it is
	Path string `json:"path"` // to ask for it
	Host string `json:"host,omitempty"`
	// Lines and Bytes are of the archive exactly. Of the store Bytes is about what the text takes, without what came in the
	// last minute, and Lines is 0.
	Lines int64 `json:"lines,omitempty"`
	Bytes int64 `json:"bytes"`
}

// Listing is what lies below a path.
type Listing struct {
	Path    string  `json:"path"`
	Of      string  `json:"of"`
	Node    string  `json:"node"`             // that answers
	Target  string  `json:"target,omitempty"` // of the archive
	Entries []Entry `json:"entries"`
	More    bool    `json:"more"` // there are others beyond the bound
}

// Of what a tree is.
const (
	OfStore   = "store"
	OfArchive = "archive"
)

// MaxEntries bounds a listing.
const MaxEntries = 10_000

// listBytes is what listing a path of the store takes at most, beside streams' names: entries, and how large each stream of a day is.
const listBytes = 16 << 20

// place is a path that was asked for: pieces as they are escaped.
type place struct{ pieces []string }

const treeDepth = 4

func parsePlace(path string) (p place, err error) {
	trimmed := strings.Trim(path, "/")
	if trimmed == folderLogs || trimmed == "" {
		return p, nil
	}
	p.pieces = strings.Split(strings.TrimPrefix(trimmed, folderLogs+"/"), "/")
	if len(p.pieces) > treeDepth {
		return p, fmt.Errorf("%w: path %.200q: want /logs/AGENT/DATE/TYPE/FILE; slashes within a name are written %%2F", ErrInvalid, path)
	}
	for i, s := range p.pieces {
		if s == "" || len(s) > maxPiece+20 {
			return p, fmt.Errorf("%w: path %.200q has an empty or too long piece", ErrInvalid, path)
		}
		// Whoever writes a path by hand may escape other bytes than we do, or fewer.
		if plain, err := url.PathUnescape(s); err == nil && s != noPiece && !strings.Contains(s, "~") {
			p.pieces[i] = Escape(plain)
		}
	}
	if len(p.pieces) > 1 {
		_, err = ParseDate(p.pieces[1])
	}
	return p, err
}

func (p place) String() string {
	return "/" + strings.Join(append([]string{folderLogs}, p.pieces...), "/")
}

// holds reports whether a path of that date lies below.
func (p place) holds(agent, date, typ, file string) bool {
	for i, piece := range []string{agent, date, typ, file}[:len(p.pieces)] {
		if i == 1 && piece != p.pieces[i] || i != 1 && Escape(piece) != p.pieces[i] {
			return false
		}
	}
	return true
}

// listing gathers entries.
type listing struct {
	at  place
	all map[string]*Entry
}

func (l *listing) add(p Path, date, host string, lines, size int64) {
	names := []string{p.Agent, date, p.Type, p.File}
	name := names[len(l.at.pieces)]
	e := l.all[name]
	if e == nil {
		piece := name
		if len(l.at.pieces) != 1 {
			piece = Escape(name)
		}
		e = &Entry{Name: name, Path: l.at.String() + "/" + piece}
		l.all[name] = e
	}
	if len(l.at.pieces) == 0 {
		e.Host = cmp.Or(e.Host, host)
	}
	e.Lines, e.Bytes = e.Lines+lines, e.Bytes+size
}

// Tree lists what lies below a path, of the store or of the archive.
func (s *Service) Tree(ctx context.Context, path, of string) (Listing, error) {
	at, err := parsePlace(path)
	if err != nil {
		return Listing{}, err
	}
	if len(at.pieces) == treeDepth {
		return Listing{}, fmt.Errorf("%w: %s is a file: read it", ErrInvalid, at)
	}
	l := &listing{at: at, all: map[string]*Entry{}}
	out := Listing{Path: at.String(), Of: of, Node: s.cfg.Node, Entries: []Entry{}}
	if of == OfArchive {
		var to target.Target
		if to, err = s.place(); err == nil {
			out.Target = to.String()
			err = s.listArchive(ctx, to, l)
		}
	} else {
		err = s.listStore(ctx, l)
	}
	if err != nil {
		return Listing{}, err
	}
	if len(l.all) == 0 && len(at.pieces) > 0 {
		return Listing{}, fmt.Errorf("%w: nothing lies below %s", ErrNotFound, at)
	}
	for _, e := range l.all {
		out.Entries = append(out.Entries, *e)
	}
	slices.SortFunc(out.Entries, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	if len(out.Entries) > MaxEntries {
		out.Entries, out.More = out.Entries[:MaxEntries], true
	}
	return out, nil
}

// place opens where the policy says that lines are archived.
func (s *Service) place() (target.Target, error) {
	p, _, ok := s.policy()
	if !ok {
		return nil, fmt.Errorf("%w: nothing says where lines are archived: set the policy first", ErrNotFound)
	}
	return s.cfg.Places.Open(&p.Target)
}

func (s *Service) listStore(ctx context.Context, l *listing) error {
	ctx, leave, err := s.cfg.Store.Admit(ctx, listBytes)
	if err != nil {
		return err
	}
	defer leave()
	days := slices.Sorted(maps.Keys(s.cfg.Totals()))
	for _, day := range days {
		date := DateOf(day)
		if len(l.at.pieces) > 1 && l.at.pieces[1] != date {
			continue
		}
		err := s.cfg.Store.DayStreams(ctx, day, func(kind wire.StreamKind, labels wire.Labels, size int64) error {
			if p := PathOf(kind, labels.Get); l.at.holds(p.Agent, date, p.Type, p.File) {
				l.add(p, date, labels.Get("host"), 0, size)
			}
			if len(l.all) > 4*MaxEntries {
				return fmt.Errorf("%w: more than %d entries below %s: ask further down", ErrInvalid, 4*MaxEntries, l.at)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) listArchive(ctx context.Context, to target.Target, l *listing) error {
	prefix := ""
	if len(l.at.pieces) > 1 {
		prefix = l.at.pieces[1]
	}
	names, err := Names(ctx, to, prefix)
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, n := range names {
		if key := n.Date + n.Tag; seen[key] {
			continue
		} else {
			seen[key] = true
		}
		for _, n := range Chain(names, n.Date, n.Tag) {
			d, err := ReadDay(ctx, to, n)
			if err != nil {
				return err
			}
			if err := l.archived(ctx, to, d); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *listing) archived(ctx context.Context, to target.Target, d *Day) error {
	for i := range d.Agents {
		e := &d.Agents[i]
		if len(l.at.pieces) > 0 && Escape(e.Agent) != l.at.pieces[0] {
			continue
		}
		if len(l.at.pieces) < 2 {
			l.add(Path{Agent: e.Agent}, d.Date, e.Host, e.Lines, e.Stored)
			continue
		}
		m, err := ReadAgent(ctx, to, d, e.Agent)
		if err != nil {
			return err
		}
		for j := range m.Files {
			f := &m.Files[j]
			if !l.at.holds(m.Agent, m.Date, f.Type, f.File) {
				continue
			}
			stored := int64(0)
			for _, p := range f.Parts {
				stored += p.Stored
			}
			l.add(Path{m.Agent, f.Type, f.File}, m.Date, "", f.Lines, stored)
		}
	}
	return nil
}

// ErrBusy says that as many files of the archive are being read out as may be at once.
var ErrBusy = errors.New("too many files of the archive are being read out at once")

// Cat writes the lines of a file of the tree in the order of time, those that came late to an archived day behind them: as they
// are, or as JSON. begin is called once there is something to write. A file of the store is admitted as an export is.
func (s *Service) Cat(ctx context.Context, path, of string, asJSON bool, begin func() io.Writer) error {
	at, err := parsePlace(path)
	if err != nil {
		return err
	}
	if len(at.pieces) != treeDepth {
		return fmt.Errorf("%w: %s is no file: want /logs/AGENT/DATE/TYPE/FILE", ErrInvalid, at)
	}
	out := &catWriter{begin: begin, json: asJSON}
	if of == OfArchive {
		err = s.catArchive(ctx, at, out)
	} else {
		err = s.catStore(ctx, at, out)
	}
	if err == nil && out.w == nil {
		err = fmt.Errorf("%w: no lines in %s", ErrNotFound, at)
	}
	return err
}

// catWriter writes lines.
type catWriter struct {
	begin func() io.Writer
	w     io.Writer
	json  bool
	buf   []byte
	in    lineReader
	out   lineWriter
}

func (c *catWriter) write(b []byte) error {
	if c.w == nil {
		c.w = c.begin()
	}
	_, err := c.w.Write(b)
	return err
}

// row writes a line that was decoded.
func (c *catWriter) row(r *logstore.Row) error {
	if c.json {
		c.buf = c.out.append(c.buf[:0], r)
	} else {
		c.buf = append(append(c.buf[:0], r.Text...), '\n')
	}
	return c.write(c.buf)
}

// lines writes lines that are JSON.
func (c *catWriter) lines(all []held) error {
	var chunk bytes.Buffer
	for i := range all {
		if c.json {
			chunk.Write(all[i].json)
		} else {
			var r logstore.Row
			if err := c.in.read(bytes.TrimSuffix(all[i].json, []byte{'\n'}), &r); err != nil {
				return err
			}
			chunk.Write(r.Text)
			chunk.WriteByte('\n')
		}
		if chunk.Len() > 64<<10 || i+1 == len(all) {
			if err := c.write(chunk.Bytes()); err != nil {
				return err
			}
			chunk.Reset()
		}
	}
	return nil
}

// catHeld bounds what reading a file out of the store holds.
const catHeld = 16 << 20

func (s *Service) catStore(ctx context.Context, at place, out *catWriter) error {
	day, err := ParseDate(at.pieces[1])
	if err != nil {
		return err
	}
	ctx, leave, err := s.cfg.Store.Admit(logstore.InLane(ctx, logstore.LaneExport), logstore.WalkBytes)
	if err != nil {
		return err
	}
	defer leave()
	d := &writing{Writer: &Writer{Store: s.cfg.Store, held: catHeld, part: math.MaxInt}, day: day}
	groups, err := d.groups(ctx)
	if err != nil {
		return err
	}
	groups = slices.DeleteFunc(groups, func(g *group) bool { return !at.holds(g.Agent, at.pieces[1], g.Type, g.File) })
	d.sink = func(_ context.Context, _ *group, _ slice, lines []held, _ int) error { return out.lines(lines) }
	all := slice{
		logstore.Span{From: day * logstore.DayNs, To: (day + 1) * logstore.DayNs, Through: math.MaxUint64}, [2]uint64{0, math.MaxUint32 + 1},
	}
	return d.parts(ctx, groups, all)
}

func (s *Service) catArchive(ctx context.Context, at place, out *catWriter) error {
	select {
	case s.busy <- struct{}{}:
		defer func() { <-s.busy }()
	default:
		return ErrBusy
	}
	to, err := s.place()
	if err != nil {
		return err
	}
	chain, err := find(ctx, to, at.pieces[1], "", s.tag)
	if err != nil {
		return err
	}
	for _, n := range chain {
		d, err := ReadDay(ctx, to, n)
		if err != nil {
			return err
		}
		for i := range d.Agents {
			if d.Agents[i].Dir != at.pieces[0] {
				continue
			}
			m, err := ReadAgent(ctx, to, d, d.Agents[i].Agent)
			if err != nil {
				return err
			}
			for j := range m.Files {
				f := &m.Files[j]
				if !at.holds(m.Agent, m.Date, f.Type, f.File) {
					continue
				}
				for k := range f.Parts {
					if err := ReadPart(ctx, to, m, f, &f.Parts[k], out.row); err != nil {
						return err
					}
				}
			}
		}
	}
	return nil
}

// Import brings a day of the archive back into a reading room of this node.
func (s *Service) Import(ctx context.Context, rooms *Rooms, ask Ask) (Room, error) {
	to, err := s.place()
	if err != nil {
		return Room{}, err
	}
	return rooms.Import(ctx, to, s.tag, ask)
}

// ParseAsk reads AGENT/DATE or DATE, as the tree has them.
func ParseAsk(text string) (ask Ask, err error) {
	p, err := parsePlace(text)
	switch {
	case len(p.pieces) == 1:
		ask.Date, ask.All = p.pieces[0], true
	case err != nil:
		return ask, err
	case len(p.pieces) == 2:
		ask.Agent, ask.Date = p.pieces[0], p.pieces[1]
	default:
		return ask, fmt.Errorf("%w: %.200q: want AGENT/DATE, or DATE for all agents", ErrInvalid, text)
	}
	_, err = ParseDate(ask.Date)
	return ask, err
}
