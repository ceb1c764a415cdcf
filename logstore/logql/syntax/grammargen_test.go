package syntax

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
)

// generator makes shapes of queries that both parsers ought to read, writes them as texts, and breaks texts.
type generator struct{ r *rand.Rand }

func (g *generator) one(list ...string) string { return list[g.r.IntN(len(list))] }

func (g *generator) chance(n int) bool { return g.r.IntN(n) == 0 }

func (g *generator) name() string {
	return g.one("app", "env", "host", "level", "status", "x_1", "_y", "__error__", "duration", "bytes", "rate", "sum", "by", "ip", "count", "Z")
}

func (g *generator) names() shape {
	out := shape{}
	for range g.r.IntN(4) {
		if n := g.name(); !slices.Contains(out, any(n)) {
			out = append(out, n)
		}
	}
	return out
}

func (g *generator) value() string {
	return g.one("web", "", "a b", `"quoted"`, `back\slash`, "磁盘", "tab\there", "# no comment", "{}", "|= x", "10.0.0.1")
}

func (g *generator) regex() string { return g.one("web|db", ".+", `\d+`, "(?i)err", "a{2}", "", `"x"`) }

func (g *generator) matcher() shape {
	if g.chance(2) {
		return shape{g.name(), g.one("=", "!="), g.value()}
	}
	return shape{g.name(), g.one("=~", "!~"), g.regex()}
}

func (g *generator) log(depth int) shape {
	selector := shape{shape{"app", "=", "web"}}
	for range g.r.IntN(3) {
		selector = append(selector, g.matcher())
	}
	stages := shape{}
	for range g.r.IntN(depth + 2) {
		s := g.stage(depth)
		if n := len(stages); n > 0 && s[0] == "line" && bareEnd(stages[n-1].(shape)) { // != and !~ would compare the last label
			s[1] = map[any]any{"!=": "|=", "!~": "|~"}[s[1]]
			if s[1] == nil {
				continue
			}
		}
		stages = append(stages, s)
	}
	return shape{"log", selector, stages}
}

// bareEnd reports whether the stage ends with the name of a label that may be compared.
func bareEnd(s shape) bool {
	if s[0] != "drop" && s[0] != "keep" {
		return false
	}
	items := s[1].(shape)
	return len(items[len(items)-1].(shape)) == 1
}

func (g *generator) extracts(paths ...string) shape {
	out := shape{}
	seen := map[string]bool{}
	for range g.r.IntN(3) {
		n := g.name()
		if seen[n] {
			continue
		}
		seen[n] = true
		path := n
		if g.chance(2) {
			path = g.one(paths...)
		}
		out = append(out, shape{n, path})
	}
	return out
}

func (g *generator) nameMatches() shape {
	out := shape{shape{g.name()}}
	for range g.r.IntN(3) {
		if g.chance(2) {
			out = append(out, shape{g.name()})
		} else {
			out = append(out, g.matcher())
		}
	}
	return out
}

func (g *generator) stage(depth int) shape {
	switch g.r.IntN(14) {
	case 0, 1, 2:
		op := g.one("|=", "!=", "|~", "!~", "|>", "!>")
		alts := shape{}
		for len(alts) == 0 || g.chance(2) {
			switch {
			case op == "|~" || op == "!~":
				alts = append(alts, shape{false, g.regex()})
			case op == "|>" || op == "!>":
				alts = append(alts, shape{false, g.one("<_> x <_>", "x", "a <_>")})
			case g.chance(4):
				return shape{"line", g.one("|=", "!="), append(alts, shape{true, g.one("10.0.0.1", "10.0.0.0/8", "::1", "10.0.0.1-10.0.0.9")})}
			default:
				alts = append(alts, shape{false, g.value()})
			}
		}
		return shape{"line", op, alts}
	case 3:
		return shape{"json", g.extracts("a.b", "a[0]", `["User-Agent"]`, "x")}
	case 4:
		out := shape{"logfmt", g.extracts("key", "a.b", "x-y")}
		if g.chance(3) {
			out = append(out, "--keep-empty")
		}
		if g.chance(3) {
			out = append(out, "--strict")
		}
		return out
	case 5:
		return shape{"regexp", g.one(`(?P<a>\d+)`, "(?P<a>x) (?P<b>.*)")}
	case 6:
		return shape{"pattern", g.one("<a> - <b>", `<_> "<method> <_>"`)}
	case 7:
		return shape{g.one("unpack", "decolorize"), shape{}}
	case 8:
		return shape{"line_format", g.one("{{.app}} x", `{{ __line__ | trunc 5 }}`, "", `{{ if eq .x "1" }}y{{ end }}`)}
	case 9:
		items := shape{}
		for _, n := range g.names() {
			if n == ErrorLabel {
				continue
			}
			if g.chance(2) {
				items = append(items, shape{n, "label", g.name()})
			} else {
				items = append(items, shape{n, "template", g.one("{{.app}}-x", "plain", "")})
			}
		}
		if len(items) == 0 {
			items = shape{shape{"dst", "label", "app"}}
		}
		return shape{"label_format", items}
	case 10:
		return shape{g.one("drop", "keep"), g.nameMatches()}
	}
	return shape{"filter", g.pred(depth)}
}

func (g *generator) pred(depth int) shape {
	if depth > 0 && g.chance(2) {
		return shape{"both", g.one("and", "or"), g.pred(depth - 1), g.pred(depth - 1)}
	}
	switch g.r.IntN(4) {
	case 0:
		return append(shape{"match"}, g.matcher()...)
	case 1:
		return shape{"ip", g.name(), g.one("=", "!="), g.one("10.0.0.1", "10.0.0.0/8", "::1")}
	}
	value := g.one("0", "5", "1.5", "-3", "250ms", "1h30m", "20KB", "1.5GiB", "2d", "7MB", "100B", "-2s", "1e3")
	return shape{"number", g.name(), g.one("==", "!=", ">", ">=", "<", "<="), value}
}

func (g *generator) nanoseconds() float64 {
	const s = 1e9
	return []float64{1e6, 30 * s, 90 * s, 300 * s, 5400 * s, 86400 * s, 30 * 86400 * s}[g.r.IntN(7)]
}

// expr makes a log query or an expression for numbers.
func (g *generator) expr(depth int) shape {
	if g.chance(3) {
		return g.log(depth)
	}
	return g.metric(depth)
}

func (g *generator) metric(depth int) shape {
	if depth == 0 {
		if g.chance(3) {
			return shape{"constant", float64(g.r.IntN(9))}
		}
		return g.overRange(1)
	}
	switch g.r.IntN(6) {
	case 0, 1:
		return g.overRange(depth)
	case 2:
		return shape{"label_replace", g.metric(depth - 1), "dst", "$1", "app", "(.*)"}
	case 3:
		op := VectorOp(g.one("sum", "avg", "min", "max", "count", "stddev", "stdvar", "topk", "bottomk", "approx_topk", "sort", "sort_desc"))
		var param, grouping any
		if takesParam(op) {
			param = float64(1 + g.r.IntN(20))
		}
		if vectorOps[op] && !g.chance(3) {
			grouping = shape{g.one("by", "without"), g.names()}
		}
		return shape{"aggregation", string(op), param, grouping, g.metric(depth - 1)}
	}
	op := g.one("+", "-", "*", "/", "%", "^", "==", "!=", ">", ">=", "<", "<=", "and", "or", "unless")
	var matching any
	if g.chance(3) {
		how, on := g.one("on", "ignoring"), g.names()
		m := shape{how, on, "", shape{}}
		if !setOperator(op) && g.chance(2) {
			m[2] = g.one("group_left", "group_right")
			for _, n := range g.names() {
				if !slices.Contains(on, n) {
					m[3] = append(m[3].(shape), n)
				}
			}
		}
		matching = m
	}
	right := g.metric(depth - 1)
	if matching == nil && !setOperator(op) && g.chance(3) {
		right = shape{"number", []float64{-1, 0, 2, 0.5, 1000}[g.r.IntN(5)]}
	}
	return shape{"binary", op, comparison(op) && g.chance(3), matching, g.metric(depth - 1), right}
}

func (g *generator) overRange(depth int) shape {
	op := RangeOp(g.one("rate", "rate_counter", "count_over_time", "bytes_over_time", "bytes_rate", "absent_over_time", "sum_over_time", "avg_over_time",
		"min_over_time", "max_over_time", "first_over_time", "last_over_time", "stdvar_over_time", "stddev_over_time", "quantile_over_time"))
	how := rangeOps[op]
	var param, unwrap, grouping any
	if op == OpQuantile {
		param = []float64{0, 0.5, 0.99, 1}[g.r.IntN(4)]
	}
	if how.numbers && (!how.counts || g.chance(2)) {
		after := shape{}
		for range g.r.IntN(3) {
			after = append(after, g.pred(depth-1))
		}
		unwrap = shape{"unwrap", g.one("", "duration", "bytes"), g.name(), after}
	}
	if how.grouping && g.chance(2) {
		grouping = shape{g.one("by", "without"), g.names()}
	}
	log, offset := g.log(depth), 0.0
	if whole := unwrap != nil && len(log[2].(shape)) > 0; !whole && g.chance(3) { // the grammar has no offset behind both
		if offset = g.nanoseconds(); g.chance(2) {
			offset = -offset
		}
	}
	return shape{"range", string(op), param, log, unwrap, g.nanoseconds(), offset, grouping}
}

// text writes a shape, with parentheses around each operator and its operands, or only where what the documentation says of
// their order asks for them. What may be written in several ways is written in any.
func (g *generator) text(s shape, full bool) string {
	w := &shapeWriter{g: g, full: full}
	w.expr(s)
	return w.String()
}

type shapeWriter struct {
	strings.Builder
	g    *generator
	full bool
}

func (w *shapeWriter) add(ss ...string) {
	for _, s := range ss {
		w.WriteString(s)
	}
}

// gap writes what may stand between words and signs.
func (w *shapeWriter) gap() { w.add(w.g.one("", "", " ", " ", "\n", "  ")) }

func (w *shapeWriter) list(items shape, each func(any)) {
	for i, it := range items {
		if i > 0 {
			w.gap()
			w.add(",")
			w.gap()
		}
		each(it)
	}
}

func (w *shapeWriter) quoted(s any) {
	if v := s.(string); !strings.ContainsAny(v, "`\n\r") && w.g.chance(2) {
		w.add("`", v, "`")
	} else {
		w.add(strconv.Quote(v))
	}
}

func (w *shapeWriter) matcher(m shape) {
	w.add(m[0].(string))
	w.gap()
	w.add(m[1].(string))
	w.gap()
	w.quoted(m[2])
}

func (w *shapeWriter) names(names shape) {
	w.add("(")
	w.list(names, func(n any) { w.add(n.(string)) })
	w.add(")")
}

func (w *shapeWriter) expr(s shape) {
	switch s[0] {
	case "log":
		w.log(s)
	case "number", "constant":
		n := strconv.FormatFloat(s[1].(float64), 'g', -1, 64)
		if s[0] == "constant" {
			n = "vector(" + n + ")"
		}
		w.add(n)
	case "label_replace":
		w.add("label_replace(")
		w.expr(s[1].(shape))
		for _, v := range s[2:] {
			w.add(", ")
			w.quoted(v)
		}
		w.add(")")
	case "aggregation":
		w.aggregation(s)
	case "range":
		w.overRange(s)
	case "binary":
		w.binary(s)
	}
}

func (w *shapeWriter) grouping(g any) {
	if g, ok := g.(shape); ok {
		w.add(w.g.one(" ", "\n"), g[0].(string), w.g.one("", " "))
		w.names(g[1].(shape))
		w.gap()
	}
}

func (w *shapeWriter) aggregation(s shape) {
	first := w.g.chance(2)
	w.add(s[1].(string))
	if first {
		w.grouping(s[3])
	}
	w.add("(")
	if s[2] != nil {
		w.add(strconv.Itoa(int(s[2].(float64))), ",")
		w.gap()
	}
	w.expr(s[4].(shape))
	w.add(")")
	if !first {
		w.grouping(s[3])
	}
}

func (w *shapeWriter) duration(ns float64) {
	sign := ""
	if ns < 0 {
		sign, ns = "-", -ns
	}
	w.add(sign)
	switch s := int64(ns) / 1e9; {
	case int64(ns)%1e9 != 0:
		w.add(strconv.FormatInt(int64(ns)/1e6, 10), "ms")
	case s%86400 == 0 && w.g.chance(2):
		w.add(strconv.FormatInt(s/86400, 10), "d")
	case s > 60 && w.g.chance(2):
		w.add(strconv.FormatInt(s/60, 10), "m", strconv.FormatInt(s%60, 10), "s")
	default:
		w.add(strconv.FormatInt(s, 10), "s")
	}
}

func (w *shapeWriter) overRange(s shape) {
	w.add(s[1].(string))
	w.add("(")
	if s[2] != nil {
		w.add(strconv.FormatFloat(s[2].(float64), 'g', -1, 64), ", ")
	}
	at := func() {
		w.gap()
		w.add("[")
		w.duration(s[5].(float64))
		w.add("]")
		if off := s[6].(float64); off != 0 {
			w.add(" offset ")
			w.duration(off)
		}
	}
	log, early := s[3].(shape), w.g.chance(4)
	if s[4] == nil && !early && w.g.chance(4) {
		w.add("(")
		w.log(log)
		w.add(")")
		at()
		w.add(")")
		w.grouping(s[7])
		return
	}
	w.selector(log[1].(shape))
	if early {
		at()
	}
	w.stages(log[2].(shape))
	if u, ok := s[4].(shape); ok {
		w.add(" | unwrap ")
		if u[1] != "" {
			w.add(u[1].(string), "(", u[2].(string), ")")
		} else {
			w.add(u[2].(string))
		}
		for _, f := range u[3].(shape) {
			w.add(" | ")
			w.pred(f.(shape), true)
		}
	}
	if !early {
		at()
	}
	w.add(")")
	w.grouping(s[7])
}

func (w *shapeWriter) binary(s shape) {
	w.side(s, s[4].(shape), false)
	w.add(" ", s[1].(string))
	if s[2] == true {
		w.add(" bool")
	}
	if m, ok := s[3].(shape); ok {
		w.add(" ", m[0].(string), w.g.one("", " "))
		w.names(m[1].(shape))
		if m[2] != "" {
			w.add(" ", m[2].(string))
			if include := m[3].(shape); len(include) > 0 || w.full || w.g.chance(2) {
				w.names(include)
			}
		}
	}
	w.add(" ")
	w.side(s, s[5].(shape), true)
}

func (w *shapeWriter) side(s, operand shape, right bool) {
	open := false
	if operand[0] == "binary" {
		is, of := level(operand[1]), level(s[1])
		open = w.full || is < of || is == of && right != (s[1] == "^")
	}
	if open {
		w.add("(")
	}
	w.expr(operand)
	if open {
		w.add(")")
	}
}

// level is how tight an operator binds by Loki's documentation.
func level(op any) int {
	return slices.IndexFunc([][]any{
		{"or"}, {"and", "unless"}, {"==", "!=", "<=", "<", ">=", ">"}, {"+", "-"}, {"*", "/", "%"}, {"^"},
	}, func(ops []any) bool { return slices.Contains(ops, op) })
}

func (w *shapeWriter) selector(matchers shape) {
	w.add("{")
	w.gap()
	w.list(matchers, func(m any) { w.matcher(m.(shape)) })
	w.gap()
	w.add("}")
}

func (w *shapeWriter) log(s shape) {
	w.selector(s[1].(shape))
	w.stages(s[2].(shape))
}

func (w *shapeWriter) stages(stages shape) {
	for _, s := range stages {
		w.gap()
		w.stage(s.(shape))
	}
}

func (w *shapeWriter) stage(s shape) {
	name := s[0].(string)
	if name == "line" {
		w.add(s[1].(string))
		for i, a := range s[2].(shape) {
			if i > 0 {
				w.add(" or")
			}
			w.add(" ")
			if alt := a.(shape); alt[0] == true {
				w.add("ip(")
				w.quoted(alt[1])
				w.add(")")
			} else {
				w.quoted(alt[1])
			}
		}
		return
	}
	w.add("|")
	w.gap()
	if name == "filter" {
		w.pred(s[1].(shape), true)
		return
	}
	w.add(name, " ")
	switch name {
	case "json", "logfmt":
		for _, flag := range s[2:] {
			w.add(flag.(string), " ")
		}
		w.list(s[1].(shape), func(f any) {
			x := f.(shape)
			w.add(x[0].(string))
			if x[0] != x[1] {
				w.add("=")
				w.quoted(x[1])
			}
		})
	case "regexp", "pattern", "line_format":
		w.quoted(s[1])
	case "label_format":
		w.list(s[1].(shape), func(f any) {
			x := f.(shape)
			w.add(x[0].(string), "=")
			if x[1] == "template" {
				w.quoted(x[2])
			} else {
				w.add(x[2].(string))
			}
		})
	case "drop", "keep":
		w.list(s[1].(shape), func(f any) {
			if x := f.(shape); len(x) == 1 {
				w.add(x[0].(string))
			} else {
				w.matcher(x)
			}
		})
	}
}

// pred writes a predicate. They are read from left to right, so only those on the right need parentheses.
func (w *shapeWriter) pred(s shape, left bool) {
	switch s[0] {
	case "both":
		open := w.full || !left
		if open {
			w.add("(")
		}
		w.pred(s[2].(shape), true)
		if s[1] == "or" {
			w.add(" or ")
		} else {
			w.add(w.g.one(" and ", " and ", " , "))
		}
		w.pred(s[3].(shape), false)
		if open {
			w.add(")")
		}
	case "match":
		w.matcher(s[1:])
	case "ip":
		w.add(s[1].(string))
		w.gap()
		w.add(s[2].(string))
		w.gap()
		w.add("ip(")
		w.quoted(s[3])
		w.add(")")
	case "number":
		w.add(s[1].(string))
		w.gap()
		op := s[2].(string)
		if op == "==" {
			op = w.g.one("=", "==")
		}
		w.add(op, " ", s[3].(string))
	}
}

// mutilate changes a text by a few words, signs or characters.
func (g *generator) mutilate(q string) string {
	for range 1 + g.r.IntN(2) {
		q = g.harm(q)
	}
	return q
}

func (g *generator) harm(q string) string {
	tokens, err := lex(q)
	if err != nil || len(tokens) < 3 || g.chance(8) {
		if q == "" {
			return q
		}
		i := g.r.IntN(len(q))
		for i > 0 && q[i] >= 0x80 {
			i--
		}
		if q[i] >= 0x80 {
			return q
		}
		return q[:i] + q[i+1:]
	}
	k := g.r.IntN(len(tokens) - 1)
	from, to := tokens[k].pos, tokens[k+1].pos
	piece := q[from:to]
	switch g.r.IntN(5) {
	case 0:
		return q[:from] + q[to:]
	case 1:
		return q[:to] + " " + piece + " " + q[to:]
	case 2:
		return q[:from] + " " + g.word() + " " + q[to:]
	case 3:
		return q[:from] + " " + g.word() + " " + q[from:]
	}
	if k+2 >= len(tokens) {
		return q[:to]
	}
	next := tokens[k+2].pos
	return q[:from] + q[to:next] + " " + piece + " " + q[next:]
}

func (g *generator) word() string {
	return g.one("|", "|=", "!=", "=~", "!~", "|>", "!>", "=", "==", ">", "<=", "{", "}", "(", ")", "[", "]", ",", "+", "-", "^", "5", "1.5", "5m", "-3", "2KB",
		"app", "json", "logfmt", "unwrap", "by", "without", "on", "group_left", "bool", "offset", "and", "or", "unless", "sum", "rate", "topk", "vector", "ip",
		`"text"`, "`x`", "[5m]", "offset 1h", "drop", "keep", "line_format", "label_format", "unpack", "--strict", `{app="web"}`, "count_over_time", "quantile_over_time")
}
