package logstore

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/query"
	"github.com/triward/triward/logstore/words"
)

// A campaign attacks the promise that an answer is what a look at every line would give. The lines are such as nobody expects, and come
// in forms of which blocks make templates; the questions are made of pieces of the lines. What a question means is what query.Filter.Match
// says of each line by itself: nothing of blocks, indexes and caches is in that. TRIWARD_CAMPAIGN is how many minutes it goes on, each time
// with another seed; TRIWARD_SEED is the first one.

// oddPieces are what stands between the words of lines.
var oddPieces = []string{
	" ", " ", " ", ", ", "=", "==", " a=", "-", ".", ":", "//", "_", "\t", "\r\n", "\n", "\x00", "\u200b", "\u200d", "\u00a0", "\u0085", "\ufeff",
	"\ufffd", "\xff", "\xe7\xa3", "\xc3", "\xed\xa0\x80", "\xf0\x9f", "👩‍👩‍👧", "🇩🇪", "\u0301", "\u3099", "磁盘", "磁", "盘，", "か", "ー", "한글", "々",
	"<*>", "<", ">", "⏎", "{", "}", "[", "]", `"`, `\`, "'", " Jan ", " Mon, ", " PM ", "(", ")", "+", " -", "%", "@",
}

// oddWords are words with something about their letters, digits or case.
var oddWords = []string{
	"Error", "error", "ERROR", "connection", "ß", "ẞ", "straße", "STRASSE", "ſ", "ſecond", "second", "\u212Aelvin", "kelvin", "İstanbul", "istanbul", "ısı",
	"Σίσυφος", "ΣΊΣΥΦΟΣ", "ŉ", "ǅ", "e\u0301te\u0301", "été", "ｆｕｌｌ", "ｱｲ", "９９", "１2", "٣٤", "x²", "Ⅷ", "ⅷ", "beef", "BEEF", "face", "a", "ab", "f", "0", "00", "007",
	"-0", "1e308", "1e309", "-1e308", "NaN", "inf", "0x1F", "0x1p4", "1_000", ".5", "5.", "+5", "9007199254740993", "0.1", "null", "true", strings.Repeat("long", 12),
	strings.Repeat("é", 21), strings.Repeat("é", 19) + "a", strings.Repeat("x", 41), strings.Repeat("x", 40) + "y", strings.Repeat("9", 300), "v2", "k8s", "i", "I",
}

// attacker makes lines and questions for a model.
type attacker struct {
	*model
	forms []func() []byte
}

func newAttacker(seed uint64) *attacker {
	a := &attacker{model: &model{rng: rand.New(rand.NewPCG(seed, 77))}}
	a.words = oddWords
	for range 4 + a.rng.IntN(8) {
		a.forms = append(a.forms, a.form())
	}
	return a
}

func (a *attacker) pick(of []string) string { return of[a.rng.IntN(len(of))] }

// slot makes what differs between the lines of a form.
func (a *attacker) slot() func() string {
	few := []string{a.pick(oddWords), a.pick(oddWords), strconv.Itoa(a.rng.IntN(50))}
	n := a.rng.IntN(1000)
	switch a.rng.IntN(9) {
	case 0:
		return func() string { return a.hex(1 + a.rng.IntN(9)) }
	case 1:
		return func() string { return strings.ToUpper(a.hex(4)) }
	case 2:
		return func() string { n += a.rng.IntN(3); return fmt.Sprintf("%06d", n) }
	case 3:
		return func() string { return strconv.Itoa(a.rng.IntN(20)) }
	case 4:
		return func() string { return few[a.rng.IntN(3)] }
	case 5:
		return func() string { return few[0] }
	case 6:
		return func() string { return a.pick(oddWords) + strconv.Itoa(a.rng.IntN(3)) }
	case 7:
		return func() string { return strconv.FormatFloat(a.rng.NormFloat64()*100, 'g', 1+a.rng.IntN(4), 64) }
	}
	return func() string { return a.pick(oddWords) }
}

// form makes a kind of lines: pieces that are the same in all of them, and slots.
func (a *attacker) form() func() []byte {
	var parts []func() string
	same := func(s string) { parts = append(parts, func() string { return s }) }
	names := []string{"user", "code", "took", "host", "a.b", "状态", "x-y", "lvl", "msg"}
	switch a.rng.IntN(5) {
	case 0: // JSON, sometimes nearly
		same(a.pick([]string{"{", "{", "{ ", " {", "\n{"}))
		for i := range 1 + a.rng.IntN(6) {
			if i > 0 {
				same(a.pick([]string{",", ", ", ",", ",,"}))
			}
			same(strconv.Quote(a.pick(names)) + a.pick([]string{":", ": ", " :"}))
			value := a.slot()
			switch a.rng.IntN(6) {
			case 0:
				parts = append(parts, value) // mostly no JSON
			case 1:
				parts = append(parts, func() string { return strconv.Itoa(a.rng.IntN(600)) })
			case 2:
				parts = append(parts, func() string {
					return `{"` + names[0] + `":"` + a.hex(2) + `","n":[1,` + strconv.Itoa(a.rng.IntN(9)) + `]}`
				})
			case 3:
				same(a.pick([]string{"null", "true", "false", "-1.5e2", "01", `""`, "{}", "[]", "[[]]", `"<b>"`, `"a\nb"`, `"\u00e9"`}))
			default:
				parts = append(parts, func() string { return `"` + value() + `"` })
			}
		}
		same(a.pick([]string{"}", "}", "}", "} ", "}\n", "}}", ""}))
	case 1: // pairs, sometimes nearly
		for range 1 + a.rng.IntN(7) {
			same(a.pick(names) + a.pick([]string{"=", "=", "=", "==", " = "}))
			value := a.slot()
			quote := a.pick([]string{"", "", `"`, `"`, `'`})
			parts = append(parts, func() string { return quote + value() + quote })
			same(a.pick([]string{" ", " ", ", ", "; ", "\t", "", `" `}))
		}
	default:
		for range a.rng.IntN(9) {
			switch a.rng.IntN(3) {
			case 0:
				parts = append(parts, a.slot())
			case 1:
				same(a.pick(oddWords))
			}
			same(a.pick(oddPieces))
		}
	}
	if a.rng.IntN(6) == 0 {
		same(strings.Repeat(a.pick(oddWords)+a.pick(oddPieces), a.rng.IntN(60)))
	}
	return func() []byte {
		var b bytes.Buffer
		for _, p := range parts {
			b.WriteString(p())
		}
		return b.Bytes()
	}
}

// time is mostly near a border, and often that of another line.
func (a *attacker) time() int64 {
	t := testDay*DayNs + a.rng.Int64N(3*DayNs)
	switch a.rng.IntN(6) {
	case 0:
		t = testDay*DayNs + a.rng.Int64N(4)*DayNs - int64(a.rng.IntN(3)) + 1
	case 1:
		t -= t%60e9 + int64(a.rng.IntN(3)) - 1
	case 2:
		t -= t % 3600e9
	case 3:
		if n := len(a.rows); n > 0 {
			t = a.rows[n-1-a.rng.IntN(min(n, 50))].T
		}
	case 4:
		t = testDay*DayNs + 5*3600e9 + a.rng.Int64N(120e9) // many in few minutes
	}
	return min(max(t, testDay*DayNs), (testDay+3)*DayNs-1)
}

func (a *attacker) fields() []wire.Label {
	f := map[string]string{}
	if a.rng.IntN(3) > 0 {
		return nil
	}
	for range 1 + a.rng.IntN(4) {
		name := a.pick([]string{"code", "took", "user", "host", "a.b", "状态", "a b", `q"x`, "k[0]", "=", "x-y", "lvl", "severity", "kind", "名", "elapsed", "elapsed"})
		value := a.pick(oddWords)
		if a.rng.IntN(3) > 0 && (name == "took" || name == "code" || name == "elapsed") {
			value = strconv.FormatFloat(float64(a.index)+a.rng.Float64(), 'f', a.rng.IntN(4), 64)
		}
		f[name] = value
	}
	return wire.LabelsFromMap(f)
}

// entry makes the next entry of the log.
func (a *attacker) entry() wire.LogEntry {
	a.index += 1 + a.rng.Uint64N(3)
	e := wire.LogEntry{Index: a.index}
	ord := uint32(0)
	for range 1 + a.rng.IntN(3) {
		var b wire.LogBatch
		for range 1 + a.rng.IntN(3) {
			ls := map[string]string{"host": fmt.Sprintf("web-%d", a.rng.IntN(3)), "unit": a.pick([]string{"ſsh", "kernel", "a=b"})}
			if a.rng.IntN(4) == 0 {
				ls["user"] = a.pick([]string{"u1", "Σ"}) // goes before the fields
			}
			st := wire.LogStream{Kind: wire.StreamLog, Labels: wire.LabelsFromMap(ls)}
			if a.rng.IntN(5) == 0 {
				st.Kind = wire.StreamEvent
			}
			form := a.forms[a.rng.IntN(len(a.forms))]
			for range a.rng.IntN(30) {
				if a.rng.IntN(4) == 0 {
					form = a.forms[a.rng.IntN(len(a.forms))]
				}
				l := wire.LogLine{T: a.time(), Severity: wire.Severity(a.rng.IntN(7)), Text: form(), Fields: a.fields()}
				st.Lines = append(st.Lines, l)
				a.rows = append(a.rows, Row{T: l.T, Position: Position{a.index, ord}, Kind: st.Kind, Severity: l.Severity, Labels: st.Labels, Fields: l.Fields, Text: l.Text})
				ord++
			}
			b.Streams = append(b.Streams, st)
		}
		e.Batches = append(e.Batches, wire.AcceptedLogs{Agent: "a", Body: wire.AppendLogs(nil, &b), Batch: &b})
	}
	a.entries = append(a.entries, e)
	return e
}

func (a *attacker) row() *Row {
	if len(a.rows) == 0 {
		return &Row{Text: []byte("nothing 1")}
	}
	return &a.rows[a.rng.IntN(len(a.rows))]
}

// piece returns a part of a line, sometimes changed a little.
func (a *attacker) piece() string {
	text := a.row().Text
	if len(text) == 0 {
		return "x"
	}
	from := a.rng.IntN(len(text))
	to := from + 1 + a.rng.IntN(min(len(text)-from, 1+a.rng.IntN(40)))
	b := bytes.Clone(text[from:to])
	switch a.rng.IntN(12) {
	case 0:
		b[a.rng.IntN(len(b))] = "0aAzZ é"[a.rng.IntN(7)]
	case 1:
		b = append(b, a.pick(oddWords)...)
	case 2:
		b = bytes.ToUpper(b)
	}
	return string(b)
}

// value returns the name of a field and a value that it has somewhere.
func (a *attacker) value() (name, value string) {
	name = a.pick([]string{"code", "took", "user", "host", "a.b", "状态", "x-y", "lvl", "msg", "user.n", "a.b.user", "code.user", "nothing", "=", "k[0]", `q"x`})
	value = a.pick(oddWords)
	for range 20 {
		if v := fieldOf(a.row(), name); v != "" {
			return name, v
		}
	}
	return name, value
}

// ask makes a filter, and tells what it is.
func (a *attacker) ask(depth int) (*query.Filter, string) {
	if depth == 0 {
		return a.leaf()
	}
	f, is := a.ask(depth - 1)
	switch a.rng.IntN(6) {
	case 0:
		g, of := a.ask(depth - 1)
		return query.And(f, g), "(" + is + " and " + of + ")"
	case 1:
		g, of := a.ask(depth - 1)
		return query.Or(f, g), "(" + is + " or " + of + ")"
	case 2:
		return query.Not(f), "not " + is
	case 3:
		g, of := a.ask(depth - 1)
		h, third := a.leaf()
		return query.And(f, query.Not(g), query.Or(h, g)), fmt.Sprintf("(%s and not %s and (%s or %s))", is, of, third, of)
	}
	return a.leaf()
}

// leaf makes a condition.
func (a *attacker) leaf() (*query.Filter, string) {
	name, value := a.value()
	runes := []rune(value)
	part := string(runes[:1+a.rng.IntN(len(runes))])
	piece := a.piece()
	prefix := a.rng.IntN(2) == 0
	switch a.rng.IntN(14) {
	case 0:
		return query.Literal(piece), fmt.Sprintf("literal %q", piece)
	case 1:
		return query.Phrase(piece, prefix), fmt.Sprintf("phrase %q %v", piece, prefix)
	case 2:
		word := a.pick(oddWords)
		return query.Phrase(word, prefix), fmt.Sprintf("phrase %q %v", word, prefix)
	case 3:
		expr := a.pick([]string{"", "(?i)", "^", `\b`, "(?s).", "(?m)^"}) + regexp.QuoteMeta(strings.ToValidUTF8(piece, "")) + a.pick([]string{"", "", "$", `\b`, ".*$", "[0-9a-f]+", `\s?`})
		if a.rng.IntN(3) == 0 {
			expr = a.pick([]string{"^$", "^.{0,20}$", `\d{3,}`, `[a-f]{4}`, `\p{Han}{2}`, `(?i)k`, `(?i)ſ|ß`, `[^\x00-\x7f]`, `\x00`, `=\d+\b`, `^\{.*\}$`, `[A-F0-9]{4}\b`, "�", `(?i)[x-z]\d`})
		}
		return query.Regex(regexp.MustCompile(expr)), "regex " + expr
	case 4:
		how := []query.Compare{query.Equal, query.HasPrefix, query.Exists}[a.rng.IntN(3)]
		value = a.pick([]string{value, part, strings.ToUpper(value)})
		return query.Field(name, how, value), fmt.Sprintf("field %q %d %q", name, how, value)
	case 5:
		like := a.pick([]string{part + "*", "*" + string(runes[a.rng.IntN(len(runes)):]), "*" + part + "*", value})
		return query.FieldLike(name, like), fmt.Sprintf("field %q like %q", name, like)
	case 6:
		n := float64(a.rng.IntN(600))
		if v, err := strconv.ParseFloat(value, 64); err == nil {
			n = v
		}
		name, how := a.pick([]string{name, "took", "code", "elapsed"}), []query.Compare{query.Less, query.LessOrEqual, query.Greater, query.GreaterOrEqual}[a.rng.IntN(4)]
		return query.FieldNumber(name, how, n), fmt.Sprintf("field %q %d %v", name, how, n)
	case 7:
		expr := "(?i)" + regexp.QuoteMeta(strings.ToValidUTF8(part, ""))
		return query.FieldRegex(name, regexp.MustCompile(expr)), fmt.Sprintf("field %q regex %s", name, expr)
	case 8:
		m, err := query.NewMatcher(name, query.MatchOp(a.rng.IntN(4)), a.pick([]string{"", regexp.QuoteMeta(strings.ToValidUTF8(value, "")), ".+", "web-1", "web-.*"}))
		if err != nil {
			break
		}
		if prefix {
			return query.Label(m), "label " + m.String()
		}
		return query.Value(m), "value " + m.String()
	case 9:
		pattern := patternOf(a.row())
		return query.Pattern(pattern), fmt.Sprintf("pattern %q", pattern)
	case 10:
		from, to := a.row().T+int64(a.rng.IntN(3))-1, a.row().T
		from, to = min(from, to), max(from, to)
		return query.Times(from, to), fmt.Sprintf("times %d..%d", from, to)
	case 11:
		if a.rng.IntN(2) == 0 {
			return query.KindIs(wire.StreamEvent), "events"
		}
		mask := uint16(a.rng.IntN(128))
		return query.SeverityIn(mask), fmt.Sprintf("severities %b", mask)
	case 12:
		if ws := words.Split(piece); len(ws) > 0 {
			if f := query.Near(ws[0], 1+a.rng.IntN(2)); f != nil {
				return f, "near " + ws[0]
			}
		}
	default:
		ws := words.Split(piece + " x")
		k := a.rng.IntN(len(ws))
		r := []rune(ws[k])
		at := a.rng.IntN(len(r) + 1)
		ws[k] = string(r[:at]) + "*" + string(r[min(len(r), at+a.rng.IntN(2)):])
		text := strings.Join(ws[max(0, k-2):k+1], "-")
		if f, err := query.Parse(text); err == nil {
			return f, text
		}
	}
	return query.All(), "all"
}

// question is one whose meaning is what its filter says of a line.
func (a *attacker) question() (*query.Filter, question) {
	f, text := a.ask(a.rng.IntN(3))
	return f, question{text, func(r *Row) bool {
		return f.Match(&query.Line{T: r.T, Kind: r.Kind, Severity: r.Severity, Labels: r.Labels, Fields: r.Fields, Text: r.Text})
	}}
}

// checkBeside holds a question of each of the other kinds against the rows of the model.
func (a *attacker) checkBeside(t *testing.T, s *Store, shown *model, floor int64) {
	t.Helper()
	f, q := a.question()
	kept := shown.find(q, floor, 0, false)
	byPosition := slices.Clone(kept)
	slices.SortFunc(byPosition, func(x, y Row) int { return x.Position.Compare(y.Position) })
	pos := Position{a.rng.Uint64N(a.index + 2), uint32(a.rng.IntN(40))}
	limit := 1 + a.rng.IntN(60)
	got, err := s.ReadAfter(t.Context(), pos, f, minTime, limit)
	if err != nil {
		t.Fatal(err)
	}
	want := slices.DeleteFunc(byPosition, func(r Row) bool { return r.Position.Compare(pos) <= 0 })
	if more := len(want) > limit; got.More != more {
		t.Fatalf("tail behind %v %s: more is %v", pos, q.text, got.More)
	}
	sameRows(t, "tail "+q.text, got.Rows, want[:min(limit, len(want))])
	all := shown.find(question{is: func(*Row) bool { return true }}, floor, 0, false)
	if len(all) == 0 {
		return
	}
	at := all[a.rng.IntN(len(all))]
	before, after := a.rng.IntN(9), a.rng.IntN(9)
	around, err := s.Context(t.Context(), at.Position, at.T, before, after)
	if err != nil {
		t.Fatalf("context of %v: %v", at.Position, err)
	}
	id := streamIDOf(at.Kind, at.Labels)
	all = slices.DeleteFunc(all, func(r Row) bool { return streamIDOf(r.Kind, r.Labels) != id })
	i := slices.IndexFunc(all, func(r Row) bool { return r.Position == at.Position })
	sameRows(t, "context", around.Rows, all[max(0, i-before):min(len(all), i+after+1)])
	if around.At != min(i, before) {
		t.Fatalf("context: the line is number %d, want %d", around.At, min(i, before))
	}
	a.checkSuggestions(t, s, shown, floor)
}

func sameRows(t *testing.T, what string, got, want []Row) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d rows, want %d; %s", what, len(got), len(want), firstDifference(got, want))
	}
	for i := range got {
		if !sameRow(&got[i], &want[i]) {
			t.Fatalf("%s: row %d is %+v, want %+v", what, i, got[i], want[i])
		}
	}
}

// checkSuggestions compares suggestions with the words of all lines when there was time to look at all.
func (a *attacker) checkSuggestions(t *testing.T, s *Store, shown *model, floor int64) {
	t.Helper()
	ws := naiveWords(a.row().Text)
	if len(ws) == 0 {
		return
	}
	r := []rune(ws[a.rng.IntN(len(ws))])
	prefix := string(r[:1+a.rng.IntN(len(r))])
	if len(prefix) > suggestBytes || words.IsCJKWord(prefix) {
		return
	}
	got, err := s.Suggest(t.Context(), SuggestRequest{Kind: SuggestWord, Prefix: prefix, Limit: MaxSuggestions, Budget: MaxSuggestBudget})
	if err != nil || got.Cut {
		return
	}
	counts := map[string]int64{}
	for i := range shown.rows {
		if shown.rows[i].T < floor {
			continue
		}
		of := map[string]bool{}
		for _, w := range naiveWords(shown.rows[i].Text) {
			if strings.HasPrefix(w, prefix) && len(w) <= suggestBytes && !words.IsCJKWord(w) {
				of[w] = true
			}
		}
		for w := range of {
			counts[w]++
		}
	}
	texts := slices.SortedFunc(maps.Keys(counts), func(x, y string) int { return cmp.Or(cmp.Compare(counts[y], counts[x]), cmp.Compare(x, y)) })
	texts = texts[:min(len(texts), MaxSuggestions)]
	if len(got.Items) != len(texts) {
		t.Fatalf("suggestions for %q: %d, want %d", prefix, len(got.Items), len(texts))
	}
	for i, it := range got.Items {
		if it.Text != texts[i] || it.Lines != counts[it.Text] {
			t.Fatalf("suggestion %d for %q is %+v, want %q in %d lines", i, prefix, it, texts[i], counts[texts[i]])
		}
	}
}

// campaign runs one seed: three stores get the same log and are laid out differently, and every answer of each is held against the lines.
func campaign(t *testing.T, seed uint64, rounds, asked int) {
	a := newAttacker(seed)
	dir := t.TempDir()
	floor := int64(minTime)
	var cut cutting
	stores, opts := make([]*Store, 3), make([]Options, 3)
	for i := range stores {
		opts[i] = Options{OutlineBytes: []int64{0, 20 << 10, -1}[(int(seed)+i)%3], NoIndex: a.rng.IntN(5) == 0}
		stores[i] = testStore(t, filepath.Join(dir, fmt.Sprint("store-", i)), opts[i])
	}
	for round := range rounds {
		for range 1 + a.rng.IntN(12) {
			e := a.entry()
			for _, s := range stores {
				if err := s.ApplyLogs(e.Index, []wire.LogEntry{e}); err != nil {
					t.Fatal(err)
				}
			}
		}
		if a.rng.IntN(8) == 0 {
			floor = max(floor, testDay*DayNs+a.rng.Int64N(DayNs*3/2))
		}
		if a.rng.IntN(6) == 0 {
			kind, day, through := wire.StreamLog+wire.StreamKind(a.rng.IntN(2)), testDay+a.rng.Int64N(3), a.rng.Uint64N(a.index+1)
			sel := a.pick([]string{`{host="web-1"}`, `{unit=~"k.*"}`, `{user!=""}`, `{host!="web-2", user=""}`})
			for _, s := range stores {
				one := cut
				one.list = slices.Clone(cut.list)
				one.cut(t, s, kind, day, through, sel)
				if s == stores[len(stores)-1] {
					cut = one
				}
			}
		}
		for i, s := range stores {
			s.SetFloor(floor)
			if a.rng.IntN(2) == 0 {
				s.Durable(a.index)
			}
			s.SetFormat(uint32(1 + min(1, a.rng.IntN(5))))
			if i == 0 || i == 1 && a.rng.IntN(3) == 0 {
				work(t, s, i == 0 || a.rng.IntN(2) == 0)
			}
			switch a.rng.IntN(5) {
			case 0: // a copy takes over, without the word index
				to := filepath.Join(dir, fmt.Sprintf("cut-%d-%d", round, i))
				if err := s.Cut(to); err != nil {
					t.Fatal(err)
				}
				if err := s.Open(to); err != nil {
					t.Fatal(err)
				}
			case 1:
				at := s.Dir()
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				s = testStore(t, at, opts[i])
				stores[i] = s
				s.SetFloor(floor)
				s.SetCuts(slices.Clone(cut.list))
			}
			shown := &model{rng: a.rng, rows: slices.DeleteFunc(slices.Clone(a.rows), func(r Row) bool { return cut.hides(t, &r) }), index: a.index}
			for range asked {
				f, q := a.question()
				shown.checkQuestion(t, s, f, q, floor)
			}
			a.checkBeside(t, s, shown, floor)
		}
	}
}

func TestCampaign(t *testing.T) {
	seeds, first := campaignSeeds(t, rounds(2, 1))
	round, asked := 3, 5
	if os.Getenv("TRIWARD_CAMPAIGN") != "" {
		round, asked = 10, 12
	}
	for seed := first; seeds(); seed++ {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) { campaign(t, seed, round, asked) })
		if t.Failed() {
			return
		}
	}
}

// campaignSeeds reports before each seed whether there is to be one: n of them, or as many as there is time for.
func campaignSeeds(t *testing.T, n int) (more func() bool, first uint64) {
	t.Helper()
	first, _ = strconv.ParseUint(os.Getenv("TRIWARD_SEED"), 10, 64)
	minutes, err := strconv.ParseFloat(os.Getenv("TRIWARD_CAMPAIGN"), 64)
	if err != nil {
		return func() bool { n--; return n >= 0 }, first
	}
	end := time.Now().Add(time.Duration(minutes * float64(time.Minute)))
	return func() bool { return time.Now().Before(end) }, first
}
