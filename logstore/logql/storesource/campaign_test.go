package storesource

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore"
	"github.com/triward/triward/logstore/logql"
)

// A campaign asks random queries over lines such as nobody expects, of which the store makes blocks, merges some and leaves some in
// the inbox. Each answer must be what the engine makes of a plain list of the same lines. TRIWARD_CAMPAIGN is how many minutes it goes on,
// TRIWARD_SEED the first seed.
type campaign struct{ *rand.Rand }

func (c campaign) pick(of ...string) string { return of[c.IntN(len(of))] }

func (c campaign) value() string {
	return c.pick("u1", "U1", "ß", "ſ", "\u212A", "K", "e\u0301", "é", "磁盘", "磁 盘", "👩‍👧", "x\u200by", "0", "-0", "007", "1e308", "1e309", "NaN", "Inf", "0x1F", "1_0", "９", ".5", "5.",
		"12", "12.50", "5ms", "1h30m", "1.5KiB", "2MB", "10.0.0.7", "beef", "null", "true", "a=b", "<*>", "", strconv.Itoa(c.IntN(30)), strconv.Itoa(c.IntN(30)),
		strings.Repeat("long", 300), fmt.Sprintf("%x", c.Uint32()))
}

func (c campaign) text() []byte {
	number := strconv.Itoa(c.IntN(40))
	switch c.IntN(9) {
	case 0, 1:
		return fmt.Appendf(nil, `{"n":%s,"lvl":"%s","o":{"k":%t,"app":"in","d.e":%q},"list":[1,{"n":2}]}`, number, c.pick("info", "error"), c.IntN(2) == 0, c.value())
	case 2, 3:
		return fmt.Appendf(nil, `lvl=%s n=%s took=%s msg="%s done" user=%s`, c.pick("info", "error", "warn"), c.pick(number, c.value()), c.value(), c.value(), c.value())
	case 4:
		return fmt.Appendf(nil, "%s GET /api/v%d/%s HTTP %d\x00", c.pick("10.0.0.7", "10.0.3.9", "::1"), c.IntN(3), c.value(), 200+c.IntN(3)*100)
	case 5:
		return fmt.Appendf(nil, `{"_entry":"%s n=%s","lvl":"%s"}`, c.pick("packed", "line"), number, c.pick("info", "warn"))
	case 6:
		return fmt.Appendf(nil, "\x1b[31m%s\x1b[0m failed \xff after %s tries\r\n", c.value(), number)
	case 7:
		return []byte(c.pick("", " ", "\n", "{}", "{", "=", "n=", `n="`, `{"n":1}}`, `{"n":1,"n":2}`, `{"a":{"n":`, "\x00", "磁盘空间不足"))
	}
	return fmt.Appendf(nil, "error: connection %s from %s closed", number, c.pick("10.0.0.7", "10.0.3.9"))
}

func (c campaign) corpus(n int) (f flat) {
	var streams []wire.Labels
	for _, app := range []string{"web", "db"} {
		streams = append(streams, wire.LabelsFromMap(map[string]string{"app": app, "env": "prod"}), wire.LabelsFromMap(map[string]string{"app": app, "a_b": "1"}))
	}
	for range n {
		l := logql.Line{T: (1_700_000_000 + c.Int64N(600)) * 1e9, Labels: streams[c.IntN(len(streams))], Text: c.text(), Severity: wire.Severity(c.IntN(7))}
		if c.IntN(3) == 0 {
			l.T += c.Int64N(1e9)
		}
		if c.IntN(3) == 0 {
			fields := map[string]string{}
			for range 1 + c.IntN(3) {
				if v := c.value(); v != "" {
					fields[c.pick("user", "n", "app", "a.b", "a b", "env", "状态", "trace-id", "_x", "9", "lvl", "detected_level")] = v
				}
			}
			l.Fields = wire.LabelsFromMap(fields)
		}
		f = append(f, l)
	}
	return f
}

// store takes the lines in batches, and seals, merges and indexes now and then. It returns the lines in the order of time and of their places in
// the log.
func (c campaign) store(t *testing.T, f flat) (*logstore.Store, flat) {
	t.Helper()
	s, err := logstore.New(logstore.Options{
		Manual: true, CacheBytes: 1 << 20, MemTableBytes: 1 << 20,
		Now: func() time.Time { return time.Unix(1_700_000_000, 0).Add(72 * time.Hour) },
	})
	must(t, err)
	s.SetFormat(2)
	must(t, s.Open(t.TempDir()))
	t.Cleanup(func() { must(t, s.Close()) })
	var in flat // in the order of the log
	index := uint64(0)
	for rest := f; len(rest) > 0; {
		n := min(len(rest), 1+c.IntN(400))
		batch, rest2 := slices.Clone(rest[:n]), rest[n:]
		slices.SortStableFunc(batch, func(x, y logql.Line) int {
			return slices.CompareFunc(x.Labels, y.Labels, func(x, y wire.Label) int { return strings.Compare(x.Name+x.Value, y.Name+y.Value) })
		})
		var b wire.LogBatch
		for i, l := range batch {
			if i == 0 || !slices.Equal(batch[i-1].Labels, l.Labels) {
				b.Streams = append(b.Streams, wire.LogStream{Kind: wire.StreamLog, Labels: l.Labels})
			}
			st := &b.Streams[len(b.Streams)-1]
			st.Lines = append(st.Lines, wire.LogLine{T: l.T, Text: l.Text, Fields: l.Fields, Severity: l.Severity})
		}
		index++
		e := wire.LogEntry{Index: index, Batches: []wire.AcceptedLogs{{Agent: "a", Body: wire.AppendLogs(nil, &b), Batch: &b}}}
		must(t, s.ApplyLogs(index, []wire.LogEntry{e}))
		in = append(in, batch...)
		if rest = rest2; c.IntN(3) > 0 {
			must(t, s.Work(t.Context(), true))
		}
	}
	slices.SortStableFunc(in, func(x, y logql.Line) int { return cmp.Compare(x.T, y.T) })
	return s, in
}

func (c campaign) stages() string {
	var b strings.Builder
	for range c.IntN(6) {
		b.WriteString(" " + c.pick(
			`|= "n="`, `|= "`+"\\x00"+`"`, `!= "error"`, `|~ "(?i)K"`, `|~ "^\\{.*\\}$"`, `!~ "n=[0-9]+\\b"`, `|= "盘"`, `|= "" or "x"`, `|~ "^$"`, `!~ ".+"`, `|= ip("10.0.0.0/16")`, `|> "<_>n=<_>"`, `!> "error<_>"`,
			"| json", "| json", "| json n, who=`o[\"d.e\"]`, k=`list[1].n`", "| logfmt", "| logfmt", "| logfmt --strict", "| logfmt --keep-empty", "| logfmt n, t=`took`", "| unpack", "| decolorize",
			"| regexp `(?P<ip>[0-9.]+) (?P<verb>[A-Z]+)`", "| pattern `<ip> <verb> <path> HTTP <code>`",
			`| n > 12`, `| n <= 30 or lvl="error"`, `| n == 0`, `| took > 1s`, `| took < 1KB`, `| lvl=~"in.*|err"`, `| lvl!="info"`, `| app="in"`, `| app!="web"`, `| user=""`, `| user=~".+"`, `| a_b="1"`, `| env=""`,
			`| detected_level="error"`, `| detected_level=~"warn|info"`, `| ip=ip("10.0.0.7")`, `| n_extracted!=""`,
			`| label_format x=n, app=lvl`, "| line_format `{{.n}}-{{.lvl}} {{__line__}}`", `| drop n, lvl="info"`, `| keep app, n, lvl`, `| __error__=""`, `| __error__=""`,
		))
	}
	return b.String()
}

func (c campaign) query() (text string, lines bool) {
	sel := c.pick(`{app="web"}`, `{app=~".+"}`, `{app!="db", env="prod"}`, `{a_b="1"}`, `{app=~"web|db", env=""}`) + c.stages()
	if c.IntN(2) == 0 {
		return sel, true
	}
	window := c.pick("[30s]", "[5m]", "[1s]", "[70s] offset 20s")
	of := c.pick("count_over_time", "rate", "bytes_over_time", "absent_over_time") + "(" + sel + window + ")"
	if c.IntN(2) == 0 {
		of = c.pick("sum_over_time", "max_over_time", "min_over_time", "first_over_time", "last_over_time", "avg_over_time", "stddev_over_time", "rate_counter") +
			"(" + sel + " | unwrap " + c.pick("n", "duration(took)", "bytes(took)", "k") + ` | __error__="" ` + window + ")"
	}
	return c.pick("", "sum by (app, lvl) (", "sum(", "topk(2, ", "count without (n) (", "quantile"[:0]) + of, false
}

func (c campaign) run(t *testing.T, seed uint64, queries int) (found int) {
	store, f := c.store(t, c.corpus(300+c.IntN(900)))
	s := Source{store}
	for range queries {
		text, lines := c.query()
		if n := strings.Count(text, "(") - strings.Count(text, ")"); n > 0 && !lines {
			text += strings.Repeat(")", n)
		}
		x, err := logql.Parse(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		start := (1_700_000_000 + c.Int64N(500)) * 1e9
		p := logql.Params{Start: start, End: start + 1 + c.Int64N(600e9), Step: time.Duration(1+c.IntN(90)) * time.Second, Limit: 1 + c.IntN(50)*c.IntN(50), Oldest: c.IntN(2) == 0, Categorize: c.IntN(3) == 0}
		if c.IntN(4) == 0 {
			p.Interval = 7 * time.Second
		}
		answer := func(src logql.Source) string {
			r, err := (&logql.Engine{Source: src, Levels: true}).Range(t.Context(), x, p)
			var bad *logql.PipelineError
			switch {
			case errors.As(err, &bad): // of which line is not the same with all
				return "a mistake"
			case err != nil:
				return err.Error()
			}
			r.Stats = logql.Stats{}
			return string(r.AppendJSON(nil))
		}
		want := answer(f)
		if got := answer(s); got != want {
			t.Fatalf("seed %d: %s, %+v\n   gives %.3000s\nexpected %.3000s", seed, text, p, got, want)
		}
		found += len(want)
	}
	return found
}

func TestCampaign(t *testing.T) {
	minutes, _ := strconv.ParseFloat(os.Getenv("TRIWARD_CAMPAIGN"), 64)
	first, _ := strconv.ParseUint(os.Getenv("TRIWARD_SEED"), 10, 64)
	found := 0
	for end, seed := time.Now().Add(time.Duration(minutes*float64(time.Minute))), first; seed == first || time.Now().Before(end); seed++ {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			found += campaign{rand.New(rand.NewPCG(seed, 19))}.run(t, seed, 150)
		})
		if t.Failed() {
			return
		}
	}
	if found < 100_000 {
		t.Errorf("answers of %d bytes: the queries find too little", found)
	}
}
