package lines

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/triward/triward/agent/spool"
	"github.com/triward/triward/agent/wire"
)

func TestTime(t *testing.T) {
	now := time.Date(2026, 11, 23, 22, 0, 0, 0, time.UTC)
	p := &Parser{Zone: time.FixedZone("", 3600)}
	for line, want := range map[string]string{
		"2026-11-23T21:00:01Z x":                              "2026-11-23T21:00:01Z",
		"2026-11-23T21:00:01.123456789+02:00 x":               "2026-11-23T19:00:01.123456789Z",
		"2026-11-23 21:00:01,250 INFO x":                      "2026-11-23T20:00:01.25Z",
		"[2026-11-23 21:00:01.5] x":                           "2026-11-23T20:00:01.5Z",
		"2026/11/23 21:00:01 [error] nginx":                   "2026-11-23T20:00:01Z",
		"Nov 23 21:00:01 host app: x":                         "2026-11-23T20:00:01Z",
		"<34>Nov  3 01:00:01 host app: x":                     "2026-11-03T00:00:01Z",
		"<34>1 2026-11-23T21:00:01Z host app - - x":           "2026-11-23T21:00:01Z",
		"Dec 31 23:59:59 host app: last year":                 "2025-12-31T22:59:59Z",
		"I1123 21:00:01.000002   12 main.go:1] x":             "2026-11-23T20:00:01.000002Z",
		`10.0.0.1 - - [23/Nov/2026:21:00:01 +0000] "GET /"`:   "2026-11-23T21:00:01Z",
		`{"level":"info","time":"2026-11-23T21:00:01Z"}`:      "2026-11-23T21:00:01Z",
		`{"@timestamp": "2026-11-23T21:00:01.5+00:00","m":1}`: "2026-11-23T21:00:01.5Z",
		`level=info ts=2026-11-23T21:00:01Z msg=x`:            "2026-11-23T21:00:01Z",
		`time="2026-11-23T21:00:01+00:00" level=info`:         "2026-11-23T21:00:01Z",
		"no time here": "", "": "", "2026-13-23T21:00:01Z": "", "2026-11-23T25:00:01Z": "", "Nov": "", "[": "", "<": "", "{": "",
	} {
		got := ""
		if ns, ok := p.Time([]byte(line), now); ok {
			got = time.Unix(0, ns).UTC().Format(time.RFC3339Nano)
		}
		if got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}

func TestSeverity(t *testing.T) {
	for line, want := range map[string]wire.Severity{
		"2026-11-23T21:00:01Z ERROR x": wire.SeverityError, "[warn] x": wire.SeverityWarning,
		`{"level":"debug"}`: wire.SeverityDebug, `level=info msg="an error: none"`: wire.SeverityInfo,
		"panic: runtime error": wire.SeverityCritical, "<11>Nov 23 x": wire.SeverityError, "<165>1 x": wire.SeverityNotice,
		"E1123 21:00:01.000002 x": wire.SeverityError, "an error happened": wire.SeverityUnknown,
		"/var/log/error.log read": wire.SeverityUnknown, "error: no": wire.SeverityError, "": wire.SeverityUnknown,
		"ERROR_COUNT=0": wire.SeverityUnknown, "app[12]: Warning: x": wire.SeverityWarning, "CRIT x": wire.SeverityCritical,
	} {
		if got := Severity([]byte(line)); got != want {
			t.Errorf("%q: %s, want %s", line, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("<34>1 2026-11-23T21:00:01.123+02:00 ERROR"))
	f.Add([]byte("[23/Nov/2026:21:00:01 +0000]"))
	f.Add([]byte("I1123 21:00:01.1"))
	p := &Parser{}
	f.Fuzz(func(t *testing.T, b []byte) {
		p.Time(b, time.Unix(1e9, 0))
		Severity(b)
	})
}

// memory is a spool that remembers; it can be full, refuse what is longer than room, and fail.
type memory struct {
	mu      sync.Mutex
	coder   *wire.Coder
	full    bool
	room    int
	fail    error
	told    []string
	largest int
	batches []*wire.LogBatch
	state   map[string]string
	writes  int
}

func (m *memory) Append(_ wire.Lane, c spool.Content) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.fail != nil:
		return m.fail
	case m.full:
		return spool.ErrFull
	case c.RawLen > wire.MaxBatchRaw || m.room > 0 && c.RawLen > m.room:
		return fmt.Errorf("%w: %d bytes", spool.ErrTooLarge, c.RawLen)
	}
	for _, ch := range c.Changes {
		m.largest = max(m.largest, len(c.Changes)*len(ch.Value))
	}
	raw, err := m.coder.Decompress(nil, &wire.Batch{Codec: c.Codec, RawLen: c.RawLen, Body: c.Body})
	if err != nil {
		return err
	}
	b, err := wire.DecodeLogs(raw)
	if err != nil {
		return err
	}
	m.batches = append(m.batches, b)
	m.note(c.Changes)
	return nil
}

func (m *memory) AppendState(_ wire.Lane, changes []spool.StateChange) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.note(changes)
	return nil
}

func (m *memory) note(changes []spool.StateChange) {
	m.writes++
	for _, c := range changes {
		m.state[c.Key] = string(c.Value)
	}
}

func (m *memory) setFull(full bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.full = full
}

func (m *memory) setFail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = err
}

type at string

func (a at) EncodePosition() []byte { return []byte(a) }

func batcher(t *testing.T) (*Batcher, *memory) {
	t.Helper()
	coder, err := wire.NewCoder()
	if err != nil {
		t.Fatal(err)
	}
	m := &memory{coder: coder, state: map[string]string{}}
	tell := func(kind, text string) { m.told = append(m.told, kind+": "+text) }
	return NewBatcher(wire.LaneLogs, m, coder, nil, slog.New(slog.DiscardHandler), tell), m
}

func stream(name string) *Stream {
	s, err := NewStream(wire.StreamLog, wire.Labels{{Name: "unit", Value: name}})
	if err != nil {
		panic(err)
	}
	return s
}

func TestBatchesByAgeSizeAndStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, m := batcher(t)
		s := stream("a")
		add := func(s *Stream, size int, pos string) {
			t.Helper()
			if err := b.Add(t.Context(), s, wire.LogLine{Text: make([]byte, size)}, Mark{"k", at(pos)}); err != nil {
				t.Fatal(err)
			}
		}
		add(s, 10, "1")
		time.Sleep(900 * time.Millisecond)
		synctest.Wait()
		if len(m.batches) != 0 {
			t.Error("a young batch was written")
		}
		add(s, 10, "2")
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		if len(m.batches) != 1 || m.state["k"] != "2" {
			t.Errorf("%d batches, state %v", len(m.batches), m.state)
		}
		for written := len(m.batches); len(m.batches) == written; {
			add(s, 1000, "3")
		}
		if raw := len(wire.AppendLogs(nil, m.batches[len(m.batches)-1])); raw < batchRaw-10_000 || raw > batchRaw+1000 {
			t.Errorf("lines in one moment made a batch of %d bytes", raw)
		}
		before := len(m.batches)
		for range 2 {
			add(s, wire.MaxLine, "3") // two of them are more than a batch may hold
		}
		if len(m.batches) < before+2 {
			t.Errorf("%d batches after long lines, %d before", len(m.batches), before)
		}
		before = len(m.batches)
		for i := range wire.MaxStreams + 1 {
			add(stream(fmt.Sprint(i)), 1, "4")
		}
		if err := b.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if len(m.batches) < before+2 || m.state["k"] != "4" {
			t.Errorf("%d batches after many streams, state %v", len(m.batches), m.state)
		}
	})
}

func TestPositionsWithoutLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, m := batcher(t)
		for i := range 50 {
			b.Note(t.Context(), Mark{"k", at(fmt.Sprint(i))})
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if m.state["k"] != "49" || m.writes != 1 {
			t.Errorf("state %v in %d writes", m.state, m.writes)
		}
		b.Note(t.Context(), Mark{Key: "k"})
		if err := b.Close(t.Context()); err != nil || m.state["k"] != "" {
			t.Errorf("state %v, %v", m.state, err)
		}
	})
}

func TestFullSpoolMakesAddWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, m := batcher(t)
		m.setFull(true)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		n := 0
		var err error
		for ; err == nil && n < 1000; n++ {
			err = b.Add(ctx, stream("a"), wire.LogLine{Text: make([]byte, 1000)}, Mark{"k", at(fmt.Sprint(n))})
		}
		if !errors.Is(err, context.DeadlineExceeded) || n > 2*batchRaw/1000 {
			t.Fatalf("%d lines were taken, then %v", n, err)
		}
		m.setFull(false)
		if err := b.Close(t.Context()); err != nil {
			t.Error(err)
		}
		lines := 0
		for _, batch := range m.batches {
			lines += len(batch.Streams[0].Lines)
		}
		if want := fmt.Sprint(lines - 1); lines != n-1 || m.state["k"] != want {
			t.Errorf("%d lines written, %d taken, state %v", lines, n-1, m.state)
		}
	})
}

func TestValid(t *testing.T) {
	for in, want := range map[string]string{
		"abc": "abc", "日志": "日志", "\xb2\xe2.log": `\xb2\xe2.log`, "a\xff": `a\xff`, "12345678": "12345678",
		"123456789": "12345678", "1234567日": "1234567", "12345\xff": "12345", "": "", "\ufffd": "\ufffd",
	} {
		limit := 8
		if strings.Contains(in, "log") {
			limit = 100
		}
		if got := Valid(in, limit); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestStreamsThatTheGatewayRefuses(t *testing.T) {
	var many wire.Labels
	for i := range wire.MaxStreamLabels - 1 {
		many = append(many, wire.Label{Name: fmt.Sprintf("l%02d", i), Value: "x"})
	}
	for name, ls := range map[string]wire.Labels{
		"no UTF-8": {{Name: "file", Value: "\xb2\xe2.log"}}, "long": {{Name: "file", Value: strings.Repeat("x", wire.MaxLabelValue+1)}},
		"no room for agent and host": many,
	} {
		if _, err := NewStream(wire.StreamLog, ls); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if _, err := NewStream(wire.StreamLog, many[1:]); err != nil {
		t.Error(err)
	}
}

// TestAnyLineFits: whatever a source hands over becomes a line that the wire takes, with its neighbours.
func TestAnyLineFits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, m := batcher(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		long := strings.Repeat("x", 600<<10)
		labels := wire.Labels{}
		fields := []wire.Label{{Name: "a", Value: "1"}, {Name: "big", Value: long}, {Name: "u", Value: "2"}}
		for i := range wire.MaxStreamLabels - 2 {
			labels = append(labels, wire.Label{Name: fmt.Sprintf("%0128d", i), Value: long[:wire.MaxLabelValue]})
		}
		s, err := NewStream(wire.StreamLog, labels)
		if err != nil {
			t.Fatal(err)
		}
		var wide []wire.Label
		for i := range wire.MaxFields + 5 {
			wide = append(wide, wire.Label{Name: fmt.Sprintf("f%03d", i), Value: "v"})
		}
		lines := []wire.LogLine{
			{Text: []byte("short")},
			{Text: []byte("short"), Fields: fields},
			{Text: []byte(long)},
			{Text: []byte("short"), Fields: wide},
			{Text: []byte("short"), Fields: []wire.Label{{Name: long[:200], Value: "v"}}},
			{Text: []byte(long), Fields: fields},
		}
		for i, line := range lines {
			if err := b.Add(ctx, s, line, Mark{"k", at(fmt.Sprint(i))}); err != nil {
				t.Fatalf("line %d: %v", i, err)
			}
		}
		if err := b.Close(ctx); err != nil {
			t.Fatal(err)
		}
		var got []wire.LogLine
		for _, batch := range m.batches {
			got = append(got, batch.Streams[0].Lines...)
		}
		if len(got) != len(lines) || m.state["k"] != "5" || b.Lost.Load() != 0 {
			t.Fatalf("%d lines, state %v, %d lost", len(got), m.state, b.Lost.Load())
		}
		for i, l := range got {
			cut := slices.ContainsFunc(l.Fields, func(f wire.Label) bool { return f.Name == "truncated" })
			sorted := slices.IsSortedFunc(l.Fields, func(a, b wire.Label) int { return strings.Compare(a.Name, b.Name) })
			if cut != (i > 0) || !sorted || i != 4 && i > 0 && i != 2 && len(l.Fields) < 3 {
				t.Errorf("line %d: cut %v, sorted %v, %d fields", i, cut, sorted, len(l.Fields))
			}
		}
	})
}

// TestWhatNeverFitsDoesNotStopTheRest: a batch that the spool can never take is cut; a line like that is given up,
// counted and told, and the position goes on.
func TestWhatNeverFitsDoesNotStopTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, m := batcher(t)
		m.room = 500
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for i := range 20 {
			size := 100
			if i == 7 {
				size = 1000
			}
			if err := b.Add(ctx, stream(fmt.Sprint(i%3)), wire.LogLine{T: int64(i), Text: make([]byte, size)}, Mark{"k", at(fmt.Sprint(i))}); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.Close(ctx); err != nil {
			t.Fatal(err)
		}
		seen := map[int64]int{}
		for _, batch := range m.batches {
			for _, s := range batch.Streams {
				for _, l := range s.Lines {
					seen[l.T]++
				}
			}
		}
		for i := range int64(20) {
			if want := 1; i != 7 && seen[i] != want || i == 7 && seen[i] != 0 {
				t.Errorf("line %d is there %d times", i, seen[i])
			}
		}
		if m.state["k"] != "19" || b.Lost.Load() != 1 || len(m.told) != 1 || !strings.HasPrefix(m.told[0], "lost: a line of") {
			t.Errorf("state %v, %d lost, told %q", m.state, b.Lost.Load(), m.told)
		}
	})
}

// TestErrorsThatDoNotPass: only a full lane and a disk that does not write now are waited for.
func TestErrorsThatDoNotPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, m := batcher(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		m.setFail(&fs.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC})
		if err := b.Add(ctx, stream("a"), wire.LogLine{Text: []byte("x")}, Mark{"k", at("1")}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		m.setFail(nil)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if m.state["k"] != "1" || b.Waits.Load() != 1 {
			t.Errorf("state %v after the disk was full", m.state)
		}
		m.setFail(errors.New("never heard of"))
		if err := b.Add(ctx, stream("a"), wire.LogLine{Text: []byte("y")}, Mark{"k", at("2")}); err != nil {
			t.Fatal(err)
		}
		if err := b.Flush(ctx); err == nil || ctx.Err() != nil {
			t.Errorf("an error that nobody knows: %v", err)
		}
		m.setFail(nil)
		if err := b.Close(ctx); err != nil {
			t.Error(err)
		}
	})
}

// TestPositionsOfManyFiles: positions are long paths; those that move with lines keep to what a record may hold.
func TestPositionsOfManyFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, m := batcher(t)
		long := strings.Repeat("p", 8<<10)
		for i := range 1000 {
			b.Note(t.Context(), Mark{fmt.Sprintf("note%d", i), at(long)})
			if err := b.Add(t.Context(), stream("a"), wire.LogLine{Text: []byte("x")}, Mark{fmt.Sprintf("line%d", i), at(long)}); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(m.state) != 2000 || m.largest > 2<<20 {
			t.Errorf("%d positions, %d bytes with one batch", len(m.state), m.largest)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	line := []byte("2026-11-23T21:00:01.123Z host app[123]: INFO request 4711 from 10.0.0.1 took 12 ms")
	p, now := &Parser{}, time.Now()
	for b.Loop() {
		p.Time(line, now)
		Severity(line)
	}
}

// TestSeverityOfAWord: a sender's label and a word in a line are read alike.
func TestSeverityOfAWord(t *testing.T) {
	for word, want := range map[string]wire.Severity{
		"Informational": wire.SeverityInfo, "inf": wire.SeverityInfo, "WRN": wire.SeverityWarning, "emergency": wire.SeverityCritical,
		"trace": wire.SeverityDebug, "": wire.SeverityUnknown, "informationally": wire.SeverityUnknown, "err0r": wire.SeverityUnknown,
	} {
		if a, b := SeverityOf(word), SeverityOf([]byte(word)); a != want || b != want {
			t.Errorf("%q: %v and %v, want %v", word, a, b, want)
		}
	}
}
