package appliance

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/api"
	"github.com/triward/triward/logstore"
	"github.com/triward/triward/ui"
)

const stagesOfTail = "{source=\"journal\"} | logfmt | n >= 10 | kind=\"odd\" | line_format `{{.host}}: {{.n}}`"

func texts(t *testing.T, rows []ui.Row) (out []string) {
	t.Helper()
	for _, r := range rows {
		var row api.LogRow
		if err := json.Unmarshal(r.Row, &row); err != nil || row.Pos != r.Pos.String() {
			t.Fatalf("row %s at %s: %v", r.Row, r.Pos, err)
		}
		out = append(out, row.Text)
	}
	return out
}

// What a tail with stages shows of lines as they come, of the newest ones and of those behind a cursor is what a query answers.
func TestTailWithStages(t *testing.T) {
	l := linesForLogQL(t)
	tail := lineTails(l.store, func() int64 { return 100_000 })
	page, err := l.Query(t.Context(), api.LogQuery{Query: stagesOfTail, End: 100e9, Limit: 100, Oldest: true})
	if err != nil || len(page.Rows) != 15 {
		t.Fatalf("%d rows, %v", len(page.Rows), err)
	}
	var want []string
	for _, r := range page.Rows {
		row, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, string(row))
	}
	raw := func(rows []ui.Row) (out []string) {
		for _, r := range rows {
			out = append(out, string(r.Row))
		}
		return out
	}

	m, err := tail.Compile(stagesOfTail)
	if err != nil {
		t.Fatal(err)
	}
	var came []ui.Row
	_, err = l.store.Walk(t.Context(), logstore.Request{Direction: logstore.OldestFirst}, func(r *logstore.Row) error {
		line := &ui.Line{
			Pos: ui.Position{Index: r.Index, Ord: r.Ord}, Kind: r.Kind, Labels: r.Labels,
			LogLine: wire.LogLine{T: r.T, Severity: r.Severity, Text: r.Text, Fields: r.Fields},
		}
		if row, ok := m.Match(t.Context(), line); ok {
			came = append(came, ui.Row{Pos: line.Pos, Row: row})
		}
		return nil
	})
	if err != nil || !slices.Equal(raw(came), want) {
		t.Errorf("as they come: %v\n%s\nwant %s", err, raw(came), want)
	}

	newest, err := tail.Newest(t.Context(), stagesOfTail, 4)
	if err != nil || !slices.Equal(raw(newest), want[11:]) {
		t.Errorf("the newest: %v\n%s\nwant %s", err, raw(newest), want[11:])
	}

	at := came[4].Pos
	for limit, complete := range map[int]bool{3: false, 10: true, 50: true} {
		rows, all, err := tail.ReadAfter(t.Context(), stagesOfTail, at, limit)
		if err != nil || all != complete || !slices.Equal(raw(rows), want[5:min(15, 5+limit)]) {
			t.Errorf("at most %d behind %s: complete %v, %v\n%s", limit, at, all, err, texts(t, rows))
		}
	}
	l.store.Report("", logstore.KindDay{Kind: wire.StreamLog, Day: 0}, errors.New("planted"))
	if _, all, err := tail.ReadAfter(t.Context(), stagesOfTail, at, 50); err != nil || all {
		t.Errorf("behind a cursor, with damage: complete %v, %v", all, err)
	}
}

// A tail that finds nothing in its time begins with the lines that come, and one that cannot find all that it missed says so.
func TestTailDoesNotWaitForWhatIsFar(t *testing.T) {
	l := linesForLogQL(t)
	tail := lineTails(l.store, func() int64 { return 100_000 })
	var lines []wire.LogLine
	for range resumeLooks*logstore.MaxRows + 1 {
		lines = append(lines, wire.LogLine{T: 50e9, Text: []byte("kind=other")})
	}
	b := wire.LogBatch{Streams: []wire.LogStream{{Kind: wire.StreamLog, Labels: wire.LabelsFromMap(map[string]string{"source": "journal"}), Lines: lines}}}
	e := wire.LogEntry{Index: 41, Batches: []wire.AcceptedLogs{{Agent: "a", Body: wire.AppendLogs(nil, &b), Batch: &b}}}
	if err := l.store.ApplyLogs(41, []wire.LogEntry{e}); err != nil {
		t.Fatal(err)
	}
	for after, complete := range map[uint64]bool{39: false, 40: false, 41: true} {
		rows, all, err := tail.ReadAfter(t.Context(), stagesOfTail, ui.Position{Index: after}, 10)
		if after == 41 {
			rows, all, err = tail.ReadAfter(t.Context(), stagesOfTail, ui.Position{Index: 41, Ord: 2}, 10)
		}
		if err != nil || all != complete {
			t.Errorf("behind %d: %d rows, complete %v, %v", after, len(rows), all, err)
		}
	}
	tail.patience = 0
	for _, text := range []string{stagesOfTail, "kind"} {
		if rows, err := tail.Newest(t.Context(), text, 5); err != nil || len(rows) != 0 {
			t.Errorf("the newest of %s without time: %d rows, %v", text, len(rows), err)
		}
		if _, all, err := tail.ReadAfter(t.Context(), text, ui.Position{}, 5); err != nil || all {
			t.Errorf("what was missed of %s without time: complete %v, %v", text, all, err)
		}
	}
}

// Events are shown as they were told, so stages that change lines are refused, as are mistakes and queries for numbers.
func TestWhatTailsRefuse(t *testing.T) {
	l := linesForLogQL(t)
	now := func() int64 { return 100_000 }
	for _, c := range []struct {
		tail *tails
		text string
		pos  int
	}{
		{eventTails(l.store, now), `{source="journal"} | logfmt`, 18},
		{lineTails(l.store, now), `{source="journal"} | logfmt | nothing`, 30},
		{lineTails(l.store, now), `{source="journal"`, 17},
		{lineTails(l.store, now), `host:"x`, 5},
		{lineTails(l.store, now), `rate({source="journal"}[5m])`, 0},
	} {
		var bad *ui.QueryError
		_, err := c.tail.Compile(c.text)
		if _, newest := c.tail.Newest(t.Context(), c.text, 1); fmt.Sprint(newest) != fmt.Sprint(err) {
			t.Errorf("%s: %v and %v", c.text, err, newest)
		}
		if !errors.As(err, &bad) || bad.Pos != c.pos {
			t.Errorf("%s: %+v", c.text, err)
		}
	}
}
