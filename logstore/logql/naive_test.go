package logql

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/logql/syntax"
)

// The naive evaluator answers a query straight from its definition: for each step it looks at every line, and it shares
// nothing with the engine but the tree of the expression. It knows the stages and functions that the generator below makes.

type naiveLine struct {
	text   string
	labels map[string]string
	own    map[string]bool // labels of stream and fields, which parsers must not replace
}

func (n *naiveLine) extract(name, value string, done map[string]bool) {
	if value == "" {
		return
	}
	if n.own[name] {
		name += "_extracted"
	}
	if !done[name] {
		n.labels[name] = value
		done[name] = true
	}
}

func naiveStart(l *Line) *naiveLine {
	n := &naiveLine{string(l.Text), map[string]string{}, map[string]bool{}}
	for _, x := range l.Labels {
		n.labels[x.Name], n.own[x.Name] = x.Value, true
	}
	for _, x := range l.Fields {
		name := x.Name
		if l.Labels.Get(name) != "" {
			name += "_extracted"
		}
		n.labels[name], n.own[name] = x.Value, true
	}
	return n
}

func (n *naiveLine) fail(name string) {
	if n.labels["__error__"] == "" {
		n.labels["__error__"] = name
	}
}

func (n *naiveLine) stage(s syntax.Stage) bool {
	switch s := s.(type) {
	case *syntax.LineFilter:
		any := false
		for _, a := range s.Alts {
			switch strings.Trim(string(s.Op), "|!") {
			case "=":
				any = any || strings.Contains(n.text, a.Text)
			case "~":
				any = any || regexp.MustCompile(a.Text).MatchString(n.text)
			case ">":
				any = any || regexp.MustCompile("(?s)^"+strings.ReplaceAll(regexp.QuoteMeta(a.Text), "<_>", ".*")+"$").MatchString(n.text)
			}
		}
		return any != (s.Op[0] == '!')
	case *syntax.JSON:
		n.json()
	case *syntax.Logfmt:
		n.logfmt()
	case *syntax.LabelFilter:
		return n.pred(s.Pred)
	case *syntax.LineFormat: // the generator makes only "<{{.name}}> {{__line__}}"
		name := strings.TrimSuffix(strings.TrimPrefix(s.Template, "<{{."), "}}> {{__line__}}")
		n.text = "<" + n.labels[name] + "> " + n.text
	case *syntax.LabelFormat:
		for _, it := range s.Items {
			if v, ok := n.labels[it.Src]; ok {
				n.labels[it.Dst] = v
				delete(n.labels, it.Src)
				delete(n.own, it.Src)
				delete(n.own, it.Dst)
			}
		}
	case *syntax.Drop:
		for _, it := range s.Items {
			if it.Matcher == nil || it.Matcher.Matches(n.labels[it.Name]) {
				delete(n.labels, it.Name)
				delete(n.own, it.Name)
			}
		}
	case *syntax.Keep:
		keep := map[string]string{}
		for _, it := range append(s.Items, syntax.NameMatch{Name: "__error__"}) {
			if v, ok := n.labels[it.Name]; ok && (it.Matcher == nil || it.Matcher.Matches(v)) {
				keep[it.Name] = v
			}
		}
		n.labels = keep
		for name := range n.own {
			if keep[name] == "" {
				delete(n.own, name)
			}
		}
	default:
		panic(fmt.Sprintf("%T", s))
	}
	return true
}

func (n *naiveLine) json() {
	var v map[string]any
	d := json.NewDecoder(strings.NewReader(n.text))
	d.UseNumber()
	if d.Decode(&v) != nil || v == nil || strings.TrimSpace(n.text[d.InputOffset():]) != "" {
		n.fail("JSONParserErr")
		return
	}
	done := map[string]bool{}
	var walk func(prefix string, v any)
	walk = func(prefix string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for k, x := range v {
				if prefix != "" {
					k = prefix + "_" + k
				}
				walk(k, x)
			}
		case string:
			n.extract(prefix, v, done)
		case json.Number, bool:
			n.extract(prefix, fmt.Sprint(v), done)
		}
	}
	walk("", v)
}

func (n *naiveLine) logfmt() {
	done := map[string]bool{}
	for _, p := range strings.Fields(n.text) {
		if k, v, ok := strings.Cut(p, "="); ok && k != "" && !strings.ContainsAny(v, `="`) && !strings.Contains(k, `"`) {
			n.extract(syntax.Sanitize(k), v, done)
		}
	}
}

func (n *naiveLine) pred(f syntax.Pred) bool {
	switch f := f.(type) {
	case *syntax.PredMatch:
		return f.Matches(n.labels[f.Name])
	case *syntax.PredBoth:
		if f.Or {
			return n.pred(f.Left) || n.pred(f.Right)
		}
		return n.pred(f.Left) && n.pred(f.Right)
	case *syntax.PredNumber:
		if n.labels["__error__"] != "" {
			return true
		}
		s, ok := n.labels[f.Name]
		if !ok {
			return false
		}
		v, err := strconv.ParseFloat(s, 64)
		if err != nil {
			n.fail("LabelFilterErr")
			return true
		}
		return map[string]bool{"==": v == f.Value, "!=": v != f.Value, ">": v > f.Value, ">=": v >= f.Value, "<": v < f.Value, "<=": v <= f.Value}[f.Op]
	}
	panic(fmt.Sprintf("%T", f))
}

// nv are series at one time, by their labels written out.
type nv map[string]naiveSample

type naiveSample struct {
	ls map[string]string
	v  float64
}

func (v nv) put(ls map[string]string, x float64) { v[naiveKey(ls)] = naiveSample{ls, x} }

func naiveKey(ls map[string]string) string {
	b, _ := json.Marshal(ls) // sorted
	return string(b)
}

func naiveGroup(ls map[string]string, g *syntax.Grouping) map[string]string {
	out := map[string]string{}
	for k, v := range ls {
		if g != nil && slices.Contains(g.Names, k) != g.Without {
			out[k] = v
		}
	}
	return out
}

type naiveFailure struct{ error }

func (m *memory) naive(e syntax.Metric, t int64) nv {
	switch e := e.(type) {
	case *syntax.Range:
		return m.naiveRange(e, t)
	case *syntax.Constant:
		return nv{"{}": {map[string]string{}, e.Value}}
	case *syntax.Vector:
		return naiveVector(e, m.naive(e.Expr, t))
	case *syntax.Binary:
		return m.naiveBinary(e, t)
	}
	panic(fmt.Sprintf("%T", e))
}

func (m *memory) naiveRange(e *syntax.Range, t int64) nv {
	type samples struct {
		ls map[string]string
		v  []float64
	}
	groups := map[string]*samples{}
	for i := range m.lines {
		l := &m.lines[i]
		at := l.T + int64(e.Offset)
		if at <= t-int64(e.Range) || at > t || !Selects(e.Log.Selector, l.Labels) {
			continue
		}
		n := naiveStart(l)
		if slices.ContainsFunc(e.Log.Stages, func(s syntax.Stage) bool { return !n.stage(s) }) {
			continue
		}
		v := float64(len(n.text))
		if e.Unwrap != nil {
			s, ok := n.labels[e.Unwrap.Label]
			if !ok && n.labels["__error__"] == "" {
				continue
			}
			var err error
			if v, err = strconv.ParseFloat(s, 64); err != nil {
				n.fail("SampleExtractionErr")
			}
			if slices.ContainsFunc(e.Unwrap.After, func(s syntax.Stage) bool { return !n.stage(s) }) {
				continue
			}
			delete(n.labels, e.Unwrap.Label)
		}
		if n.labels["__error__"] != "" {
			panic(naiveFailure{fmt.Errorf("%s", n.labels["__error__"])})
		}
		if e.Grouping != nil {
			n.labels = naiveGroup(n.labels, e.Grouping)
		}
		k := naiveKey(n.labels)
		if groups[k] == nil {
			groups[k] = &samples{ls: n.labels}
		}
		groups[k].v = append(groups[k].v, v)
	}
	out := nv{}
	if e.Op == syntax.OpAbsent {
		if len(groups) == 0 {
			ls := map[string]string{}
			for _, x := range e.Log.Selector {
				if x.Type == labels.MatchEqual && x.Value != "" {
					ls[x.Name] = x.Value
				}
			}
			out.put(ls, 1)
		}
		return out
	}
	for _, g := range groups {
		out.put(g.ls, naiveFold(e, g.v))
	}
	return out
}

func naiveFold(e *syntax.Range, vs []float64) float64 {
	n, sum := float64(len(vs)), 0.0
	for _, v := range vs {
		sum += v
	}
	variance := 0.0
	for _, v := range vs {
		variance += (v - sum/n) * (v - sum/n) / n
	}
	switch e.Op {
	case syntax.OpCount:
		return n
	case syntax.OpRate:
		if e.Unwrap == nil {
			return n / e.Range.Seconds()
		}
		return sum / e.Range.Seconds()
	case syntax.OpBytes, syntax.OpSum:
		return sum
	case syntax.OpBytesRate:
		return sum / e.Range.Seconds()
	case syntax.OpAvg:
		return sum / n
	case syntax.OpMin:
		return slices.Min(vs)
	case syntax.OpMax:
		return slices.Max(vs)
	case syntax.OpFirst:
		return vs[0]
	case syntax.OpLast:
		return vs[len(vs)-1]
	case syntax.OpStdvar:
		return variance
	case syntax.OpStddev:
		return math.Sqrt(variance)
	case syntax.OpQuantile:
		s := slices.Clone(vs)
		sort.Float64s(s)
		r := e.Param * (n - 1)
		i := int(r)
		if i+1 >= len(s) {
			return s[len(s)-1]
		}
		return s[i] + (r-float64(i))*(s[i+1]-s[i])
	}
	panic(e.Op)
}

func naiveVector(e *syntax.Vector, in nv) nv {
	groups := map[string][]naiveSample{}
	for _, k := range slices.Sorted(maps.Keys(in)) {
		g := naiveKey(naiveGroup(in[k].ls, e.Grouping))
		groups[g] = append(groups[g], in[k])
	}
	out := nv{}
	for _, all := range groups {
		ls := naiveGroup(all[0].ls, e.Grouping)
		vs := make([]float64, len(all))
		for i := range all {
			vs[i] = all[i].v
		}
		r := &syntax.Range{}
		switch e.Op {
		case syntax.AggSum:
			r.Op = syntax.OpSum
		case syntax.AggAvg:
			r.Op = syntax.OpAvg
		case syntax.AggMin:
			r.Op = syntax.OpMin
		case syntax.AggMax:
			r.Op = syntax.OpMax
		case syntax.AggCount:
			r.Op = syntax.OpCount
		case syntax.AggStddev:
			r.Op = syntax.OpStddev
		case syntax.AggTopK, syntax.AggBottomK:
			sort.SliceStable(all, func(i, j int) bool {
				a, b := all[i], all[j]
				if a.v == b.v {
					return compareLabels(wire.LabelsFromMap(a.ls), wire.LabelsFromMap(b.ls)) < 0
				}
				return (a.v > b.v) == (e.Op == syntax.AggTopK)
			})
			for _, s := range all[:min(len(all), e.Param)] {
				out.put(s.ls, s.v)
			}
			continue
		}
		out.put(ls, naiveFold(r, vs))
	}
	return out
}

func (m *memory) naiveBinary(e *syntax.Binary, t int64) nv {
	out := nv{}
	num, isNum := e.Right.(*syntax.Number)
	left := m.naive(e.Left, t)
	var right nv
	if !isNum {
		right = m.naive(e.Right, t)
	}
	sig := func(ls map[string]string) string {
		if e.Matching == nil {
			return naiveKey(ls)
		}
		return naiveKey(naiveGroup(ls, &syntax.Grouping{Without: !e.Matching.On, Names: e.Matching.Names}))
	}
	for _, a := range left {
		if isNum {
			naiveOperate(e, out, a.ls, a.v, num.Value)
			continue
		}
		partner := 0
		for _, b := range right {
			if sig(a.ls) == sig(b.ls) {
				if partner++; e.Op != "and" && e.Op != "or" && e.Op != "unless" {
					naiveOperate(e, out, a.ls, a.v, b.v)
				}
			}
		}
		if e.Op == "or" || e.Op == "and" && partner > 0 || e.Op == "unless" && partner == 0 {
			out.put(a.ls, a.v)
		}
	}
	if e.Op == "or" {
		for _, b := range right {
			has := false
			for _, a := range left {
				has = has || sig(a.ls) == sig(b.ls)
			}
			if !has {
				out.put(b.ls, b.v)
			}
		}
	}
	return out
}

func naiveOperate(e *syntax.Binary, out nv, ls map[string]string, a, b float64) {
	switch e.Op {
	case "+":
		out.put(ls, a+b)
	case "*":
		out.put(ls, a*b)
	case ">":
		switch {
		case e.Bool && a > b:
			out.put(ls, 1)
		case e.Bool:
			out.put(ls, 0)
		case a > b:
			out.put(ls, a)
		}
	default:
		panic(e.Op)
	}
}

// generator makes random corpora and queries of which the naive evaluator knows the answer.
type generator struct{ *rand.Rand }

func pick[T any](g generator, xs ...T) T { return xs[g.IntN(len(xs))] }

func (g generator) corpus(n int) *memory {
	m := &memory{}
	var streams []wire.Labels
	for _, a := range []string{"x", "y"} {
		for _, b := range []string{"1", "2", ""} {
			ls := map[string]string{"app": a}
			if b != "" {
				ls["env"] = b
			}
			streams = append(streams, wire.LabelsFromMap(ls))
		}
	}
	for range n {
		l := Line{T: (1000 + g.Int64N(600)) * 1e9, Labels: pick(g, streams...)}
		if g.IntN(4) == 0 {
			l.Fields = wire.LabelsFromMap(map[string]string{pick(g, "user", "env", "n"): pick(g, "u1", "7")})
		}
		switch g.IntN(5) {
		case 0:
			l.Text = fmt.Appendf(nil, `{"n":%d,"lvl":"%s","o":{"k":%t,"env":"in"},"a":[1]}`, g.IntN(50), pick(g, "info", "error"), g.IntN(2) == 0)
		case 1:
			l.Text = fmt.Appendf(nil, "some words %d alpha beta", g.IntN(20))
		default:
			l.Text = fmt.Appendf(nil, "n=%s lvl=%s env=%d x=1=2 word", pick(g, "1", "2", "2.5", "17", "40", "-3", "many"), pick(g, "info", "error", "warn"), g.IntN(3))
		}
		m.lines = append(m.lines, l)
	}
	slices.SortStableFunc(m.lines, func(a, b Line) int { return int((a.T - b.T) / 1e9) })
	return m
}

func (g generator) stages() string {
	var b strings.Builder
	for range g.IntN(6) {
		b.WriteString(" " + pick(g,
			`|= "n="`, `!= "alpha"`, `|~ "l[vp]l|beta$"`, `!~ "error"`, `|= "word" or "alpha"`, `!= "17" or "40"`, `|> "<_>word<_>"`, `!> "n=<_>"`,
			`| json`, `| logfmt`, `| logfmt`, `| lvl="error"`, `| lvl!="info"`, `| env=~"1|in"`, `| n > 2`, `| n <= 17 and lvl="info"`, `| n == 2 or app="y"`,
			`| user="u1"`, `| env=""`, `| app="x" | env!="2"`,
			"| line_format `<{{.lvl}}> {{__line__}}`", `|= "<error>"`, `|~ "^<"`, `| label_format q=lvl`, `| label_format app=lvl | app="info"`, `| drop env | app!=""`, `| drop user, lvl="info"`, `| keep app, lvl, n | app!=""`, `| keep env=~".*"`,
			`| __error__=""`, `| __error__=""`,
		))
	}
	return b.String()
}

func (g generator) rangeExpr() string {
	sel := pick(g, `{app="x"}`, `{app=~"x|y"}`, `{app=~".+", env!="1"}`, `{app="y", env=""}`, `{app="none"}`)
	stages := g.stages()
	offset := pick(g, "", "", " offset 45s", " offset -30s")
	window := pick(g, "[10s]", "[1m]", "[70s]", "[5m]", "[1s]") + offset
	group := pick(g, "", " by (env)", " without (app, lvl)", " by ()")
	if g.IntN(2) == 0 {
		return pick(g, "count_over_time", "rate", "bytes_over_time", "bytes_rate", "absent_over_time") + "(" + sel + stages + window + ")"
	}
	inner := sel + stages + pick(g, " | logfmt", " | json", "") + " | unwrap n" + pick(g, ` | __error__=""`, ` | __error__=""`, "") + window + ")"
	op := pick(g, "sum", "avg", "min", "max", "first", "last", "stddev", "stdvar", "quantile", "rate")
	switch op {
	case "rate":
		return "rate(" + inner
	case "sum":
		return "sum_over_time(" + inner
	case "quantile":
		return "quantile_over_time(" + pick(g, "0", "0.25", "0.5", "0.95", "1") + "," + inner + group
	}
	return op + "_over_time(" + inner + group
}

func (g generator) query(depth int) string {
	if depth == 0 {
		return g.rangeExpr()
	}
	switch g.IntN(5) {
	case 0:
		return pick(g, "sum", "avg", "min", "max", "count", "stddev") + pick(g, "", " by (env)", " without (lvl)", " by (app, lvl)") + "(" + g.query(depth-1) + ")"
	case 1:
		return pick(g, "topk", "bottomk") + pick(g, "", " by (app)") + "(" + pick(g, "1", "2") + "," + g.query(depth-1) + ")"
	case 2:
		return "(" + g.query(depth-1) + ")" + pick(g, " + ", " * ", " > bool ", " > ") + pick(g, "2", "0.5")
	case 3:
		return "(" + g.query(depth-1) + ")" + pick(g, " and ", " or ", " unless ") + pick(g, "", "on (env) ", "ignoring (lvl, app) ") + "(" + g.query(depth-1) + ")"
	}
	return "(" + g.query(depth-1) + ")" + pick(g, " + ", " * ", " > ") + "(" + g.query(depth-1) + ")"
}

// answer evaluates a query over steps naively; failed says that a line has a mistake.
func (m *memory) answer(e syntax.Metric, g grid) (out map[string]map[int64]float64, failed bool) {
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(naiveFailure); !ok {
				panic(r)
			}
			failed = true
		}
	}()
	out = map[string]map[int64]float64{}
	for k := range g.n {
		for key, s := range m.naive(e, g.at(k)) {
			if out[key] == nil {
				out[key] = map[int64]float64{}
			}
			out[key][g.at(k)] = s.v
		}
	}
	return out, false
}

func TestEngineIsTheNaiveEvaluator(t *testing.T) {
	rounds := 600
	if testing.Short() {
		rounds = 300
	}
	compared, mistakes, points := 0, 0, 0
	for seed := range uint64(6) {
		g := generator{rand.New(rand.NewPCG(seed, 11))}
		m := g.corpus(60 + g.IntN(200))
		for range rounds / 6 {
			text := g.query(g.IntN(3))
			x, err := Parse(text)
			if err != nil {
				t.Fatal(text, err)
			}
			p := Params{Start: (980 + g.Int64N(200)) * 1e9, Step: pick(g, time.Second*7, time.Minute, 95*time.Second)}
			p.End = p.Start + g.Int64N(500e9)
			gr := grid{p.Start, int64(p.Step), int((p.End-p.Start)/int64(p.Step)) + 1}
			want, failed := m.answer(x.(syntax.Metric), gr)
			for _, wide := range []bool{false, true} {
				r, err := (&Engine{Source: m, wide: wide}).Range(context.Background(), x, p)
				if err != nil && strings.Contains(err.Error(), "several series") { // the naive one does not look for that
					continue
				}
				if (err != nil) != failed {
					t.Fatalf("seed %d, wide %t: %s\n error %v, naive failed: %t", seed, wide, text, err, failed)
				}
				if failed {
					mistakes++
					continue
				}
				compared++
				got := map[string]map[int64]float64{}
				for _, s := range r.Matrix {
					ps := map[int64]float64{}
					for _, pt := range s.Points {
						ps[pt.T] = pt.V
						points++
					}
					got[naiveKey(s.Labels.Map())] = ps
				}
				if d := differ(got, want); d != "" {
					t.Fatalf("seed %d, wide %t: %s\n from %d step %v to %d: %s", seed, wide, text, p.Start, p.Step, p.End, d)
				}
			}
		}
	}
	t.Logf("%d answers compared, %d points, %d with mistakes", compared, points, mistakes)
	if compared < rounds/4 || points < rounds {
		t.Errorf("only %d answers with %d points were compared", compared, points)
	}
}

func differ(got, want map[string]map[int64]float64) string {
	for k, ps := range want {
		if got[k] == nil {
			return "no series " + k
		}
		for at, v := range ps {
			w, ok := got[k][at]
			if !ok || math.Abs(w-v) > 1e-9*max(1, math.Abs(v)) && !(math.IsNaN(v) && math.IsNaN(w)) {
				return fmt.Sprintf("%s at %d: %v, expected %v", k, at, got[k][at], v)
			}
		}
		if len(got[k]) != len(ps) {
			return fmt.Sprintf("%s: %d points, expected %d", k, len(got[k]), len(ps))
		}
	}
	for k := range got {
		if want[k] == nil {
			return "series " + k + " is too many"
		}
	}
	return ""
}

// Random queries for lines find what the naive stages let pass, in both orders and within every limit.
func TestLinesAreThoseOfTheNaiveStages(t *testing.T) {
	found := 0
	for seed := range uint64(4) {
		g := generator{rand.New(rand.NewPCG(seed, 13))}
		m := g.corpus(150)
		for range 250 {
			text := pick(g, `{app="x"}`, `{app=~".+"}`, `{env="1"}`) + g.stages()
			x, err := syntax.ParseLog(text)
			if err != nil {
				t.Fatal(text, err)
			}
			p := Params{Start: 1000e9, End: (1000 + g.Int64N(700)) * 1e9, Limit: pick(g, 1, 5, 1000), Oldest: g.IntN(2) == 0}
			var want []string
			for i := range m.lines {
				l := &m.lines[i]
				if !p.Oldest {
					l = &m.lines[len(m.lines)-1-i]
				}
				if l.T < p.Start || l.T >= p.End || !Selects(x.Selector, l.Labels) || len(want) == p.Limit {
					continue
				}
				n := naiveStart(l)
				if !slices.ContainsFunc(x.Stages, func(s syntax.Stage) bool { return !n.stage(s) }) {
					want = append(want, fmt.Sprint(l.T, n.text, naiveKey(n.labels)))
				}
			}
			for _, wide := range []bool{false, true} {
				r, err := (&Engine{Source: m, wide: wide}).Range(context.Background(), x, p)
				must(t, err)
				var got []string
				for _, s := range r.Streams {
					ls := s.Labels.Map()
					delete(ls, "__error_details__")
					for _, e := range s.Entries {
						got = append(got, fmt.Sprint(e.T, e.Line, naiveKey(ls)))
					}
				}
				slices.Sort(got)
				w := slices.Sorted(slices.Values(want))
				if !slices.Equal(got, w) {
					t.Fatalf("seed %d, wide %t: %s limit %d: %d lines, expected %d\n%s\n%s", seed, wide, text, p.Limit, len(got), len(w), strings.Join(got, "\n"), strings.Join(w, "\n"))
				}
				found += len(got)
			}
		}
	}
	if found < 5000 {
		t.Errorf("only %d lines were found", found)
	}
}
