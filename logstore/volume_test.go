package logstore

import (
	"errors"
	"testing"

	"github.com/triward/triward/logstore/block"
)

// Sums of lines and bytes are those of the lines, from the inbox and from blocks, whole ones and those that a range cuts.
func TestVolumesAreThoseOfTheLines(t *testing.T) {
	m := newModel(3)
	s := testStore(t, t.TempDir(), Options{})
	for range 4 {
		m.apply(t, s, 8)
		work(t, s, true)
	}
	m.apply(t, s, 4) // these stay in the inbox
	day := testDay * DayNs
	for _, r := range [][3]int64{{day, day + 3*DayNs, 0}, {day, day + 3*DayNs, DayNs / 4}, {day + DayNs/3, day + 2*DayNs + 7, 3600e9}, {day + DayNs, day + DayNs + 1, 0}} {
		type sum struct{ lines, bytes int64 }
		want := map[streamID]sum{}
		for i := range m.rows {
			if row := &m.rows[i]; row.T >= r[0] && row.T < r[1] {
				id := streamIDOf(row.Kind, row.Labels)
				w := want[id]
				want[id] = sum{w.lines + 1, w.bytes + int64(block.Size(row.Text, row.Fields))}
			}
		}
		v, err := s.Volumes(t.Context(), nil, r[0], r[1], r[2])
		if err != nil {
			t.Fatal(err)
		}
		if len(v.Streams) != len(want) || v.More {
			t.Errorf("%v: %d streams, expected %d", r, len(v.Streams), len(want))
		}
		for _, st := range v.Streams {
			w, per := want[streamIDOf(st.Kind, st.Labels)], int64(0)
			for _, n := range st.Per {
				if n < 0 {
					t.Errorf("%v: an interval of %d bytes", r, n)
				}
				per += n
			}
			if st.Lines != w.lines || st.Bytes != w.bytes || per != w.bytes {
				t.Errorf("%v %v: %d lines, %d bytes, %d in intervals; expected %+v", r, st.Labels, st.Lines, st.Bytes, per, w)
			}
		}
	}
	for _, r := range [][3]int64{{5, 5, 0}, {5, 4, 0}, {0, day, 1}} {
		if _, err := s.Volumes(t.Context(), nil, r[0], r[1], r[2]); !errors.Is(err, ErrRequest) {
			t.Errorf("%v: %v", r, err)
		}
	}
}
