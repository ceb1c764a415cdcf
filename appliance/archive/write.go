package archive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"unsafe"

	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/xxh3"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/backup/target"
	"github.com/triward/triward/logstore"
	"github.com/triward/triward/raftstate/meta"
)

// Source is the log store that lines are read from; logstore.Store is one.
type Source interface {
	Admit(ctx context.Context, bytes int64) (admitted context.Context, done func(), err error)
	DayStreams(ctx context.Context, day int64, fn func(kind wire.StreamKind, labels wire.Labels, bytes int64) error) error
	EachOf(ctx context.Context, span logstore.Span, pick func(kind wire.StreamKind, label func(string) string) bool, fn func(*logstore.Row) error) error
}

// Bounds of what a writer holds, in bytes of lines as JSON: of one part, and of all that is read in one go. Parts begin and end
// where halves of the day do, of halves of halves, until one fits: so they do not depend on who reads them in what order.
const (
	partBytes = 32 << 20
	heldBytes = 64 << 20
)

const (
	tagLen     = 8
	partSuffix = ".jsonl.zst"
)

// Tag tells the files of one incarnation of a cluster from those of others in the same place.
func Tag(cluster, incarnation string) string {
	return fmt.Sprintf("%016x", xxh3.HashString(cluster+"\x00"+incarnation))[:tagLen]
}

// Writer writes days.
type Writer struct {
	Store Source
	To    target.Target
	// Cluster is its id; Tag is that of its incarnation.
	Cluster, Tag string
	Node         string
	Program      string // version
	Written      int64  // milliseconds since 1970
	// Pace is told of bytes read and may wait; Progress of lines done, also of those that are read twice. Both may be nil.
	Pace     func(ctx context.Context, bytes int) error
	Progress func(lines int64)

	// Smaller bounds, of tests.
	part, held int
}

// group is what becomes one File.
type group struct {
	Path
	host  string
	bytes int64 // about
	out   File

	lines []held
	size  int
}

// held is a line that was read.
type held struct {
	t    int64
	pos  logstore.Position
	sum  meta.Sum
	kind wire.StreamKind
	json []byte
}

// slice is a piece of a day.
type slice struct {
	span logstore.Span
	ord  [2]uint64 // ord[0] <= Position.Ord < ord[1]
}

// split halves a slice; ok is false when it is one line.
func (s slice) split() (a, b slice, ok bool) {
	a, b = s, s
	switch {
	case s.span.To-s.span.From > 1:
		mid := s.span.From + (s.span.To-s.span.From)/2
		a.span.To, b.span.From = mid, mid
	case s.span.Through-s.span.Above > 1:
		mid := s.span.Above + (s.span.Through-s.span.Above)/2
		a.span.Through, b.span.Above = mid, mid
	case s.ord[1]-s.ord[0] > 1:
		mid := s.ord[0] + (s.ord[1]-s.ord[0])/2
		a.ord[1], b.ord[0] = mid, mid
	default:
		return s, s, false
	}
	return a, b, true
}

func (s slice) holds(l *held) bool {
	return l.t >= s.span.From && l.t < s.span.To && l.pos.Index > s.span.Above && l.pos.Index <= s.span.Through &&
		uint64(l.pos.Ord) >= s.ord[0] && uint64(l.pos.Ord) < s.ord[1]
}

// writing is a day under way.
type writing struct {
	*Writer
	name   Name
	day    int64
	zip    *zstd.Encoder
	buf    []byte
	totals Totals
	index  Day
	sink   func(ctx context.Context, g *group, s slice, lines []held, size int) error // takes sorted lines
}

// Day writes the lines of a UTC day that entries behind from up to through brought, and returns what it wrote. before is what
// the chain up to from has; with it there must be what want says, which the cluster knows as of the entry through. Where
// something was taken out of the store since before was written, only the store as a whole is compared with want. The store
// must hold the log up to through.
func (w *Writer) Day(ctx context.Context, day int64, from, through uint64, before, want Totals) (*Day, error) {
	zip, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(true),
		zstd.WithWindowSize(maxWindow))
	if err != nil {
		return nil, fmt.Errorf("archive: %w", err)
	}
	d := &writing{Writer: w, day: day, zip: zip, name: Name{DateOf(day), w.Tag, from, through}}
	d.index = Day{
		Version: Version, Cluster: w.Cluster, Tag: w.Tag, Date: d.name.Date, From: from, Through: through, Node: w.Node, Program: w.Program,
		Written: w.Written, Agents: []AgentEntry{},
	}
	d.sink = d.emit
	if d.part == 0 {
		d.part, d.held = partBytes, heldBytes
	}
	groups, err := d.groups(ctx)
	if err != nil {
		return nil, fmt.Errorf("archive %s: %w", d.name.Date, err)
	}
	for len(groups) > 0 {
		n := d.agents(groups)
		if err := d.write(ctx, groups[:n]); err != nil {
			return nil, fmt.Errorf("archive %s: %w", d.name.Date, err)
		}
		groups = groups[n:]
	}
	d.index.Totals, d.index.Upto = d.totals, before.Plus(d.totals)
	if d.index.Upto != want {
		if err := d.compare(ctx, want); err != nil {
			return nil, fmt.Errorf("archive %s: %w", d.name.Date, err)
		}
	}
	body, err := seal(&d.index)
	if err == nil {
		err = d.close(ctx, body)
	}
	if err != nil {
		return nil, fmt.Errorf("archive %s: %w", d.name.Date, err)
	}
	return &d.index, nil
}

// groups lists what there may be of the day, in order.
func (d *writing) groups(ctx context.Context) ([]*group, error) {
	found := map[Path]*group{}
	err := d.Store.DayStreams(ctx, d.day, func(kind wire.StreamKind, labels wire.Labels, bytes int64) error {
		p := PathOf(kind, labels.Get)
		g := found[p]
		if g == nil {
			g = &group{Path: p}
			g.out = File{Type: p.Type, File: p.File, Dir: Escape(p.Type) + "/" + Escape(p.File), Parts: []Part{}}
			found[p] = g
		}
		g.bytes += bytes
		if host := labels.Get("host"); g.host == "" || host != "" && host < g.host {
			g.host = host
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	out := make([]*group, 0, len(found))
	for _, g := range found {
		out = append(out, g)
	}
	slices.SortFunc(out, func(a, b *group) int { return a.Compare(b.Path) })
	return out, nil
}

// agents is how many groups, of whole agents, are written together: as many as are likely to fit.
func (d *writing) agents(groups []*group) int {
	var bytes int64
	fit := 0
	for i, g := range groups {
		if i > 0 && g.Agent != groups[i-1].Agent {
			if bytes > int64(d.held)/2 {
				return max(fit, 1) // fit is the end of an agent
			}
		}
		bytes += g.bytes
		if i+1 == len(groups) || groups[i+1].Agent != g.Agent {
			fit = i + 1
		}
	}
	return len(groups)
}

// write writes the parts of some agents, and then their manifests.
func (d *writing) write(ctx context.Context, groups []*group) error {
	all := slice{
		logstore.Span{From: d.day * logstore.DayNs, To: (d.day + 1) * logstore.DayNs, Above: d.name.From, Through: d.name.Through},
		[2]uint64{0, math.MaxUint32 + 1},
	}
	if err := d.parts(ctx, groups, all); err != nil {
		return err
	}
	for len(groups) > 0 {
		n := 1
		for n < len(groups) && groups[n].Agent == groups[0].Agent {
			n++
		}
		if err := d.agent(ctx, groups[:n]); err != nil {
			return err
		}
		groups = groups[n:]
	}
	return nil
}

func (d *writing) agent(ctx context.Context, groups []*group) error {
	m := Agent{
		Version: Version, Cluster: d.Cluster, Tag: d.Tag, Date: d.name.Date, Agent: groups[0].Agent, From: d.name.From, Through: d.name.Through,
		Files: []File{},
	}
	e := AgentEntry{Agent: m.Agent, Dir: Escape(m.Agent)}
	for _, g := range groups {
		if m.Host == "" || g.host != "" && g.host < m.Host {
			m.Host = g.host
		}
		if len(g.out.Parts) == 0 {
			continue
		}
		m.Files = append(m.Files, g.out)
		m.add(g.out.Total)
		e.Raw += g.out.Raw
		for _, p := range g.out.Parts {
			e.Stored += p.Stored
		}
	}
	if len(m.Files) == 0 {
		return nil
	}
	e.Host, e.Files, e.Total = m.Host, len(m.Files), m.Total
	body, err := seal(&m)
	if err != nil {
		return err
	}
	e.Size, e.CRC = int64(len(body)), checksum(body)
	d.index.Agents = append(d.index.Agents, e)
	return d.same(ctx, d.To.Below(folderLogs).Below(e.Dir).Below(d.name.Date), "day-"+d.name.mark()+".json", body)
}

// errTooMuch says that what was to be read in one go is too much to hold.
var errTooMuch = errors.New("more than is held at once")

// parts reads the lines of some groups within a slice and writes them, in pieces where they are too many.
func (d *writing) parts(ctx context.Context, groups []*group, s slice) error {
	err := d.collect(ctx, groups, s)
	if errors.Is(err, errTooMuch) {
		if half := len(groups) / 2; half > 0 {
			if err := d.parts(ctx, groups[:half], s); err != nil {
				return err
			}
			return d.parts(ctx, groups[half:], s)
		}
		a, b, ok := s.split()
		if !ok {
			return fmt.Errorf("a single line is %w", err)
		}
		if err := d.parts(ctx, groups, a); err != nil {
			return err
		}
		return d.parts(ctx, groups, b)
	}
	for _, g := range groups {
		if err == nil {
			slices.SortFunc(g.lines, func(a, b held) int { return cmp.Or(cmp.Compare(a.t, b.t), a.pos.Compare(b.pos)) })
			err = d.sink(ctx, g, s, g.lines, g.size)
		}
		g.lines, g.size = nil, 0
	}
	return err
}

// collect reads the lines of the groups within a slice.
func (d *writing) collect(ctx context.Context, groups []*group, s slice) error {
	byPath := make(map[Path]*group, len(groups))
	for _, g := range groups {
		byPath[g.Path] = g
	}
	var out lineWriter
	var of wire.Labels
	var kind wire.StreamKind
	var g *group
	var sums hasher
	total, read := 0, 0
	pick := func(kind wire.StreamKind, label func(string) string) bool { return byPath[PathOf(kind, label)] != nil }
	err := d.Store.EachOf(ctx, s.span, pick, func(r *logstore.Row) error {
		if uint64(r.Ord) < s.ord[0] || uint64(r.Ord) >= s.ord[1] {
			return nil
		}
		if g == nil || r.Kind != kind || len(r.Labels) != len(of) || unsafe.SliceData(r.Labels) != unsafe.SliceData(of) {
			kind, of = r.Kind, r.Labels
			g = byPath[PathOf(r.Kind, r.Labels.Get)]
		}
		l := held{t: r.T, pos: r.Position, kind: r.Kind, sum: sums.sum(r)}
		d.buf = out.append(d.buf[:0], r)
		l.json = slices.Clone(d.buf)
		n := len(l.json) + int(unsafe.Sizeof(l))
		g.lines, g.size = append(g.lines, l), g.size+n
		if total += n; total > d.held {
			return errTooMuch
		}
		if read += n; read > 1<<20 {
			n := read
			read = 0
			return d.pace(ctx, n)
		}
		return nil
	})
	if err != nil {
		for _, g := range groups {
			g.lines, g.size = nil, 0
		}
		return err
	}
	return d.pace(ctx, read)
}

func (d *writing) pace(ctx context.Context, n int) error {
	if d.Pace == nil || n == 0 {
		return ctx.Err()
	}
	return d.Pace(ctx, n)
}

// emit writes lines of a group, sorted, as one part or as parts of the halves of the slice.
func (d *writing) emit(ctx context.Context, g *group, s slice, lines []held, size int) error {
	if len(lines) == 0 {
		return nil
	}
	if a, b, ok := s.split(); ok && size > d.part {
		at, before := 0, 0
		for at < len(lines) && a.holds(&lines[at]) {
			before += len(lines[at].json) + int(unsafe.Sizeof(lines[at]))
			at++
		}
		if err := d.emit(ctx, g, a, lines[:at], before); err != nil {
			return err
		}
		return d.emit(ctx, g, b, lines[at:], size-before)
	}
	raw := make([]byte, 0, size)
	p := Part{MinT: lines[0].t, MaxT: lines[len(lines)-1].t}
	p.Name = fmt.Sprintf("%s-%s-%04d%s", d.name.mark(), g.id(), len(g.out.Parts), partSuffix)
	var totals Totals
	for i := range lines {
		raw = append(raw, lines[i].json...)
		one := Total{1, Sum{lines[i].sum}}
		p.add(one)
		if lines[i].kind == wire.StreamEvent {
			totals.Events.add(one)
		} else {
			totals.Logs.add(one)
		}
	}
	p.Raw = int64(len(raw))
	packed := d.zip.EncodeAll(raw, nil)
	to := d.To.Below(folderLogs).Below(Escape(g.Agent)).Below(d.name.Date).Below(Escape(g.Type)).Below(Escape(g.File))
	packed, err := d.samePart(ctx, to, &p, raw, packed)
	if err != nil {
		return err
	}
	p.Stored, p.CRC = int64(len(packed)), checksum(packed)
	g.out.Parts = append(g.out.Parts, p)
	g.out.add(p.Total)
	g.out.Raw += p.Raw
	d.totals = d.totals.Plus(totals)
	if d.Progress != nil {
		d.Progress(d.totals.Lines())
	}
	return nil
}

// put stores an object.
func put(ctx context.Context, to target.Target, name string, body []byte) error {
	_, err := to.Put(ctx, name, int64(len(body)), func(out io.Writer) error {
		_, err := out.Write(body)
		return err
	})
	return err
}

// ErrTaken says that a name is taken by something else than what is to be written: an earlier attempt at the same entries saw
// other lines. Another range of entries gets other names.
var ErrTaken = errors.New("what an earlier attempt left is not what is there now")

// same stores an object, or makes sure that what has its name is the same.
func (d *writing) same(ctx context.Context, to target.Target, name string, body []byte) error {
	err := put(ctx, to, name, body)
	if !errors.Is(err, target.ErrExists) {
		return err
	}
	there, err := readAll(ctx, to, name, maxManifest)
	if err != nil {
		return err
	}
	if !slices.Equal(there, body) {
		return fmt.Errorf("%s in %s: %w", name, to, ErrTaken)
	}
	return nil
}

// samePart is same for a part, which another version of the program may have compressed otherwise: what is there counts.
func (d *writing) samePart(ctx context.Context, to target.Target, p *Part, raw, packed []byte) ([]byte, error) {
	err := put(ctx, to, p.Name, packed)
	if !errors.Is(err, target.ErrExists) {
		return packed, err
	}
	there, err := readAll(ctx, to, p.Name, int64(len(raw))+1<<20)
	if err != nil || slices.Equal(there, packed) {
		return there, err
	}
	got, err := unpack(there, int64(len(raw)))
	if err != nil || !slices.Equal(got, raw) {
		return nil, fmt.Errorf("%s in %s: %w (%v)", p.Name, to, ErrTaken, err)
	}
	return there, nil
}

// compare makes sure that the store has of the day what the cluster accepted up to the entry.
func (d *writing) compare(ctx context.Context, want Totals) error {
	var got Totals
	if d.name.From == 0 {
		got = d.totals
	} else {
		span := logstore.Span{From: d.day * logstore.DayNs, To: (d.day + 1) * logstore.DayNs, Through: d.name.Through}
		var sums hasher
		read := 0
		err := d.Store.EachOf(ctx, span, func(wire.StreamKind, func(string) string) bool { return true }, func(r *logstore.Row) error {
			t := Total{1, Sum{sums.sum(r)}}
			if r.Kind == wire.StreamEvent {
				got.Events.add(t)
			} else {
				got.Logs.add(t)
			}
			if read += len(sums.buf); read > 1<<20 {
				n := read
				read = 0
				return d.pace(ctx, n)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if got != want {
		return fmt.Errorf("%w: it has %d lines and %d events, the cluster %d and %d", ErrDiffers, got.Logs.Lines, got.Events.Lines, want.Logs.Lines, want.Events.Lines)
	}
	return nil
}
