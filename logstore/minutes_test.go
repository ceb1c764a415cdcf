package logstore

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/query"
)

// denseLines gives the store lines of three streams, some in each minute, in as many entries, and returns them.
func denseLines(t *testing.T, s *Store, rng *rand.Rand, entries int) (rows []Row) {
	t.Helper()
	at := testDay*DayNs + DayNs/3
	for index := uint64(1); index <= uint64(entries); index++ {
		var b wire.LogBatch
		ord := uint32(0)
		for host := range 3 {
			st := wire.LogStream{Kind: wire.StreamLog, Labels: wire.Labels{{Name: "host", Value: fmt.Sprint(host)}}}
			for range 40 + rng.IntN(200) {
				at += rng.Int64N(3e9)
				if rng.IntN(30) == 0 {
					at -= at % 60e9 // at the border of a minute, and not in order
				}
				l := wire.LogLine{T: at, Severity: wire.Severity(rng.IntN(3)), Text: fmt.Appendf(nil, "job %d %s user=%s", rng.IntN(1000), []string{"done", "failed"}[rng.IntN(2)], []string{"ann", "bob"}[host%2])}
				rows = append(rows, Row{T: l.T, Position: Position{index, ord}, Kind: wire.StreamLog, Severity: l.Severity, Labels: st.Labels, Text: l.Text})
				st.Lines = append(st.Lines, l)
				ord++
			}
			b.Streams = append(b.Streams, st)
		}
		e := wire.LogEntry{Index: index, Batches: []wire.AcceptedLogs{{Agent: "a", Body: wire.AppendLogs(nil, &b), Batch: &b}}}
		if err := s.ApplyLogs(index, []wire.LogEntry{e}); err != nil {
			t.Fatal(err)
		}
	}
	return rows
}

// Counts per interval are those of a walk through all lines, by minutes that blocks have, by their times or by their headers, in the
// inbox, in blocks of both versions, merged and partly cut.
func TestHitsAreThoseOfEveryLine(t *testing.T) {
	for _, format := range []uint32{1, 2} {
		t.Run(fmt.Sprint("format=", format), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(11, uint64(format)))
			s := testStore(t, t.TempDir(), Options{NoIndex: true})
			s.SetFormat(format)
			rows := denseLines(t, s, rng, 20)
			var cuts cutting
			check := func(state string) {
				t.Helper()
				first, last := rows[0].T, rows[0].T
				for i := range rows {
					first, last = min(first, rows[i].T), max(last, rows[i].T)
				}
				texts := []string{"*", "host:1", "done", "severity:debug", "-user:ann", "failed bob", "failed OR @2024-10-04T09:00..10:00"}
				steps := []int64{60e9, 300e9, 3600e9, DayNs, 7e9, 90e9, 1}
				for round := range rounds(150, 40) {
					text, step := texts[rng.IntN(len(texts))], steps[rng.IntN(len(steps))]
					start, end := testDay*DayNs, (testDay+1)*DayNs
					switch {
					case round < len(steps): // all lines at every step
						text, step = "*", steps[round]
					case round < len(steps)+len(texts): // every question, in one interval
						text, step = texts[round-len(steps)], DayNs
					case rng.IntN(2) == 0:
						text = "*"
						fallthrough
					default:
						start = first + rng.Int64N(last-first)
						end = start + 1 + rng.Int64N(last-start+1)
					}
					f, err := query.Parse(text)
					if err != nil {
						t.Fatal(err)
					}
					end = min(end, start+step*(MaxBuckets-2))
					h, err := s.Hits(t.Context(), Request{Filter: f, Start: start, End: end}, step)
					if err != nil || h.Stats.Partial {
						t.Fatalf("%s, %q: %v", state, text, err)
					}
					want, total := map[[2]int64]int64{}, int64(0)
					for i := range rows {
						r := &rows[i]
						l := query.Line{T: r.T, Kind: r.Kind, Severity: r.Severity, Labels: r.Labels, Text: r.Text}
						if r.T >= start && r.T < end && f.Match(&l) && !cuts.hides(t, r) {
							want[[2]int64{int64(r.Severity), (r.T - h.T0) / step}]++
							total++
						}
					}
					if h.Total != total {
						t.Fatalf("%s, %q per %d: %d lines, want %d", state, text, step, h.Total, total)
					}
					for sev, counts := range h.Counts {
						for i, n := range counts {
							if w := want[[2]int64{int64(sev), int64(i)}]; n != w {
								t.Fatalf("%s, %q per %d: %d lines of severity %d in interval %d, want %d", state, text, step, n, sev, i, w)
							}
						}
					}
				}
			}
			check("inbox")
			work(t, s, false)
			check("sealed")
			work(t, s, true)
			check("merged")
			h, err := s.Hits(t.Context(), Request{Start: testDay * DayNs, End: (testDay + 1) * DayNs}, 60e9)
			if err != nil {
				t.Fatal(err)
			}
			if counted := h.Stats.Counted == h.Stats.Considered; counted != (format == 2) || h.Stats.Considered == 0 {
				t.Errorf("%d of %d blocks were counted without their lines", h.Stats.Counted, h.Stats.Considered)
			}
			cuts.cut(t, s, wire.StreamLog, testDay, 9, `{host="1"}`)
			check("cut")
		})
	}
}
