package archive

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/backup/target"
	"github.com/triward/triward/logstore"
	"github.com/triward/triward/raftstate/meta"
)

const testDay = int64(20000)

// hostile are texts that labels, fields and lines may have.
var hostile = []string{
	"../../x", "/etc/passwd", ".", "..", "-", "~", "%2F", "a/b", "a%2Fb", "A", "a", "\x00", "con\nnew\rline\t\"quoted\" \\", "磁盘 空间",
	strings.Repeat("long/", 300), strings.Repeat("long/", 300) + "x", ".hidden", "day-x.json", "<script>", "\u2028", "\x7f", "\ufffd",
}

// corpus is a store with lines of some days, and what it accepted.
type corpus struct {
	t     testing.TB
	rng   *rand.Rand
	store *logstore.Store
	index uint64
	sums  map[int64]Totals
}

func newStore(t testing.TB, dir string) *logstore.Store {
	t.Helper()
	s, err := logstore.New(logstore.Options{Manual: true, CacheBytes: 1 << 20, MemTableBytes: 1 << 20})
	if err == nil {
		err = s.Open(dir)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func newCorpus(t testing.TB, seed uint64) *corpus {
	return &corpus{t: t, rng: rand.New(rand.NewPCG(seed, 1)), store: newStore(t, filepath.Join(t.TempDir(), "s")), sums: map[int64]Totals{}}
}

func (c *corpus) pick() string { return hostile[c.rng.IntN(len(hostile))] }

func (c *corpus) line(day int64) wire.LogLine {
	l := wire.LogLine{T: day*logstore.DayNs + c.rng.Int64N(logstore.DayNs), Severity: wire.Severity(c.rng.IntN(7)), Text: []byte(c.pick())}
	switch c.rng.IntN(6) {
	case 0:
		l.T -= l.T % (6 * 3600e9) // many equal times
	case 1:
		l.Text = append(l.Text, 0xff, 0xfe, byte(c.rng.IntN(256)))
	case 2:
		l.Fields = []wire.Label{{Name: "a", Value: c.pick()}, {Name: "b", Value: ""}}
	case 3:
		l.Fields = []wire.Label{{Name: "b", Value: "\xff"}, {Name: "a", Value: "1"}, {Name: "a", Value: "2"}}
	case 4:
		l.Text = nil
	}
	return l
}

// apply adds entries with lines of the days.
func (c *corpus) apply(entries int, days ...int64) {
	c.t.Helper()
	for range entries {
		c.index++
		var b wire.LogBatch
		for range 1 + c.rng.IntN(4) {
			m := map[string]string{"host": fmt.Sprintf("h%d", c.rng.IntN(3))}
			if c.rng.IntN(4) > 0 {
				m["agent"] = hostile[c.rng.IntN(4)]
				m["file"] = c.pick()
			}
			if c.rng.IntN(3) > 0 {
				m["source"] = []string{"file", "journal", "events", "../.."}[c.rng.IntN(4)]
			}
			st := wire.LogStream{Kind: wire.StreamLog, Labels: wire.LabelsFromMap(m)}
			if c.rng.IntN(4) == 0 {
				st.Kind = wire.StreamEvent
			}
			for range c.rng.IntN(12) {
				day := days[c.rng.IntN(len(days))]
				l := c.line(day)
				st.Lines = append(st.Lines, l)
				sum, _ := meta.HashLine(meta.HashStream(st.Kind, st.Labels), &l, nil)
				t := c.sums[day]
				if st.Kind == wire.StreamEvent {
					t.Events.add(Total{1, Sum{sum}})
				} else {
					t.Logs.add(Total{1, Sum{sum}})
				}
				c.sums[day] = t
			}
			b.Streams = append(b.Streams, st)
		}
		if err := c.store.ApplyLogs(c.index, []wire.LogEntry{{Index: c.index, Batches: []wire.AcceptedLogs{{Batch: &b}}}}); err != nil {
			c.t.Fatal(err)
		}
	}
	if c.rng.IntN(2) == 0 {
		if err := c.store.Work(c.t.Context(), true); err != nil {
			c.t.Fatal(err)
		}
	}
}

func (c *corpus) writer(to target.Target) *Writer {
	return &Writer{Store: c.store, To: to, Cluster: "c", Tag: Tag("c", "1"), Node: "n1", Program: "v0", part: 2 << 10, held: 5 << 10}
}

func key(r *logstore.Row) string {
	return fmt.Sprintf("%020d %s %d %d %q %q %q", r.T, r.Position, r.Kind, r.Severity, r.Labels, r.Fields, r.Text)
}

func (c *corpus) lines(day int64) (out []string) {
	c.t.Helper()
	err := c.store.Each(c.t.Context(), day*logstore.DayNs, (day+1)*logstore.DayNs, func(r *logstore.Row) error {
		out = append(out, key(r))
		return nil
	})
	if err != nil {
		c.t.Fatal(err)
	}
	slices.Sort(out)
	return out
}

// readDay reads what the chain of a day has.
func readDay(t testing.TB, from target.Target, day int64, tag string, most ...int64) (out []string) {
	t.Helper()
	names, err := Names(t.Context(), from, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range Chain(names, DateOf(day), tag) {
		d, err := ReadDay(t.Context(), from, n)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range d.Agents {
			m, err := ReadAgent(t.Context(), from, d, e.Agent)
			if err != nil {
				t.Fatal(err)
			}
			for i := range m.Files {
				f := &m.Files[i]
				last := int64(0)
				for j := range f.Parts {
					p := &f.Parts[j]
					if len(most) > 0 && p.Raw > most[0] && p.Lines > 1 {
						t.Errorf("part of %d bytes", p.Raw)
					}
					err := ReadPart(t.Context(), from, m, f, p, func(r *logstore.Row) error {
						if r.T < last || r.T < p.MinT || r.T > p.MaxT {
							t.Errorf("time %d is out of order", r.T)
						}
						if got := PathOf(r.Kind, r.Labels.Get); got != (Path{m.Agent, f.Type, f.File}) {
							t.Errorf("line of %v lies in that of %v", got, f.Dir)
						}
						last = r.T
						out = append(out, key(r))
						return nil
					})
					if err != nil {
						t.Fatal(err)
					}
				}
			}
		}
	}
	slices.Sort(out)
	return out
}

func equal(t testing.TB, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("%s: %d lines, want %d", what, len(got), len(want))
	}
}

// TestArchivedDayIsWhatTheStoreHas: hostile names, bytes and times come back as they were; late lines are added; nothing of
// another day or behind the entry comes in.
func TestArchivedDayIsWhatTheStoreHas(t *testing.T) {
	for seed := range uint64(4) {
		c := newCorpus(t, seed)
		dir := t.TempDir()
		to := &target.Folder{Dir: dir}
		c.apply(40, testDay, testDay+1)
		w := c.writer(to)
		first, err := w.Day(t.Context(), testDay, 0, c.index, Totals{}, c.sums[testDay])
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "first", readDay(t, to, testDay, w.Tag, 2<<10), c.lines(testDay))
		if got := readDay(t, to, testDay+1, w.Tag); len(got) != 0 {
			t.Fatalf("%d lines of the next day", len(got))
		}
		through := c.index
		c.apply(5, testDay)
		second, err := w.Day(t.Context(), testDay, through, c.index, first.Upto, c.sums[testDay])
		if err != nil {
			t.Fatal(err)
		}
		if second.Upto != c.sums[testDay] || second.Totals == first.Totals {
			t.Fatalf("%+v", second)
		}
		equal(t, "second", readDay(t, to, testDay, w.Tag), c.lines(testDay))
		confined(t, dir)
	}
}

// confined makes sure that names of the archive stay within their folders.
func confined(t testing.TB, dir string) {
	t.Helper()
	seen := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		if strings.HasPrefix(e.Name(), ".") && rel != "." || len(e.Name()) > 255 {
			t.Errorf("name %q", rel)
		}
		if n := strings.Count(rel, "/"); !e.IsDir() && n != 1 && n != 3 && n != 5 {
			t.Errorf("%q lies %d deep", rel, n)
		}
		if !e.IsDir() { // also where capital letters are small ones
			low := strings.ToLower(rel)
			if other, ok := seen[low]; ok {
				t.Errorf("%q and %q are one name on some file systems", rel, other)
			}
			seen[low] = rel
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestEscapedPiecesDiffer(t *testing.T) {
	seen := map[string]string{}
	for _, s := range append(slices.Clone(hostile), "", "%", "%2D", "--", "x"+strings.Repeat("y", 500)) {
		e := Escape(s)
		if other, ok := seen[e]; ok {
			t.Errorf("%q and %q are both %q", s, other, e)
		}
		seen[e] = s
		if e == "" || e[0] == '.' || strings.ContainsAny(e, "/\x00") || len(e) > 200 {
			t.Errorf("%q becomes %q", s, e)
		}
	}
}

// failing fails the n-th request, and all that follow as if the process had died then.
type failing struct {
	target.Target
	left *int
	torn bool // it was carried out nevertheless, and only the answer is lost
}

var errInjected = errors.New("injected")

func (f *failing) Below(name string) target.Target {
	return &failing{f.Target.Below(name), f.left, f.torn}
}

func (f *failing) Put(ctx context.Context, name string, expected int64, write func(io.Writer) error) (int64, error) {
	*f.left--
	if *f.left < 0 {
		return 0, errInjected
	}
	if *f.left == 0 {
		if f.torn {
			_, err := f.Target.Put(ctx, name, expected, write)
			return 0, cmp.Or(err, errInjected)
		}
		return f.Target.Put(ctx, name, expected, func(w io.Writer) error {
			var all bytes.Buffer
			if err := write(&all); err != nil {
				return err
			}
			_, err := w.Write(all.Bytes()[:all.Len()/2])
			return cmp.Or(err, errInjected)
		})
	}
	return f.Target.Put(ctx, name, expected, write)
}

// TestUploadThatDiesAnywhere: whatever request of an attempt is its last, nothing is called archived, and the next attempt
// makes the day whole with the same names.
func TestUploadThatDiesAnywhere(t *testing.T) {
	c := newCorpus(t, 9)
	c.apply(2, testDay)
	want := c.lines(testDay)
	for _, torn := range []bool{false, true} {
		for n := 1; ; n++ {
			to := &target.Folder{Dir: t.TempDir()}
			left := n
			_, err := c.writer(&failing{to, &left, torn}).Day(t.Context(), testDay, 0, c.index, Totals{}, c.sums[testDay])
			if err == nil {
				if n < 10 {
					t.Fatalf("only %d requests", n)
				}
				break
			}
			names, lerr := Names(t.Context(), to, "")
			if !errors.Is(err, errInjected) || lerr != nil || len(names) > 0 && !torn {
				t.Fatalf("request %d: %v; %v %v", n, err, names, lerr)
			}
			w := c.writer(to)
			if _, err := w.Day(t.Context(), testDay, 0, c.index, Totals{}, c.sums[testDay]); err != nil {
				t.Fatalf("after request %d: %v", n, err)
			}
			equal(t, fmt.Sprint("after request ", n), readDay(t, to, testDay, w.Tag), want)
		}
	}
}

// TestStoreThatLacksALineIsNotArchived: a day whose lines are not those that the cluster accepted is not called archived.
func TestStoreThatLacksALineIsNotArchived(t *testing.T) {
	c := newCorpus(t, 5)
	c.apply(10, testDay)
	to := &target.Folder{Dir: t.TempDir()}
	want := c.sums[testDay]
	want.Logs.Lines++
	if _, err := c.writer(to).Day(t.Context(), testDay, 0, c.index, Totals{}, want); !errors.Is(err, ErrDiffers) {
		t.Fatal(err)
	}
	if names, err := Names(t.Context(), to, ""); err != nil || len(names) != 0 {
		t.Fatalf("%v %v", names, err)
	}
	// What was taken out of the store since the chain was begun does not keep late lines from being added.
	first, err := c.writer(to).Day(t.Context(), testDay, 0, c.index, Totals{}, c.sums[testDay])
	if err != nil {
		t.Fatal(err)
	}
	first.Upto.Logs.Lines += 3
	through := c.index
	c.apply(2, testDay)
	if _, err := c.writer(to).Day(t.Context(), testDay, through, c.index, first.Upto, c.sums[testDay]); err != nil {
		t.Fatal(err)
	}
}

// TestDamagedArchiveIsRefused: no change of a byte anywhere in the archive goes unnoticed.
func TestDamagedArchiveIsRefused(t *testing.T) {
	c := newCorpus(t, 6)
	c.apply(4, testDay)
	dir := t.TempDir()
	to := &target.Folder{Dir: dir}
	w := c.writer(to)
	if _, err := w.Day(t.Context(), testDay, 0, c.index, Totals{}, c.sums[testDay]); err != nil {
		t.Fatal(err)
	}
	read := func() error {
		names, err := Names(t.Context(), to, "")
		if err != nil {
			return err
		}
		for _, n := range names {
			d, err := ReadDay(t.Context(), to, n)
			if err != nil {
				return err
			}
			for _, e := range d.Agents {
				m, err := ReadAgent(t.Context(), to, d, e.Agent)
				if err != nil {
					return err
				}
				for i := range m.Files {
					for j := range m.Files[i].Parts {
						if err := ReadPart(t.Context(), to, m, &m.Files[i], &m.Files[i].Parts[j], func(*logstore.Row) error { return nil }); err != nil {
							return err
						}
					}
				}
			}
		}
		return nil
	}
	if err := read(); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		whole, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for range 8 {
			bad := slices.Clone(whole)
			bad[c.rng.IntN(len(bad)-2)] ^= byte(1 << c.rng.IntN(8)) // but not the line feed at the end
			for _, b := range [][]byte{bad, whole[:len(whole)/2], nil} {
				if err := os.WriteFile(path, b, 0o600); err != nil {
					return err
				}
				if err := read(); !errors.Is(err, ErrDamaged) {
					t.Errorf("%s: %v", path, err)
				}
			}
		}
		return os.WriteFile(path, whole, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestBombIsRefused: what unfolds to more than it says is given up at once.
func TestBombIsRefused(t *testing.T) {
	bomb := zipped(make([]byte, 200<<20))
	if _, err := unpack(bomb, 1000); !errors.Is(err, ErrDamaged) {
		t.Fatal(err)
	}
	if _, err := unpack(bomb, 1<<40); !errors.Is(err, ErrDamaged) {
		t.Fatal(err)
	}
}

func zipped(b []byte) []byte {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		panic(err)
	}
	return z.EncodeAll(b, nil)
}
