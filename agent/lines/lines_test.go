package lines

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
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

// memory is a spool that remembers; it can be full.
type memory struct {
	mu      sync.Mutex
	coder   *wire.Coder
	full    bool
	batches []*wire.LogBatch
	state   map[string]string
	writes  int
}

func (m *memory) Append(_ wire.Lane, c spool.Content) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.full {
		return spool.ErrFull
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

type at string

func (a at) EncodePosition() []byte { return []byte(a) }

func batcher(t *testing.T) (*Batcher, *memory) {
	t.Helper()
	coder, err := wire.NewCoder()
	if err != nil {
		t.Fatal(err)
	}
	m := &memory{coder: coder, state: map[string]string{}}
	return NewBatcher(wire.LaneLogs, m, coder, slog.New(slog.DiscardHandler)), m
}

func stream(name string) *Stream {
	return NewStream(wire.StreamLog, wire.Labels{{Name: "unit", Value: name}})
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
		for range 2 {
			add(s, wire.MaxLine, "3") // two of them are more than a batch may hold
		}
		if len(m.batches) < 2 {
			t.Errorf("%d batches after long lines", len(m.batches))
		}
		before := len(m.batches)
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
		if !errors.Is(err, context.DeadlineExceeded) || n > 100 {
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

func BenchmarkParse(b *testing.B) {
	line := []byte("2026-11-23T21:00:01.123Z host app[123]: INFO request 4711 from 10.0.0.1 took 12 ms")
	p, now := &Parser{}, time.Now()
	for b.Loop() {
		p.Time(line, now)
		Severity(line)
	}
}
