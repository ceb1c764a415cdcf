package logstore

import (
	"errors"
	"maps"
	"testing"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/block"
	"github.com/triward/triward/logstore/query"
)

// What the parts say is what the lines are, wherever they lie, and reads no block.
func TestExtentsAddUpToTheLines(t *testing.T) {
	s := testStore(t, t.TempDir(), Options{})
	m := newModel(11)
	count := func() (lines, bytes map[string]int64) {
		lines, bytes = map[string]int64{}, map[string]int64{}
		st, err := s.Extents(t.Context(), nil, 0, 0, func(p *Extent) error {
			key := string(append(p.Labels.AppendKey(nil), byte(p.Kind)))
			lines[key] += p.Lines
			bytes[key] += p.Bytes
			if p.MinT > p.MaxT || p.Lines < 1 || !p.Block && p.Lines != 1 {
				t.Errorf("part %+v", p)
			}
			return nil
		})
		if err != nil || st.Blocks != 0 {
			t.Errorf("%d blocks were opened: %v", st.Blocks, err)
		}
		return lines, bytes
	}
	for range 3 {
		m.apply(t, s, 20)
		wantLines, wantBytes := map[string]int64{}, map[string]int64{}
		for i := range m.rows {
			r := &m.rows[i]
			key := string(append(r.Labels.AppendKey(nil), byte(r.Kind)))
			wantLines[key]++
			wantBytes[key] += int64(block.Size(r.Text, r.Fields) - block.Size(nil, nil))
		}
		lines, bytes := count()
		if !maps.Equal(lines, wantLines) || !maps.Equal(bytes, wantBytes) {
			t.Errorf("lines %v, want %v\nbytes %v, want %v", lines, wantLines, bytes, wantBytes)
		}
		if err := s.Work(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		lines, bytes = count()
		if !maps.Equal(lines, wantLines) || !maps.Equal(bytes, wantBytes) {
			t.Error("sealed lines differ")
		}
	}
	stop := errors.New("enough")
	n := 0
	if _, err := s.Extents(t.Context(), nil, 0, 0, func(*Extent) error { n++; return stop }); !errors.Is(err, stop) || n != 1 {
		t.Errorf("it went on %d times: %v", n, err)
	}
	for name, f := range map[string]*query.Filter{"text": query.Literal("x"), "field": query.Field("a", query.Equal, "b"), "severity": query.SeverityIn(1 << wire.SeverityError)} {
		if _, err := s.Extents(t.Context(), query.And(f, query.Not(query.KindIs(99))), 0, 0, func(*Extent) error { return nil }); !errors.Is(err, ErrRequest) {
			t.Errorf("a condition on the %s of lines: %v", name, err)
		}
	}
}

func TestWithinAddsUp(t *testing.T) {
	for _, p := range []Extent{{MinT: 5, MaxT: 5, Lines: 1, Bytes: 10}, {MinT: 10, MaxT: 20, Lines: 3, Bytes: 30}, {MinT: 0, MaxT: 99, Lines: 7, Bytes: 700}, {MinT: 3, MaxT: 3, Lines: 4, Bytes: 8}} {
		for _, step := range []int64{1, 3, 10, 1000} {
			lines, bytes := 0.0, 0.0
			for from := int64(-step); from < 200; from += step {
				n, b := p.Within(from, from+step)
				lines, bytes = lines+n, bytes+b
			}
			if lines != float64(p.Lines) || bytes < float64(p.Bytes)-0.001 || bytes > float64(p.Bytes)+0.001 {
				t.Errorf("%+v in steps of %d: %v lines, %v bytes", p, step, lines, bytes)
			}
		}
	}
	p := Extent{MinT: 0, MaxT: 10, Lines: 2, Bytes: 2}
	if n, _ := p.Within(10, 11); n != 1 {
		t.Errorf("the last line is not where it is: %v", n)
	}
}
