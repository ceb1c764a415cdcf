package logql

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/triward/triward/agent/wire"
)

func parse(t testing.TB, text string) Expr {
	t.Helper()
	x, err := Parse(text)
	if err != nil {
		t.Fatal(text, err)
	}
	return x
}

// A window is open on the left and closed on the right, to the nanosecond.
func TestWindowsAreExact(t *testing.T) {
	ls := wire.Labels{{Name: "a", Value: "b"}}
	m := &memory{}
	for i := range int64(10) {
		m.lines = append(m.lines, Line{T: 1e9 + i, Labels: ls, Text: []byte("x")})
	}
	for _, c := range []struct {
		query string
		at    int64
		want  string
	}{
		{`count_over_time({a="b"}[1ns])`, 1e9, "1"},
		{`count_over_time({a="b"}[3ns])`, 1e9 + 5, "3"},
		{`count_over_time({a="b"}[4ns] offset 2ns)`, 1e9 + 5, "4"},
		{`count_over_time({a="b"}[100ns])`, 1e9 + 5, "6"},
		{`count_over_time({a="b"}[5ns] offset -4ns)`, 1e9, "5"},
	} {
		r, err := (&Engine{Source: m}).Instant(t.Context(), parse(t, c.query), c.at)
		must(t, err)
		if got := string(r.AppendJSON(nil)); !strings.Contains(got, `,"`+c.want+`"]`) {
			t.Errorf("%s at %d: %s", c.query, c.at, got)
		}
		if int64(len(m.lines)) < r.Stats.Lines || fmt.Sprint(r.Stats.Lines) != c.want {
			t.Errorf("%s: %d lines were read", c.query, r.Stats.Lines)
		}
	}
}

// endless is a source that never ends by itself; each line has its own id.
type endless struct{ every time.Duration }

func (s endless) Lines(ctx context.Context, q *Query, fn func(*Line) bool) (st SourceStats, err error) {
	ls := wire.Labels{{Name: "a", Value: "b"}}
	for i := int64(0); ; i++ {
		t := q.Start + i*int64(s.every)
		if t >= q.End || ctx.Err() != nil {
			return st, ctx.Err()
		}
		st.Lines++
		if !fn(&Line{T: t, Labels: ls, Text: fmt.Appendf(nil, `id=%d v=%d`, i, i%1000)}) {
			return st, nil
		}
	}
}

// Whatever is asked ends within bounds, with an error that says what to do.
func TestBounds(t *testing.T) {
	e := &Engine{Source: endless{time.Millisecond}, Limits: Limits{Series: 5000, Samples: 300_000, Result: 20_000, Memory: 1 << 20, Bytes: 100_000}}
	day := Params{Start: 0, End: 86400e9, Step: time.Minute}
	for query, says := range map[string]string{
		`count_over_time({a="b"} | logfmt [1m])`:                                             "more than 5000 series",
		`sum(count_over_time({a="b"}[1d]))`:                                                  "300000 lines",
		`quantile_over_time(0.5, {a="b"} | logfmt | keep v | unwrap v [1d])`:                 "take more than 1 MiB",
		`sum_over_time({a="b"} | logfmt k="v", v | unwrap v [1d])`:                           "take more than 1 MiB",
		`count_over_time({a="b"} | logfmt v | label_format v="{{mod .v 100}}" | keep v[1s])`: "more than 20000 points",
	} {
		step := day
		if strings.Contains(says, "points") {
			step.Step = 100 * time.Millisecond
			step.End = 300e9
		}
		if strings.Contains(query, "k=") {
			step.Step = 10 * time.Second
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := e.Range(t.Context(), parse(t, query), step)
		runtime.ReadMemStats(&after)
		var le *LimitError
		if !errors.As(err, &le) || !strings.Contains(err.Error(), says) || !errors.Is(err, ErrQuery) || le.Hint == "" {
			t.Errorf("%s: %v", query, err)
		}
		if n := int64(after.HeapInuse) - int64(before.HeapInuse); n > 64<<20 {
			t.Errorf("%s: the heap grew by %d MiB", query, n>>20)
		}
	}
	if _, err := e.Range(t.Context(), parse(t, `vector(1)`), Params{End: 86400e9, Step: time.Second}); err == nil || !strings.Contains(err.Error(), "11000 are allowed") {
		t.Error(err)
	}
	for _, p := range []Params{{Start: 1, End: 0, Step: 1}, {End: 1}, {End: 1, Step: -1}} {
		if _, err := e.Range(t.Context(), parse(t, `vector(1)`), p); !errors.Is(err, ErrQuery) {
			t.Errorf("%+v: %v", p, err)
		}
	}
	r, err := e.Range(t.Context(), parse(t, `{a="b"}`), Params{End: 86400e9, Limit: 5000, Oldest: true})
	if err != nil || len(r.Warnings) != 1 || len(r.Streams) != 1 || len(r.Streams[0].Entries) > 2000 {
		t.Errorf("an answer of many bytes: %v", err)
	}
	if _, err := e.Range(t.Context(), parse(t, `{a="b"}`), Params{End: 1, Limit: 5001}); !errors.Is(err, ErrQuery) {
		t.Error(err)
	}
}

// Series are bounded by the bytes of their labels too, which a parser makes of lines that may be long, and by those of what is made
// of them.
func TestMemoryOfLabels(t *testing.T) {
	long := strings.Repeat("x", 10<<10)
	m := &memory{}
	for i := range int64(300) {
		m.lines = append(m.lines, Line{T: i, Labels: wire.Labels{{Name: "a", Value: "b"}}, Text: fmt.Appendf(nil, "id=%d long=%s", i, long)})
	}
	for query, most := range map[string]int64{ // MiB that suffice
		`count_over_time({a="b"} | logfmt [1s])`:                                                                6,
		`topk(3, count_over_time({a="b"} | logfmt [1s]))`:                                                       6,
		`max_over_time({a="b"} | logfmt | unwrap id [1s])`:                                                      1,
		`label_replace(count_over_time({a="b"} | logfmt [1s]), "c", "$1", "id", "(.*)")`:                        12,
		`sum without (a) (count_over_time({a="b"} | logfmt [1s]))`:                                              6,
		`max without (a) (count_over_time({a="b"} | logfmt [1s]))`:                                              12,
		`count_over_time({a="b"} | logfmt [1s]) * on (id, long) count_over_time({a="b"} | logfmt | drop a[1s])`: 12,
		`sum by (id) (count_over_time({a="b"} | logfmt [1s]))`:                                                  1,
	} {
		for limit := most - 1; limit <= most; limit++ {
			if limit == 0 {
				continue
			}
			e := &Engine{Source: m, Limits: Limits{Memory: limit << 20}}
			_, err := e.Instant(t.Context(), parse(t, query), 299)
			var le *LimitError
			if large := errors.As(err, &le); large != (limit < most) || err != nil && !large {
				t.Errorf("%s within %d MiB: %v", query, limit, err)
			}
		}
	}
}

// Operators within operators hold no more than one: what is held is counted over the query, and given back.
func TestPointsThatOperatorsHold(t *testing.T) {
	m := &memory{lines: []Line{{T: 1, Labels: wire.Labels{{Name: "a", Value: "b"}}, Text: []byte("x")}}}
	const steps = 100
	e := &Engine{Source: m, Limits: Limits{Result: steps + 10}}
	const x = `count_over_time({a="b"}[1h])`
	for query, fits := range map[string]bool{
		x + " + " + x:                                       true,
		x + " + " + x + " + " + x + " - " + x:               true,
		"(" + x + " + " + x + ") * (" + x + " + " + x + ")": false,
		x + " + (" + x + " + " + x + ")":                    false,
		x + " or (" + x + " or (" + x + " or " + x + "))":   false,
		"2 * (" + x + " + (1 + " + x + "))":                 true,
	} {
		_, err := e.Range(t.Context(), parse(t, query), Params{Start: 1, End: steps * 1e9, Step: time.Second})
		var le *LimitError
		if large := errors.As(err, &le); large == fits || err != nil && !large {
			t.Errorf("%s: %v", query, err)
		}
	}
}

// The windows hold what lies within them and not what was there before: a day of lines takes as much as an hour.
func TestMemoryOfWindows(t *testing.T) {
	e := &Engine{Source: endless{100 * time.Millisecond}, Limits: Limits{Memory: 512 << 10}}
	for _, query := range []string{
		`max_over_time({a="b"} | logfmt v | unwrap v [5m])`, `quantile_over_time(0.9, {a="b"} | logfmt v | unwrap v [5m])`,
		`count_over_time({a="b"}[5m])`, `rate({a="b"}[5m]) + on () sum_over_time({a="b"} | logfmt v | unwrap v [5m])`,
	} {
		r, err := e.Range(t.Context(), parse(t, query), Params{End: 86400e9, Step: time.Minute})
		if err != nil || len(r.Matrix) != 1 {
			t.Errorf("%s: %v", query, err)
		}
	}
}

func TestEvaluationEndsWithItsContext(t *testing.T) {
	for _, query := range []string{`{a="b"} |= "nothing such"`, `count_over_time({a="b"}[1h])`, `sum_over_time({a="b"} | logfmt | unwrap none [1h])`} {
		ctx, cancel := context.WithCancel(t.Context())
		e := &Engine{Source: endless{time.Nanosecond}}
		n := 0
		stop := sourceFunc(func(_ context.Context, q *Query, fn func(*Line) bool) (SourceStats, error) {
			return e.Source.Lines(context.Background(), q, func(l *Line) bool { // a source that does not look at its context
				if n++; n == 5000 {
					cancel()
				}
				return fn(l)
			})
		})
		_, err := (&Engine{Source: stop}).Range(ctx, parse(t, query), Params{End: 3600e9, Step: time.Hour})
		if !errors.Is(err, context.Canceled) || n > 8000 {
			t.Errorf("%s: %v after %d lines", query, err, n)
		}
		cancel()
	}
}

type sourceFunc func(context.Context, *Query, func(*Line) bool) (SourceStats, error)

func (f sourceFunc) Lines(ctx context.Context, q *Query, fn func(*Line) bool) (SourceStats, error) {
	return f(ctx, q, fn)
}

func TestDamageIsTold(t *testing.T) {
	src := sourceFunc(func(context.Context, *Query, func(*Line) bool) (SourceStats, error) {
		return SourceStats{Partial: true, Damaged: []string{"block 7"}, Expired: true}, nil
	})
	for _, query := range []string{`{a="b"}`, `count_over_time({a="b"}[1m])`, `rate({a="b"}[1m]) + rate({a="b"}[1m])`} {
		r, err := (&Engine{Source: src}).Range(t.Context(), parse(t, query), Params{End: 1e9, Step: time.Second})
		if err != nil || len(r.Warnings) != 2 || !strings.Contains(r.Warnings[0], "block 7") || !strings.Contains(r.Warnings[1], "retention") {
			t.Errorf("%s: %v %v", query, r, err)
		}
	}
	broken := errors.New("the disk is gone")
	src = func(context.Context, *Query, func(*Line) bool) (SourceStats, error) { return SourceStats{}, broken }
	for _, query := range []string{`{a="b"}`, `count_over_time({a="b"}[1m])`} {
		if _, err := (&Engine{Source: src}).Range(t.Context(), parse(t, query), Params{End: 1e9, Step: time.Second}); !errors.Is(err, broken) || errors.Is(err, ErrQuery) {
			t.Errorf("%s: %v", query, err)
		}
	}
}

func TestLabelsApart(t *testing.T) {
	m := &memory{lines: []Line{
		{T: 1, Labels: wire.Labels{{Name: "app", Value: "x"}}, Severity: wire.SeverityError, Text: []byte("k=v app=y"), Fields: []wire.Label{{Name: "trace.id", Value: "t"}}},
		{T: 2, Labels: wire.Labels{{Name: "app", Value: "x"}}, Text: []byte("bad\xffbytes")},
	}}
	e := &Engine{Source: m, Levels: true}
	r, err := e.Range(t.Context(), parse(t, `{app="x"} | logfmt`), Params{End: 10, Oldest: true, Categorize: true})
	must(t, err)
	want := `"resultType":"streams","result":[{"stream":{"app":"x"},"values":[["1","k=v app=y",{"structuredMetadata":{"detected_level":"error","trace_id":"t"},"parsed":{"app_extracted":"y","k":"v"}}],["2","bad\ufffdbytes",{}]]}]`
	if got := string(r.AppendJSON(nil)); got != want {
		t.Errorf("%s\n%s", got, want)
	}
	r, err = e.Range(t.Context(), parse(t, `{app="x"} | logfmt`), Params{End: 10, Oldest: true})
	must(t, err)
	if got := string(r.AppendJSON(nil)); !strings.Contains(got, `{"app":"x","app_extracted":"y","detected_level":"error","k":"v","trace_id":"t"}`) {
		t.Error(got)
	}
	r, err = e.Range(t.Context(), parse(t, `{app="x"} | detected_level="error" | trace_id="t"`), Params{End: 10})
	must(t, err)
	if len(r.Streams) != 1 {
		t.Error("a name with an underscore stands for one with a dot")
	}
}

func TestInterval(t *testing.T) {
	r, err := (&Engine{Source: endless{time.Second}}).Range(t.Context(), parse(t, `{a="b"}`), Params{End: 100e9, Interval: 30 * time.Second, Oldest: true})
	must(t, err)
	if len(r.Streams) != 1 || len(r.Streams[0].Entries) != 4 || r.Streams[0].Entries[1].T != 30e9 {
		t.Errorf("%+v", r.Streams)
	}
}

func TestTail(t *testing.T) {
	m, err := Tail(parse(t, `{a="b"} |= "x" | logfmt | k="v" | line_format "{{.k}}!"`), false, nil)
	must(t, err)
	b, c := wire.Labels{{Name: "a", Value: "b"}}, wire.Labels{{Name: "a", Value: "c"}}
	text := []byte("x k=v")
	for range 2 {
		ls, line, ok := m.Match(&Line{Labels: b, Text: text})
		if !ok || line != "v!" || ls.Get("k") != "v" {
			t.Error(ls, line, ok)
		}
	}
	for _, l := range []Line{{Labels: c, Text: text}, {Labels: b, Text: []byte("k=v")}, {Labels: b, Text: []byte("x k=w")}, {Text: text}} {
		if _, _, ok := m.Match(&l); ok {
			t.Errorf("%v", l)
		}
	}
	plain, err := Tail(parse(t, `{a="b"}`), false, nil)
	must(t, err)
	_, line, _ := plain.Match(&Line{Labels: b, Text: text})
	copy(text, "XXXXX")
	if line != "x k=v" {
		t.Error("the line shares memory:", line)
	}
	if _, err := Tail(parse(t, `vector(1)`), false, nil); !errors.Is(err, ErrQuery) {
		t.Error(err)
	}
	if q := m.Query(); len(q.Lines) != 1 || len(q.Selector) != 1 {
		t.Errorf("%+v", q)
	}
}

// Answers share nothing with the source, whose memory is overwritten behind each line (see memory).
func TestNumbersThatAreHardToAdd(t *testing.T) {
	var m memory
	ls := wire.Labels{{Name: "a", Value: "b"}}
	for i, v := range []string{"1e100", "1", "-1e100", "1"} {
		m.lines = append(m.lines, Line{T: int64(i) * 1e9, Labels: ls, Text: []byte("v=" + v)})
	}
	at := func(query string, vs ...string) float64 {
		t.Helper()
		src := &m
		if vs != nil {
			src = &memory{}
			for i, v := range vs {
				src.lines = append(src.lines, Line{T: int64(i) * 1e9, Labels: ls, Text: []byte("v=" + v)})
			}
		}
		r, err := (&Engine{Source: src}).Instant(t.Context(), parse(t, query), 60e9)
		must(t, err)
		if len(r.Vector) != 1 {
			t.Fatal(query, r)
		}
		return r.Vector[0].V
	}
	if v := at(`sum_over_time({a="b"} | logfmt | unwrap v [2m])`); v != 2 {
		t.Error("lost digits:", v)
	}
	if v := at(`stddev_over_time({a="b"} | logfmt | unwrap v [2m])`, "1000000000.1", "1000000000.2", "1000000000.3"); math.Abs(v-0.0816496580927726) > 1e-6 {
		t.Error("stddev far from zero:", v)
	}
	if v := at(`max_over_time({a="b"} | logfmt | unwrap v [2m])`, "NaN", "3", "NaN"); v != 3 {
		t.Error("NaN is no maximum:", v)
	}
	if v := at(`sum_over_time({a="b"} | logfmt | unwrap v [2m])`, "+Inf", "1"); !math.IsInf(v, 1) {
		t.Error(v)
	}
	for _, op := range []string{"topk", "bottomk"} {
		r, err := (&Engine{Source: &memory{}}).Instant(t.Context(), parse(t, op+`(1, vector(NaN) or label_replace(vector(1), "a", "b", "c", ""))`), 0)
		must(t, err)
		if len(r.Vector) != 1 || r.Vector[0].V != 1 {
			t.Error(op, "puts NaN first:", r.Vector)
		}
	}
}

func BenchmarkEngine(b *testing.B) {
	const n = 100_000
	m := &bench{}
	for i := range n {
		ls := wire.Labels{{Name: "app", Value: fmt.Sprint("app-", i%50)}, {Name: "host", Value: fmt.Sprint("h", i%7)}}
		if i >= 350 {
			ls = m.lines[i%350].Labels
		}
		m.lines = append(m.lines, Line{
			T: int64(i) * 1e7, Labels: ls,
			Text: fmt.Appendf(nil, `{"level":"info","msg":"request done","status":%d,"dur":"%dms","req":{"path":"/a/b","id":"%08x"}}`, 200+i%3, i%500, i*7919),
		})
	}
	for _, query := range []string{
		`{app=~".+"} |= "nothing"`,
		`{app=~".+"} | json | status=201`,
		`sum(count_over_time({app=~".+"}[1m]))`,
		`sum by (app) (rate({app=~".+"} |= "0" [1m]))`,
		`count_over_time({app=~".+"}[1m])`,
		`sum by (status) (count_over_time({app=~".+"} | json [1m]))`,
		`quantile_over_time(0.99, {app=~".+"} | json | unwrap duration(dur) [1m]) by (app)`,
		"{app=~\".+\"} | json | line_format `{{.msg}} {{.status}}` |= \"nothing\"",
	} {
		b.Run(query, func(b *testing.B) {
			b.ReportAllocs()
			x := parse(b, query)
			for b.Loop() {
				if _, err := (&Engine{Source: m}).Range(b.Context(), x, Params{Start: 0, End: n * 1e7, Step: 10 * time.Second}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/line")
		})
	}
}

// bench hands out lines as they are.
type bench struct{ lines []Line }

func (m *bench) Lines(_ context.Context, q *Query, fn func(*Line) bool) (st SourceStats, err error) {
	for i := range m.lines {
		if l := &m.lines[i]; l.T >= q.Start && l.T < q.End && bytes.HasPrefix(l.Text, []byte("{")) && !fn(l) {
			break
		}
	}
	return st, nil
}
