package appliance

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/api"
	"github.com/triward/triward/logstore"
	"github.com/triward/triward/ui"
)

// nobody is other nodes that are not there.
func nobody(t *testing.T) *others { return (&standIns{t: t}).others() }

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
	tail := lineTails(l.store, nobody(t), func() int64 { return 100_000 })
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

	newest, lack, err := tail.Newest(t.Context(), stagesOfTail, 4)
	if err != nil || lack != ui.LackNothing || !slices.Equal(raw(newest), want[11:]) {
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
	tail := lineTails(l.store, nobody(t), func() int64 { return 100_000 })
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
		if rows, lack, err := tail.Newest(t.Context(), text, 5); err != nil || len(rows) != 0 || lack != ui.LackTime {
			t.Errorf("the newest of %s without time: %d rows, %q, %v", text, len(rows), lack, err)
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
		{eventTails(l.store, nobody(t), now), `{source="journal"} | logfmt`, 18},
		{lineTails(l.store, nobody(t), now), `{source="journal"} | logfmt | nothing`, 30},
		{lineTails(l.store, nobody(t), now), `{source="journal"`, 17},
		{lineTails(l.store, nobody(t), now), `host:"x`, 5},
		{lineTails(l.store, nobody(t), now), `rate({source="journal"}[5m])`, 0},
	} {
		var bad *ui.QueryError
		_, err := c.tail.Compile(c.text)
		if _, _, newest := c.tail.Newest(t.Context(), c.text, 1); fmt.Sprint(newest) != fmt.Sprint(err) {
			t.Errorf("%s: %v and %v", c.text, err, newest)
		}
		if !errors.As(err, &bad) || bad.Pos != c.pos {
			t.Errorf("%s: %+v", c.text, err)
		}
	}
}

// The first lines of a tail, and those that it missed, are another node's where this one is damaged; when none has them the tail
// says that some may lack.
func TestTailsOfADamagedNode(t *testing.T) {
	l, good := linesForLogQL(t), linesForLogQL(t)
	for _, to := range []*logQueries{l, good} {
		b := wire.LogBatch{Streams: []wire.LogStream{{
			Kind: wire.StreamEvent, Labels: wire.LabelsFromMap(map[string]string{"host": "h1", "name": "unit_failed"}),
			Lines: []wire.LogLine{{T: 45e9, Text: []byte("the unit failed, kind odd")}, {T: 46e9, Text: []byte("again, kind odd")}},
		}}}
		if to == good { // what the other one has lost
			b.Streams[0].Lines = append(b.Streams[0].Lines, wire.LogLine{T: 47e9, Text: []byte("and again, kind odd")})
			b.Streams = append(b.Streams, wire.LogStream{
				Kind: wire.StreamLog, Labels: wire.LabelsFromMap(map[string]string{"host": "h1", "source": "journal"}),
				Lines: []wire.LogLine{{T: 48e9, Text: []byte("n=41 kind=odd")}},
			})
		}
		e := wire.LogEntry{Index: 41, Batches: []wire.AcceptedLogs{{Agent: "a", Body: wire.AppendLogs(nil, &b), Batch: &b}}}
		if err := to.store.ApplyLogs(41, []wire.LogEntry{e}); err != nil {
			t.Fatal(err)
		}
	}
	lacking(l)
	now := func() int64 { return 100_000 }
	for name, c := range map[string]struct {
		of   func(*logstore.Store, *others, func() int64) *tails
		text string
		n    int
	}{
		"words":  {lineTails, "kind odd", 24},
		"stages": {lineTails, stagesOfTail, 16},
		"events": {eventTails, "odd", 3},
	} {
		whole := c.of(good.store, nobody(t), now)
		want, lack, err := whole.Newest(t.Context(), c.text, 100)
		if err != nil || lack != ui.LackNothing || len(want) != c.n {
			t.Fatalf("%s: %d lines, %q, %v", name, len(want), lack, err)
		}
		s := &standIns{t: t, nodes: map[string]func(*peerQuestion) (any, error){
			"n2": func(*peerQuestion) (any, error) { return nil, errors.New("connection refused") },
			"n3": func(q *peerQuestion) (any, error) { return q.answer(t.Context(), good) },
		}}
		tail := c.of(l.store, s.others("n2", "n3"), now)
		got, lack, err := tail.Newest(t.Context(), c.text, 100)
		if err != nil || lack != ui.LackNothing || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: the newest: %q, %v\n%s\nwant %s", name, lack, err, got, want)
		}
		got, all, err := tail.ReadAfter(t.Context(), c.text, want[0].Pos, 100)
		if err != nil || !all || !reflect.DeepEqual(got, want[1:]) {
			t.Errorf("%s: behind the first: complete %v, %v\n%s\nwant %s", name, all, err, got, want[1:])
		}
		if fmt.Sprint(s.asked) != "[n2 n3 n2 n3]" {
			t.Errorf("%s: asked %v", name, s.asked)
		}
		tail = c.of(l.store, s.others("n2"), now)
		if got, lack, err = tail.Newest(t.Context(), c.text, 100); err != nil || lack != ui.LackDamaged || len(got) >= len(want) {
			t.Errorf("%s: nobody has them: %d lines, %q, %v", name, len(got), lack, err)
		}
		if _, all, err = tail.ReadAfter(t.Context(), c.text, want[0].Pos, 100); err != nil || all {
			t.Errorf("%s: nobody has what was missed: complete %v, %v", name, all, err)
		}
	}
}

// A line that is an event says so wherever lines are shown, and one of a log does not.
func TestEventsAreMarkedAmongLines(t *testing.T) {
	l := linesForLogQL(t)
	b := wire.LogBatch{Streams: []wire.LogStream{{
		Kind: wire.StreamEvent, Labels: wire.LabelsFromMap(map[string]string{"source": "journal", "host": "h1", "name": "unit_failed"}),
		Lines: []wire.LogLine{{T: 39e9 + 1, Text: []byte("kind=even n=99")}},
	}}}
	e := wire.LogEntry{Index: 41, Batches: []wire.AcceptedLogs{{Agent: "a", Body: wire.AppendLogs(nil, &b), Batch: &b}}}
	if err := l.store.ApplyLogs(41, []wire.LogEntry{e}); err != nil {
		t.Fatal(err)
	}
	tail := lineTails(l.store, nobody(t), func() int64 { return 100_000 })
	check := func(what string, rows []api.LogRow, err error) {
		t.Helper()
		kinds := map[string]int{}
		for i := range rows {
			kinds[rows[i].Kind]++
			if (rows[i].Kind == "event") != (rows[i].Pos == "41.0") {
				t.Errorf("%s: %+v", what, rows[i])
			}
		}
		if err != nil || kinds["event"] != 1 {
			t.Errorf("%s: %v, %v", what, kinds, err)
		}
	}
	ofTail := func(rows []ui.Row) (out []api.LogRow) {
		for i := range rows {
			var r api.LogRow
			if err := json.Unmarshal(rows[i].Row, &r); err != nil {
				t.Fatal(err)
			}
			out = append(out, r)
		}
		return out
	}
	for _, text := range []string{"kind", `{source="journal"} | logfmt | n >= 10`} {
		page, err := l.Query(t.Context(), api.LogQuery{Query: text, End: 100e9, Limit: 100})
		check("query "+text, page.Rows, err)
		var rows []api.LogRow
		_, err = l.Export(t.Context(), api.LogQuery{Query: text, End: 100e9}, func() func(*api.LogRow) error {
			return func(r *api.LogRow) error {
				rows = append(rows, *r)
				return nil
			}
		})
		check("export "+text, rows, err)
		newest, _, err := tail.Newest(t.Context(), text, 3)
		check("tail "+text, ofTail(newest), err)
		m, err := tail.Compile(text)
		if err != nil {
			t.Fatal(err)
		}
		row, _ := m.Match(t.Context(), &ui.Line{Pos: ui.Position{Index: 41}, Kind: wire.StreamEvent, Labels: b.Streams[0].Labels, LogLine: b.Streams[0].Lines[0]})
		check("as it comes "+text, ofTail([]ui.Row{{Row: row}}), nil)
	}
	around, err := l.Context(t.Context(), "41.0", 39e9+1, 5, 5)
	check("context", around.Rows, err)
}
