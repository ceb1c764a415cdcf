package logstore

import (
	"bytes"
	"fmt"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"testing"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/query"
)

// heapDuring returns by how much the heap grew, at most, while fn ran.
func heapDuring(fn func()) uint64 {
	defer debug.SetGCPercent(debug.SetGCPercent(10))
	heap := func() uint64 {
		s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
		metrics.Read(s)
		return s[0].Value.Uint64()
	}
	runtime.GC()
	before, most := heap(), uint64(0)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			most = max(most, heap())
			select {
			case <-tick.C:
			case <-stop:
				return
			}
		}
	}()
	fn()
	close(stop)
	<-stopped
	return max(most, before) - before
}

// Lines whose fields are large and compress well are many small rows to whoever counts text or what is on disk, and
// 128 MiB to whoever has to hold them.
func TestLargeFieldsAreBoundedAndStayReadable(t *testing.T) {
	const lines, perBatch, value = 8192, 16, 16 << 10
	s := testStore(t, t.TempDir(), Options{})
	padding := strings.Repeat("v", value-8)
	for i := 0; i < lines; i += perBatch {
		b := &wire.LogBatch{Streams: []wire.LogStream{{Kind: wire.StreamLog, Labels: wire.LabelsFromMap(map[string]string{"unit": "a"})}}}
		st := &b.Streams[0]
		for k := range perBatch {
			st.Lines = append(st.Lines, wire.LogLine{
				T: testDay*DayNs + int64(i+k), Text: fmt.Appendf(nil, "line %d", i+k),
				Fields: []wire.Label{{Name: "body", Value: fmt.Sprintf("%08d", i+k) + padding}},
			})
		}
		e := wire.LogEntry{Index: uint64(i + 1), Batches: []wire.AcceptedLogs{{Batch: b}}}
		if err := s.ApplyLogs(e.Index, []wire.LogEntry{e}); err != nil {
			t.Fatal(err)
		}
	}
	if got := heapDuring(func() { work(t, s, true) }); got > 256<<20 { // it took 619 MiB while only text counted
		t.Errorf("sealing took %d MiB", got>>20)
	}
	a, err := s.Search(t.Context(), Request{Limit: 1})
	if err != nil || a.Stats.Partial || len(a.Rows) != 1 || string(a.Rows[0].Text) != fmt.Sprint("line ", lines-1) {
		t.Fatalf("%v: %+v", err, a)
	}
	seen := 0
	err = s.Each(t.Context(), minTime, 0, func(r *Row) error {
		seen++
		if v := r.Fields[0].Value; len(v) != value || !bytes.HasSuffix(fmt.Appendf(nil, "%08d", r.T-testDay*DayNs), []byte(v[:8])) {
			return fmt.Errorf("line %s has the field %.20q of %d bytes", r.Text, v, len(v))
		}
		return nil
	})
	if err != nil || seen != lines {
		t.Errorf("%d of %d lines can be read: %v", seen, lines, err)
	}
	f, err := query.Parse("body:00004711*")
	if err != nil {
		t.Fatal(err)
	}
	if a, err = s.Search(t.Context(), Request{Filter: f}); err != nil || len(a.Rows) != 1 || string(a.Rows[0].Text) != "line 4711" {
		t.Errorf("a search by the field: %v: %+v", err, a)
	}
}
