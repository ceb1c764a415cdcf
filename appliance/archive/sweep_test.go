package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/backup/target"
	"github.com/triward/triward/appliance/backup/target/s3test"
	"github.com/triward/triward/logstore"
)

// objects lists what lies below a folder, without attributes that a service keeps beside it.
func objects(t testing.TB, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			names = append(names, strings.TrimPrefix(path, dir+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// wholeDays reads everything that manifests of days name, and returns how many lines that was.
func wholeDays(t testing.TB, from target.Target) (lines int) {
	t.Helper()
	names, err := Names(t.Context(), from, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		d, err := ReadDay(t.Context(), from, n)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range d.Agents {
			m, err := ReadAgent(t.Context(), from, d, e.Agent)
			if err != nil {
				t.Fatalf("%s: %v", n.file(), err)
			}
			for i := range m.Files {
				for j := range m.Files[i].Parts {
					if err := ReadPart(t.Context(), from, m, &m.Files[i], &m.Files[i].Parts[j], func(*logstore.Row) error { lines++; return nil }); err != nil {
						t.Fatalf("%s: %v", n.file(), err)
					}
				}
			}
		}
	}
	return lines
}

// TestGivenUpAttemptsAreSwept: what they left goes in both kinds of store, also of streams that nobody has any more, and nothing else.
func TestGivenUpAttemptsAreSwept(t *testing.T) {
	for name, place := range map[string]func(t *testing.T) (target.Target, string){
		"folder": func(t *testing.T) (target.Target, string) { dir := t.TempDir(); return &target.Folder{Dir: dir}, dir },
		"s3": func(t *testing.T) (target.Target, string) {
			service := s3test.Start(t)
			to, err := target.NewS3(target.S3Config{
				URL: service.URL("site"), Endpoint: service.Endpoint, AccessKey: service.AccessKey, SecretKey: service.SecretKey, CA: service.CA,
			})
			if err != nil {
				t.Fatal(err)
			}
			return to, service.Object("site")
		},
	} {
		t.Run(name, func(t *testing.T) {
			to, dir := place(t)
			c, gone := newCorpus(t, 50), newCorpus(t, 51) // gone: streams that retention took meanwhile
			c.apply(3, testDay, testDay+1)
			gone.apply(3, testDay, testDay+1)
			attempt := func(c *corpus, tag string, day int64, through uint64) {
				t.Helper()
				w := c.writer(to)
				w.Tag = tag
				if _, err := w.Day(t.Context(), day, 0, through, Totals{}, Totals{Logs: Total{Lines: 1 << 40}}); !errors.Is(err, ErrDiffers) {
					t.Fatal(err)
				}
			}
			tag := c.writer(to).Tag
			attempt(c, Tag("another cluster", "1"), testDay, 2)
			attempt(c, tag, testDay+1, 2)
			attempt(c, tag, testDay, 4) // later than what is archived: it may be under way
			if err := put(t.Context(), to.Below(folderLogs).Below("a").Below(DateOf(testDay)), "notes-of-somebody.txt", []byte("x")); err != nil {
				t.Fatal(err)
			}
			stay := objects(t, dir)
			attempt(gone, tag, testDay, 1)
			attempt(c, tag, testDay, 2)
			if files, _, err := sweep(t.Context(), to, DateOf(testDay), tag); files != 0 || err != nil {
				t.Fatalf("%d files were removed of a day that is not archived, %v", files, err)
			}
			leftover := len(objects(t, dir)) - len(stay)
			if _, err := c.writer(to).Day(t.Context(), testDay, 0, 3, Totals{}, c.sums[testDay]); err != nil {
				t.Fatal(err)
			}
			files, size, err := sweep(t.Context(), to, DateOf(testDay), tag)
			if err != nil || files != leftover || leftover == 0 || size == 0 {
				t.Fatalf("%d files of %d, %d bytes, %v", files, leftover, size, err)
			}
			equal(t, "what is archived", readDay(t, to, testDay, tag), c.lines(testDay))
			there := objects(t, dir)
			for _, o := range stay {
				if !slices.Contains(there, o) {
					t.Errorf("%s was removed", o)
				}
			}
			for _, o := range there {
				if strings.Contains(o, tag+"-0-1-") || strings.Contains(o, tag+"-0-2-") && strings.Contains(o, DateOf(testDay)) {
					t.Errorf("%s is left", o)
				}
			}
			if files, _, err := sweep(t.Context(), to, DateOf(testDay), tag); files != 0 || err != nil || !slices.Equal(objects(t, dir), there) {
				t.Errorf("again: %d files, %v", files, err)
			}
		})
	}
}

// memory is a place in memory. A step is asked for before each request; false is the end of whoever asks.
type memory struct {
	held map[string][]byte // by path
	at   string
	step func() bool
}

func (m *memory) may() error {
	if m.step != nil && !m.step() {
		return errInjected
	}
	return nil
}

func (m *memory) Put(_ context.Context, name string, _ int64, write func(io.Writer) error) (int64, error) {
	if err := m.may(); err != nil {
		return 0, err
	}
	if _, ok := m.held[m.at+name]; ok {
		return 0, target.ErrExists
	}
	var b bytes.Buffer
	if err := write(&b); err != nil {
		return 0, err
	}
	m.held[m.at+name] = b.Bytes()
	return int64(b.Len()), nil
}

func (m *memory) Open(_ context.Context, name string) (io.ReadCloser, int64, error) {
	if err := m.may(); err != nil {
		return nil, 0, err
	}
	b, ok := m.held[m.at+name]
	if !ok {
		return nil, 0, target.ErrAbsent
	}
	return io.NopCloser(bytes.NewReader(b)), int64(len(b)), nil
}

func (m *memory) Remove(_ context.Context, name string) error {
	if err := m.may(); err != nil {
		return err
	}
	if _, ok := m.held[m.at+name]; !ok {
		return target.ErrAbsent
	}
	delete(m.held, m.at+name)
	return nil
}

func (m *memory) List(_ context.Context, prefix string, fn func(target.Item) error) error {
	if err := m.may(); err != nil {
		return err
	}
	for _, path := range slices.Sorted(maps.Keys(m.held)) {
		if name, ok := strings.CutPrefix(path, m.at); ok && strings.HasPrefix(name, prefix) && !strings.Contains(name, "/") {
			if err := fn(target.Item{Name: name, Size: int64(len(m.held[path]))}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *memory) Places(_ context.Context, fn func(string) error) error {
	if err := m.may(); err != nil {
		return err
	}
	last := ""
	for _, path := range slices.Sorted(maps.Keys(m.held)) {
		name, ok := strings.CutPrefix(path, m.at)
		if name, _, deeper := strings.Cut(name, "/"); ok && deeper && name != last {
			last = name
			if err := fn(name); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *memory) Below(name string) target.Target { return &memory{m.held, m.at + name + "/", m.step} }
func (m *memory) String() string                  { return m.at }
func (m *memory) Check(context.Context) error     { return nil }
func (m *memory) OpenRange(context.Context, string, int64, int64) (io.ReadCloser, error) {
	return nil, errors.ErrUnsupported
}

// worker is somebody who works on a place in memory, request by request.
type worker struct {
	next func() (struct{}, bool)
	stop func()
	err  error
}

func work(held map[string][]byte, do func(target.Target) error) *worker {
	w := &worker{}
	w.next, w.stop = iter.Pull(func(yield func(struct{}) bool) {
		w.err = do(&memory{held: held, step: func() bool { return yield(struct{}{}) }})
	})
	return w
}

// go on for so many requests, to the end when n is negative, and report whether that was the end.
func (w *worker) run(n int) (ended bool) {
	for ; n != 0; n-- {
		if _, ok := w.next(); !ok {
			return true
		}
	}
	return false
}

// TestSweepBesideALateWriter: whenever a node that was paused goes on with an attempt that others gave up, and wherever the sweep of it is
// held up or ends meanwhile, all that a manifest of a day names is there; and a sweep that comes after the writer has given up removes all.
func TestSweepBesideALateWriter(t *testing.T) {
	c := newCorpus(t, 52)
	c.apply(1, testDay)
	late, lateSums := c.index, c.sums[testDay]
	c.apply(1, testDay)
	base := map[string][]byte{}
	if _, err := c.writer(&memory{held: base}).Day(t.Context(), testDay, 0, c.index, Totals{}, c.sums[testDay]); err != nil {
		t.Fatal(err)
	}
	tag := c.writer(nil).Tag
	whole := int(c.sums[testDay].Lines())
	finished, refused := 0, 0
	one := func(n, m int, writerFirst, dies bool) (writerEnded, sweepEnded bool) {
		held := maps.Clone(base)
		writer := work(held, func(to target.Target) error {
			_, err := c.writer(to).Day(t.Context(), testDay, 0, late, Totals{}, lateSums)
			return err
		})
		sweeping := work(held, func(to target.Target) error {
			_, _, err := sweep(t.Context(), to, DateOf(testDay), tag)
			return err
		})
		defer writer.stop()
		defer sweeping.stop()
		if writerFirst {
			writerEnded, sweepEnded = writer.run(n), sweeping.run(m)
			writer.run(-1)
		} else {
			sweepEnded, writerEnded = sweeping.run(m), writer.run(n)
		}
		if dies {
			sweeping.stop()
		} else {
			sweeping.run(-1)
		}
		writer.run(-1)
		to := &memory{held: held}
		at := fmt.Sprintf("writer %d, sweep %d, writer first %v, dies %v", n, m, writerFirst, dies)
		lines := wholeDays(t, to)
		switch {
		case writer.err == nil:
			finished++
			if lines != whole+int(lateSums.Lines()) {
				t.Fatalf("%s: %d lines", at, lines)
			}
		case errors.Is(writer.err, ErrTaken):
			refused++
		default:
			t.Fatalf("%s: %v", at, writer.err)
		}
		if !dies && sweeping.err != nil {
			t.Fatalf("%s: %v", at, sweeping.err)
		}
		if _, _, err := sweep(t.Context(), to, DateOf(testDay), tag); err != nil {
			t.Fatal(err)
		}
		wholeDays(t, to)
		n1 := Name{DateOf(testDay), tag, 0, late}
		if held["days/"+n1.closing()] == nil && writer.err != nil {
			for path := range held {
				if strings.HasPrefix(path, "logs/") && strings.Contains(path, n1.mark()+"-") {
					t.Fatalf("%s: %s is left", at, path)
				}
			}
		}
		return writerEnded, sweepEnded
	}
	for _, writerFirst := range []bool{true, false} {
		for _, dies := range []bool{true, false} {
			for n := 0; ; n++ {
				writerEnded := false
				for m := 0; ; m++ {
					var sweepEnded bool
					if writerEnded, sweepEnded = one(n, m, writerFirst, dies); sweepEnded {
						break
					}
				}
				if writerEnded {
					break
				}
			}
		}
	}
	if finished == 0 || refused == 0 {
		t.Errorf("the writer finished %d times and was refused %d times", finished, refused)
	}
}

// TestServiceSweepsWhatItGaveUp: once the day is archived, on the node that archives, again after an hour when the store does not let it.
func TestServiceSweepsWhatItGaveUp(t *testing.T) {
	s := newSite(t, 53)
	s.apply(6, testDay)
	n1, n2 := s.service("n1", "1"), s.service("n2", "1")
	s.set(n1, Policy{After: 1})
	s.meta.Advance(2 * hourMs)
	right := s.sums[testDay]
	wrong := right
	wrong.Logs.Lines++
	s.sums[testDay] = wrong
	givenUp := fmt.Sprintf("%s-0-%d-", n1.tag, s.index)
	s.look(n1)
	if r := s.record(testDay); r.Error == "" || r.Plan != nil || len(list[left](s.meta, prefixLeft)) != 1 {
		t.Fatalf("%+v", r)
	}
	remains := func() (n int) {
		for _, o := range objects(t, s.dir) {
			if strings.HasPrefix(o, folderLogs) && strings.Contains(o, givenUp) {
				n++
			}
		}
		return n
	}
	before := remains()
	s.look(n1)
	if remains() != before || before == 0 {
		t.Fatalf("%d of %d files are left of a day that is not archived", remains(), before)
	}
	s.sums[testDay] = right
	s.apply(1, testDay)
	s.meta.Advance(hourMs)
	other := Claim{ID: "other", Date: DateOf(testDay), Node: "n2"}
	if _, err := n2.sweeps.Take(t.Context(), other, auth.Txn{}); err != nil { // another node sweeps, or went down while it did
		t.Fatal(err)
	}
	s.look(n1)
	if r := s.record(testDay); r.Through != s.index || r.Error != "" || remains() != before {
		t.Fatalf("%d files are left; %+v", remains(), r)
	}
	s.meta.Advance(61_000)
	logs := filepath.Join(s.dir, folderLogs)
	if err := errors.Join(os.Rename(logs, logs+"-away"), os.WriteFile(logs, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	s.look(n1)
	if err := errors.Join(os.Remove(logs), os.Rename(logs+"-away", logs)); err != nil {
		t.Fatal(err)
	}
	s.look(n1)
	if l := list[left](s.meta, prefixLeft); len(l) != 1 || l[0].Again == 0 || remains() != before {
		t.Fatalf("%+v, %d files are left", l, remains())
	}
	if r := s.record(testDay); r.Error != "" {
		t.Fatalf("%+v", r)
	}
	s.meta.Advance(hourMs)
	s.leader = "n2"
	s.look(n2)
	if l := list[left](s.meta, prefixLeft); len(l) != 0 || remains() != 0 {
		t.Fatalf("%+v, %d files are left", l, remains())
	}
	equal(t, "archived", readDay(t, &target.Folder{Dir: s.dir}, testDay, n1.tag), s.lines(testDay))
	if _, _, running := n2.sweeps.Held(); running {
		t.Error("the claim is still held")
	}
}
