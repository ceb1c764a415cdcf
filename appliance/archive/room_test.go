package archive

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/triward/triward/appliance/backup/target"
	"github.com/triward/triward/logstore"
	"github.com/triward/triward/logstore/query"
)

// disk is one whose size and free bytes a test says.
type disk struct{ total, free int64 }

func rooms(t testing.TB, dir string, d *disk, now func() time.Time) *Rooms {
	t.Helper()
	r, err := OpenRooms(RoomsConfig{Dir: dir, Node: "n1", Now: now, Disk: func() (int64, int64, error) { return d.total, d.free, nil }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// bring imports and waits for the end.
func bring(t testing.TB, r *Rooms, from target.Target, own string, ask Ask) Room {
	t.Helper()
	about, err := r.Import(t.Context(), from, own, ask)
	if err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	o := r.rooms[about.ID]
	r.mu.Unlock()
	<-o.ended
	about, err = r.Get(about.ID)
	if err != nil {
		t.Fatal(err)
	}
	return about
}

func search(t testing.TB, s *logstore.Store, text string) (out []string) {
	t.Helper()
	f, err := query.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	a, err := s.Search(t.Context(), logstore.Request{Filter: f, Start: testDay * logstore.DayNs, End: (testDay + 1) * logstore.DayNs, Limit: logstore.MaxRows})
	if err != nil || a.Stats.Partial {
		t.Fatalf("%v %+v", err, a)
	}
	for i := range a.Rows {
		out = append(out, key(&a.Rows[i]))
	}
	return out
}

func archived(t testing.TB, seed uint64) (*corpus, *target.Folder, string) {
	t.Helper()
	c := newCorpus(t, seed)
	to := &target.Folder{Dir: t.TempDir()}
	c.apply(30, testDay, testDay+1)
	w := c.writer(to)
	first, err := w.Day(t.Context(), testDay, 0, c.index, Totals{}, c.sums[testDay])
	if err != nil {
		t.Fatal(err)
	}
	through := c.index
	c.apply(4, testDay)
	if _, err := w.Day(t.Context(), testDay, through, c.index, first.Upto, c.sums[testDay]); err != nil {
		t.Fatal(err)
	}
	return c, to, w.Tag
}

const gib = 1 << 30

// TestDayComesBackAsItWas: what retention took away is found again in a reading room by every question, in the same order, also
// after the node was started anew.
func TestDayComesBackAsItWas(t *testing.T) {
	questions := []string{"", "quoted", `"connew line"`, "long*", "/q.o/", "磁盘", "NOT quoted", "a:x", "severity:error", "kind:event passwd"}
	c, to, tag := archived(t, 20)
	dir := t.TempDir()
	r := rooms(t, dir, &disk{100 * gib, 90 * gib}, nil)
	about := bring(t, r, to, tag, Ask{Date: DateOf(testDay), All: true, Days: 7, By: "ann"})
	if about.State != RoomReady || about.Lines != c.sums[testDay].Lines() || about.Done != about.Lines || about.Bytes == 0 {
		t.Fatalf("%+v", about)
	}
	for range 2 {
		s, err := r.Store(about.ID)
		if err != nil {
			t.Fatal(err)
		}
		for _, q := range questions {
			equal(t, q, search(t, s, q), search(t, c.store, q))
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		r = rooms(t, dir, &disk{100 * gib, 90 * gib}, nil)
	}
	if got := r.List(); len(got) != 1 || got[0].By != "ann" || got[0].State != RoomReady {
		t.Fatalf("%+v", got)
	}
	if _, err := r.Import(t.Context(), to, tag, Ask{Date: DateOf(testDay), All: true, Days: 7}); !errors.Is(err, ErrExists) {
		t.Fatal(err)
	}
	one := bring(t, r, to, tag, Ask{Date: DateOf(testDay), Agent: "h1", Days: 7})
	s, err := r.Store(one.ID)
	if err != nil {
		t.Fatal(err)
	}
	want := slices.DeleteFunc(search(t, c.store, "host:h1"), func(k string) bool { return strings.Contains(k, `{"agent"`) })
	equal(t, "one agent", search(t, s, ""), want)
	if err := errors.Join(r.Remove(t.Context(), about.ID), r.Remove(t.Context(), one.ID)); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Fatalf("%v %v", left, err)
	}
	if _, err := s.Search(t.Context(), logstore.Request{}); !errors.Is(err, logstore.ErrClosed) {
		t.Fatal(err)
	}
}

// TestRoomsHaveBounds: of the disk, of their number and of time; what an import that was cut short left is removed.
func TestRoomsHaveBounds(t *testing.T) {
	_, to, tag := archived(t, 21)
	dir := t.TempDir()
	now := time.Unix(1_800_000_000, 0)
	d := &disk{100 * gib, 90 * gib}
	r := rooms(t, dir, d, func() time.Time { return now })
	ask := Ask{Date: DateOf(testDay), All: true, Days: 7}
	for _, bad := range []Ask{{Date: "x", Days: 1}, {Date: ask.Date, All: true}, {Date: ask.Date, All: true, Days: MaxRoomDays + 1}} {
		if _, err := r.Import(t.Context(), to, tag, bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	for _, bad := range []Ask{{Date: ask.Date, Agent: "nobody", Days: 1}, {Date: "1999-01-01", All: true, Days: 1}, {Date: ask.Date, All: true, Days: 1, Tag: "12345678"}} {
		if _, err := r.Import(t.Context(), to, tag, bad); !errors.Is(err, ErrNotFound) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	*d = disk{100 << 10, 99 << 10}
	if _, err := r.Import(t.Context(), to, tag, ask); !errors.Is(err, ErrNoRoom) {
		t.Fatal(err)
	}
	*d = disk{1 << 20, 1 << 20} // enough by what the archive says, not by what it takes
	if about := bring(t, r, to, tag, ask); about.State != RoomFailed || !strings.Contains(about.Error, ErrNoRoom.Error()) {
		t.Fatalf("%+v", about)
	}
	*d = disk{100 * gib, 90 * gib}
	about := bring(t, r, to, tag, ask) // in the place of the one that failed
	if about.State != RoomReady {
		t.Fatalf("%+v", about)
	}
	d.free = 1 * gib
	r.look()
	if len(r.List()) != 0 {
		t.Fatal("it stays where the disk fills up")
	}
	d.free = 90 * gib
	about = bring(t, r, to, tag, ask)
	now = now.AddDate(0, 0, 6)
	if r.look(); len(r.List()) != 1 {
		t.Fatal("it went too early")
	}
	now = now.AddDate(0, 0, 2)
	if r.look(); len(r.List()) != 0 {
		t.Fatal("it stays beyond its time")
	}
	about = bring(t, r, to, tag, ask)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, about.ID, roomFile)); err != nil {
		t.Fatal(err)
	}
	r = rooms(t, dir, d, func() time.Time { return now })
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 || len(r.List()) != 0 {
		t.Fatalf("%v %v", left, err)
	}
}

// TestDamagedPartIsNotBroughtBack: nothing is left of a room whose archive is damaged.
func TestDamagedPartIsNotBroughtBack(t *testing.T) {
	_, to, tag := archived(t, 22)
	parts, err := filepath.Glob(filepath.Join(to.Dir, folderLogs, "*", "*", "*", "*", "*.zst"))
	if err != nil || len(parts) == 0 {
		t.Fatal(err)
	}
	body, err := os.ReadFile(parts[len(parts)/2])
	if err != nil {
		t.Fatal(err)
	}
	body[len(body)/2] ^= 1
	if err := os.WriteFile(parts[len(parts)/2], body, 0o600); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	r := rooms(t, dir, &disk{100 * gib, 90 * gib}, nil)
	about := bring(t, r, to, tag, Ask{Date: DateOf(testDay), All: true, Days: 7})
	if about.State != RoomFailed || !strings.Contains(about.Error, ErrDamaged.Error()) {
		t.Fatalf("%+v", about)
	}
	if _, err := r.Store(about.ID); !errors.Is(err, ErrNotFound) {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Fatalf("%v %v", left, err)
	}
}
