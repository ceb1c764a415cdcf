package logstore

import (
	"bytes"
	"errors"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/triward/triward/agent/wire"
)

// engineOf returns the engine of a store that nobody closes meanwhile.
func engineOf(t *testing.T, s *Store) *engine {
	t.Helper()
	e, release, err := s.acquire()
	if err != nil {
		t.Fatal(err)
	}
	release()
	return e
}

// rowsOf returns the rows of the inbox, and how many of them are held decoded.
func rowsOf(t *testing.T, e *engine) (rows []inboxRow, held int) {
	t.Helper()
	err := e.rows(e.db, []byte{prefixInbox}, func(key, value []byte) error {
		r, err := parseInboxRow(bytes.Clone(key), bytes.Clone(value))
		if rows = append(rows, r); e.decoded.get(rowKey{r.index, r.ord}) != nil {
			held++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return rows, held
}

// full returns the next entry that has lines.
func (m *model) full() wire.LogEntry {
	for {
		e := m.entry()
		for i := range e.Batches {
			for _, st := range e.Batches[i].Batch.Streams {
				if len(st.Lines) > 0 {
					return e
				}
			}
		}
	}
}

// Whether a store holds lines of the inbox decoded, some of them or none, it gives the same answers and makes the same blocks.
func TestDecodedRowsChangeNoAnswer(t *testing.T) {
	m := newModel(61)
	rooms := []int64{0, 20 << 10, 64 << 20}
	stores := make([]*Store, len(rooms))
	for i, room := range rooms {
		stores[i] = testStore(t, t.TempDir(), Options{})
		engineOf(t, stores[i]).decoded = newDecodedRows(room)
	}
	for range 3 {
		for range 12 {
			entry := m.entry()
			for _, s := range stores {
				if err := s.ApplyLogs(entry.Index, []wire.LogEntry{entry}); err != nil {
					t.Fatal(err)
				}
			}
		}
		var want [][2][]byte
		for i, s := range stores {
			e := engineOf(t, s)
			rows, held := rowsOf(t, e)
			if is := held > 0; is != (rooms[i] > 0) || (held == len(rows)) != (i == 2) {
				t.Errorf("with room for %d bytes %d of %d rows are held", rooms[i], held, len(rows))
			}
			m.check(t, s, 10, minTime)
			if _, err := e.seal(); err != nil {
				t.Fatal(err)
			}
			if n := len(e.decoded.held); n != 0 || e.decoded.room != rooms[i] {
				t.Errorf("%d rows are held of an empty inbox, and there is room for %d bytes of %d", n, e.decoded.room, rooms[i])
			}
			if got := blocksOf(t, e); i == 0 {
				want = got
			} else if len(got) != len(want) {
				t.Fatalf("%d blocks, %d where nothing is held", len(got), len(want))
			} else {
				for k := range got {
					if !bytes.Equal(got[k][0], want[k][0]) || !bytes.Equal(got[k][1], want[k][1]) {
						t.Fatalf("block %d differs from that of a store that holds nothing", k)
					}
				}
			}
			m.check(t, s, 10, minTime)
		}
	}
}

// blocksOf returns columns and text of all blocks by the order of their headers' streams; ids are random.
func blocksOf(t *testing.T, e *engine) (out [][2][]byte) {
	t.Helper()
	err := e.rows(e.db, []byte{prefixHeader}, func(key, _ []byte) error {
		d, _, id := parseHeaderKey(key)
		var b [2][]byte
		for i, prefix := range []byte{prefixColumns, prefixText} {
			if err := e.get(blockKey(prefix, d, id), func(v []byte) error { b[i] = bytes.Clone(v); return nil }); err != nil {
				return err
			}
		}
		out = append(out, b)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A row that is sealed from what is held is not read as bytes, and nothing is held of what was not stored, nor after a start.
func TestDecodedRowsAreThoseOfTheInbox(t *testing.T) {
	m := newModel(62)
	fs := vfs.NewMem()
	dir := t.TempDir()
	s := testStore(t, dir, Options{FS: fs})
	m.apply(t, s, 5)
	e := engineOf(t, s)
	rows, held := rowsOf(t, e)
	if held != len(rows) || held == 0 {
		t.Fatalf("%d of %d rows are held", held, len(rows))
	}
	for i := range rows {
		r := &rows[i]
		got, err := e.lines(r)
		if err != nil {
			t.Fatal(err)
		}
		if got != e.decoded.get(rowKey{r.index, r.ord}) {
			t.Errorf("row %d/%d is decoded again", r.index, r.ord)
		}
	}
	room := e.decoded.room
	e.pressure.mu.Lock()
	e.pressure.failure = syscall.ENOSPC
	e.pressure.mu.Unlock()
	e.pressure.written.Add(1 << 40) // memtables are full
	entry := m.full()
	if err := s.ApplyLogs(entry.Index, []wire.LogEntry{entry}); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a store without room takes lines: %v", err)
	}
	e.pressure.written.Add(-1 << 40)
	if e.decoded.room != room {
		t.Errorf("of lines that were not stored %d bytes are held", room-e.decoded.room)
	}
	if err := s.ApplyLogs(entry.Index, []wire.LogEntry{entry}); err != nil {
		t.Fatal(err)
	}
	if e.decoded.room >= room {
		t.Error("nothing is held of lines that were stored at the second try")
	}
	m.check(t, s, 10, minTime)
	if err := errors.Join(s.Flush(t.Context()), s.Close()); err != nil {
		t.Fatal(err)
	}
	s = testStore(t, dir, Options{FS: fs})
	if _, held := rowsOf(t, engineOf(t, s)); held != 0 {
		t.Errorf("%d rows are held after a start", held)
	}
	m.check(t, s, 10, minTime)
	work(t, s, true)
	m.check(t, s, 10, minTime)
}
