package query

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/block"
	"github.com/triward/triward/logstore/members"
	"github.com/triward/triward/logstore/words"
)

func someLines(rng *rand.Rand, n int) []block.Line {
	verbs := []string{"accepted", "Refused", "opened", "磁盘 full", "é9", "失败", "fed"}
	forms := []func(i int) string{
		func(i int) string {
			return fmt.Sprintf("INFO connection %d from 10.%d.%d.1 port %d: %s in %d ms", i, rng.IntN(3), rng.IntN(3), rng.IntN(70), verbs[i%7], i*7%50)
		},
		func(i int) string {
			return fmt.Sprintf("user=%s id=%x-%04x state=%s", verbs[rng.IntN(7)], rng.Uint32(), rng.IntN(1<<16), verbs[i%7])
		},
		func(i int) string {
			return fmt.Sprintf("磁盘%d号 错误%d次 code9=%d", rng.IntN(5), i, rng.IntN(5))
		},
		func(i int) string { return fmt.Sprintf("%d", i%5) },
		func(i int) string {
			return fmt.Sprintf(`{"user":"%s %d","n":%d.%d,"ad":{"state":"磁%x","x":[%d,null]},"k%d":"%s"}`, verbs[i%7], i%9, i%3-1, i%7, rng.IntN(1<<12), rng.IntN(9), i%2, verbs[rng.IntN(7)])
		},
		func(i int) string { // with numbers that are none
			return fmt.Sprintf(`{"n":%s,"state":"s %d"}`, []string{"1", "01", "ab", "2e7", "7"}[rng.IntN(5)], rng.IntN(9))
		},
		func(i int) string { // and with escapes
			return fmt.Sprintf(` {"n":%s,"state":"\u00e%d","user":"\\%d"} `, []string{"1", "01", "ab", "2e7", "-3"}[rng.IntN(5)], rng.IntN(9), i)
		},
		func(i int) string {
			return fmt.Sprintf(`n=%d, user="%s %d", ad=%d x %s=5; state=x,`, i, verbs[i%7], rng.IntN(3), i%5, []string{"ad", "fa", "bad"}[i%3])
		},
		func(i int) string { return fmt.Sprintf("lvl:%s n:%d", verbs[rng.IntN(7)], i) },
		func(i int) string { return fmt.Sprintf("blk_-%d\xff%d\xe4\xb8%d", rng.IntN(50), i%3, i%4) },
		func(i int) string { return "no slot at all, CONSTANT text" },
		func(i int) string { return fmt.Sprintf("a1 a%d a1 b%d a1", rng.IntN(4), rng.IntN(4)) },
		func(i int) string {
			b := make([]byte, rng.IntN(20))
			for k := range b {
				b[k] = "ab1 =\xff:\n"[rng.IntN(8)]
			}
			return string(b)
		},
	}
	lines := make([]block.Line, n)
	for i := range lines {
		lines[i] = block.Line{T: int64(i), Text: []byte(forms[rng.IntN(len(forms))](i))}
		if rng.IntN(30) == 0 && len(lines[i].Text) > 3 {
			lines[i].Text = lines[i].Text[rng.IntN(3):]
		}
	}
	return lines
}

func upTo(rng *rand.Rand, b []byte) []byte {
	if len(b) == 0 {
		return b
	}
	from := rng.IntN(len(b))
	return b[from : from+1+rng.IntN(min(len(b)-from, 14))]
}

// leafFor makes a leaf that some line may well match.
func leafFor(rng *rand.Rand, lines []block.Line) *Filter {
	text := lines[rng.IntN(len(lines))].Text
	ws := words.Split(string(text))
	if rng.IntN(4) == 0 {
		return memberLeaf(rng, text)
	}
	switch rng.IntN(6) {
	case 0:
		return Literal(string(upTo(rng, text)))
	case 1:
		piece := regexp.QuoteMeta(strings.ToValidUTF8(string(upTo(rng, text)), "."))
		expr := []string{"%s", "(?i)%s", "^%s", "%s$", `\b%s`, `%s\w*`, `\d+%s`, `%s.*\d`, "[a-f]%s", "(?m)^%s$", "(%s|xyz)+", ""}[rng.IntN(12)]
		re, err := regexp.Compile(strings.ReplaceAll(expr, "%s", piece))
		if err != nil {
			return All()
		}
		return Regex(re)
	}
	if len(ws) == 0 {
		return Literal("=")
	}
	from := rng.IntN(len(ws))
	part := slices.Clone(ws[from : from+1+rng.IntN(min(4, len(ws)-from))])
	prefix := rng.IntN(3) == 0
	if last := []rune(part[len(part)-1]); prefix {
		part[len(part)-1] = string(last[:1+rng.IntN(len(last))])
	}
	if rng.IntN(8) == 0 {
		part[rng.IntN(len(part))] = []string{"a1", "磁", "fed", "connection", "9"}[rng.IntN(5)]
	}
	if rng.IntN(3) == 0 {
		return sequenceOf(rng, part)
	}
	return &Filter{op: opPhrase, words: part, back: backOf(part), prefix: prefix}
}

// memberLeaf asks for a field that texts hold, also of a name that slots may have.
func memberLeaf(rng *rand.Rand, text []byte) *Filter {
	name := []string{"user", "n", "state", "ad", "ad.state", "k1", "fa", "id"}[rng.IntN(8)]
	var r members.Reader
	value := "x"
	for _, f := range r.All(text) {
		if value = string(f.Value); rng.IntN(2) == 0 {
			name = string(f.Name)
			break
		}
	}
	switch rng.IntN(4) {
	case 0:
		return FieldNumber(name, Greater, float64(rng.IntN(9))).text
	case 1:
		return Field(name, Exists, "").text
	case 2:
		return Field(name, HasPrefix, value[:rng.IntN(len(value)+1)]).text
	}
	return Field(name, Equal, value).text
}

func filterFor(rng *rand.Rand, lines []block.Line, depth int) *Filter {
	if depth == 0 {
		return leafFor(rng, lines)
	}
	a, b := filterFor(rng, lines, depth-1), filterFor(rng, lines, depth-1)
	switch rng.IntN(4) {
	case 0:
		return And(a, b)
	case 1:
		return Or(a, b)
	case 2:
		return Not(a)
	}
	return a
}

// What is selected by templates is what a look at every line selects.
func TestTemplatesSelectWhatLinesMatch(t *testing.T) {
	c, err := block.NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var v block.View
	var b Lines
	by := map[how]int{}
	seen := map[string]int{}
	for seed := range uint64(8) {
		rng := rand.New(rand.NewPCG(seed, 3))
		var plans Plans
		keep := keeper()
		for range 4 {
			lines := someLines(rng, 1+rng.IntN(400))
			out, err := c.Encode(lines, block.Version2, nil)
			if err != nil || out.Version != block.Version2 {
				t.Fatal(out.Version, err)
			}
			if _, err := c.View(&v, out.Text, len(lines)); err != nil {
				t.Fatal(err)
			}
			o := v.Outline(keep)
			if rng.IntN(4) > 0 && !o.Learn(&v) {
				t.Fatal(v.Err())
			}
			for range 250 {
				f := filterFor(rng, lines, rng.IntN(3))
				from := rng.IntN(len(lines) + 1)
				in := Range(len(lines), from, from+rng.IntN(len(lines)-from+1))
				b.Reset()
				b.N, b.View, b.Plans = len(lines), &v, &plans
				got := f.Select(&b, in)
				look := &plans
				if rng.IntN(2) == 0 { // only the first words of Plans may be excluded from slots
					look = &Plans{}
				}
				sight := look.Look(f, o, nil)
				seen[fmt.Sprint(sight.AnyOpen, sight.AnySure)]++
				b.Reset()
				b.N, b.View, b.Plans, b.Outline = len(lines), &v, &plans, o
				fast := f.SelectSeen(&b, in, sight)
				if v.Err() != nil {
					t.Fatal(v.Err())
				}
				for i := range lines {
					want := f.Match(&Line{Text: lines[i].Text}) && in.Has(i)
					if got.Has(i) != want || fast.Has(i) != want || want && !sight.Any() {
						t.Fatalf("seed %d: %s: line %q is selected: %v, by the outline %v, want %v", seed, describe(f), lines[i].Text, got.Has(i), fast.Has(i), want)
					}
				}
			}
		}
		for _, l := range plans.leaves {
			for _, d := range l.verdicts {
				by[d.how]++
			}
		}
	}
	if len(seen) != 4 || slices.Min(slices.Collect(maps.Values(seen))) < 100 {
		t.Errorf("what outlines say is too one-sided: %v", seen)
	}
	for h := noLine; h <= byMember; h++ {
		if by[h] < 100 {
			t.Errorf("verdict %d only %d times: the lines are of too few kinds", h, by[h])
		}
	}
}

// Beyond the first words of a query nothing is known of the values of slots, so that they may be any.
func TestOutlinesAreAskedForManyWords(t *testing.T) {
	c, err := block.NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var lines []block.Line
	for i := range 50 {
		lines = append(lines, block.Line{T: int64(i), Text: fmt.Appendf(nil, "a%dx b%dx c%dx d%dx", i, i, i, i)})
	}
	out, err := c.Encode(lines, block.Version2, nil)
	if err != nil {
		t.Fatal(err)
	}
	var v block.View
	if _, err := c.View(&v, out.Text, len(lines)); err != nil {
		t.Fatal(err)
	}
	o := v.Outline(keeper())
	if !o.Learn(&v) {
		t.Fatal(v.Err())
	}
	for n := 55; n < 70; n++ {
		var plans Plans
		long := strings.TrimSpace(strings.Repeat("word ", n))
		if plans.Look(Or(Phrase(long, false), Phrase("zz", false)), o, nil).Any() {
			t.Error("words that are nowhere may match")
		}
		plans = Plans{}
		if !plans.Look(Or(Phrase(long, false), Phrase("a7x b7x c7x d7x", false)), o, nil).Any() {
			t.Errorf("behind %d words a phrase of slots is not found", n)
		}
	}
}

// keeper numbers shapes, those with the same case alike.
func keeper() func(*block.Shape) *block.Shape {
	have := map[string]*block.Shape{}
	return func(s *block.Shape) *block.Shape {
		if have[string(s.Case())] == nil {
			have[string(s.Case())] = s.Clone(uint64(128*len(have) + 1)) // of several pages
		}
		return have[string(s.Case())]
	}
}

func describe(f *Filter) string {
	var out []string
	f.eachLeaf(func(l *Filter) {
		switch {
		case l.re != nil:
			out = append(out, "/"+l.re.String()+"/")
		case l.op == opMember:
			out = append(out, fmt.Sprintf("field %q %d %q %v", l.field, l.cmp, l.value, l.num))
		case l.op == opWords:
			out = append(out, describeTests(l))
		case l.op == opPhrase:
			out = append(out, fmt.Sprintf("%q prefix %v", l.words, l.prefix))
		default:
			out = append(out, fmt.Sprintf("literal %q", l.literal))
		}
	})
	return fmt.Sprintf("op %d of %s", f.op, strings.Join(out, ", "))
}

// Expressions that nothing of a template can match are settled without its lines, and those that everything matches too.
func TestTemplatesSettleExpressions(t *testing.T) {
	c, err := block.NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var lines []block.Line
	for i := range 100 {
		lines = append(lines, block.Line{T: int64(i), Text: fmt.Appendf(nil, "Received block blk_-%d of size %d from /10.0.0.%d", i, i*i, i)})
	}
	out, err := c.Encode(lines, block.Version2, nil)
	if err != nil {
		t.Fatal(err)
	}
	var v block.View
	if _, err := c.View(&v, out.Text, len(lines)); err != nil || v.Templates() != 1 {
		t.Fatal(v.Templates(), err)
	}
	for expr, want := range map[string]how{
		`block \w+ of`: noLine, `block .* of`: byText, `Received\s+block`: allLines, `^block`: noLine, `^Received`: byText, `size \d+ to`: noLine,
		`size \d+ from`: byText, `from$`: noLine, `\d$`: byText, `(?i)RECEIVED`: allLines, `segfault`: noLine, `block \d`: noLine, `7\d`: byText, `-99 of size 9801`: byText, ``: allLines,
	} {
		var plans Plans
		if d := plans.of(Regex(regexp.MustCompile(expr)), &v.Template(0).Shape, nil); d.how != want {
			t.Errorf("/%s/ is decided %d, want %d", expr, d.how, want)
		}
	}
	var plans Plans
	for text, want := range map[string]how{
		"block": allLines, "received block": allLines, "block size": noLine, "blk 7": byValue, "size 49 from": byValue, "of size": allLines, "10.0.0": byValue,
		"from of": noLine,
	} {
		if d := plans.of(Phrase(text, false), &v.Template(0).Shape, nil); d.how != want {
			t.Errorf("%q is decided %d, want %d", text, d.how, want)
		}
	}
	if d := plans.of(Literal("ck blk_-"), &v.Template(0).Shape, nil); d.how != allLines {
		t.Errorf("a literal in the template is decided %d", d.how)
	}
}

// Hostile expressions and templates cost a bounded number of steps, and what is remembered is bounded.
func TestPlansAreBounded(t *testing.T) {
	c, err := block.NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var lines []block.Line
	for i := range 60 {
		lines = append(lines, block.Line{T: int64(i), Text: append(bytes.Repeat([]byte(fmt.Sprint("x y", i%15)), 2000), " 1"...)})
	}
	out, err := c.Encode(lines, block.Version2, nil)
	if err != nil {
		t.Fatal(err)
	}
	var v block.View
	if _, err := c.View(&v, out.Text, len(lines)); err != nil {
		t.Fatal(err)
	}
	f := Regex(regexp.MustCompile(`(\w{0,30}\s*){30}!`))
	m := f.machine()
	for i := range v.Templates() {
		if m == nil {
			break
		}
		if _ = m.possible(&v.Template(i).Shape); m.steps > maxSteps+2*maxMachine {
			t.Errorf("%d steps", m.steps)
		}
	}
	var plans Plans
	for i := range 200 {
		f := Literal(fmt.Sprint(i))
		for k := range v.Templates() {
			plans.of(f, &v.Template(k).Shape, nil)
		}
	}
	if plans.bytes > maxPlanBytes {
		t.Errorf("%d bytes are remembered", plans.bytes)
	}
}

// What is selected by columns of fields is what a look at every line selects, and absent is not empty where that matters.
func TestFieldColumnsSelectWhatLinesMatch(t *testing.T) {
	c, err := block.NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	matcher := func(op MatchOp, value string) *Filter {
		m, err := NewMatcher("user", op, value)
		if err != nil {
			t.Fatal(err)
		}
		return Value(m)
	}
	var filters []*Filter
	for _, value := range []string{"", "ann", "ANN", "an", "nobody", "磁"} {
		filters = append(filters, Field("user", Equal, value), Field("user", HasPrefix, value), matcher(MatchEqual, value), matcher(MatchNotEqual, value))
	}
	filters = append(filters, Field("user", Exists, ""), Field("none", Exists, ""), FieldNumber("code", GreaterOrEqual, 250), FieldNumber("user", Less, 1), FieldNumber("user", LessOrEqual, 7), FieldNumber("user", Greater, 7), FieldNumber("user", GreaterOrEqual, 7),
		FieldNumber("code", Less, 3), FieldNumber("code", Greater, 498), FieldNumber("code", LessOrEqual, -2.5), FieldNumber("code", GreaterOrEqual, 1e3), FieldNumber("code", Greater, math.NaN()),
		Not(FieldNumber("code", Greater, 498)), Or(FieldNumber("code", Less, 3), FieldNumber("user", GreaterOrEqual, 7)),
		FieldRegex("code", regexp.MustCompile("7$")), matcher(MatchRegex, "a.*|"), matcher(MatchNotRegex, "a.+"), matcher(MatchNotRegex, ""))
	rng := rand.New(rand.NewPCG(6, 6))
	var cols block.Columns
	var texts block.Text
	var view block.View
	var spans block.Spans
	var b Lines
	ruledOut := 0
	for round := range 60 {
		lines := make([]block.Line, 1+rng.IntN(200))
		for i := range lines {
			lines[i].T = int64(i)
			if rng.IntN(3) > 0 || round%3 == 0 {
				lines[i].Fields = append(lines[i].Fields, wire.Label{Name: "code", Value: oddNumber(rng, round)})
			}
			lines[i].Text = memberText(rng)
			if rng.IntN(3) > 0 && round%4 > 0 {
				lines[i].Fields = append(lines[i].Fields, wire.Label{Name: "user", Value: []string{"ann", "Ann", "", "bob", "磁盘", "7"}[rng.IntN(6)]})
			}
		}
		voc := new(block.Vocabulary)
		out, err := c.Encode(lines, block.Version2, voc)
		if err == nil {
			err = c.DecodeColumns(&cols, out.Columns, len(lines), block.What{Fields: true, ByName: true})
		}
		if err == nil {
			err = c.Spans(&spans, out.Columns)
		}
		if err != nil {
			t.Fatal(err)
		}
		if !FieldNumber("code", Greater, 498).stored().MayBeWithin(&spans) {
			ruledOut++
		}
		head, filter := block.HeaderOf(lines), block.ReadFilter(voc.Filter(block.Version2))
		has := func(word string) bool {
			w := block.Seek(word)
			return filter.MayHold(&w)
		}
		for k, f := range filters {
			whole := And(f, Not(Field("code", Equal, fmt.Sprint(k))))
			var plans Plans
			reducer := whole.Reducer()
			reduced := reducer.Block(whole, &head)
			stored := reducer.Stored(reduced, func(n *Need) bool { return n.May(has) })
			for _, f := range []*Filter{whole, reduced, stored} {
				b.Reset()
				if b.N = len(lines); cols.ByName() {
					b.Columns = &cols
				}
				opened := 0
				b.Open = func() error {
					opened++
					b.Plans = &plans
					if ok, err := c.View(&view, out.Text, len(lines)); ok || err != nil {
						b.View = &view
						return err
					}
					err := c.DecodeText(&texts, out.Text, len(lines))
					b.Text, b.Ends = texts.Bytes, texts.Ends
					return err
				}
				got := f.Select(&b, Range(len(lines), 0, len(lines)))
				need := f.Need()
				may := need.May(has)
				if f == stored {
					may = may && f.MayBeWithin(&spans)
				}
				for i := range lines {
					if want := whole.Match(&Line{Fields: lines[i].Fields, Text: lines[i].Text}); got.Has(i) != want || b.Err() != nil || want && !may {
						t.Fatalf("filter %d: line %q with %v is selected: %v, want %v; the block may: %v: %v", k, lines[i].Text, lines[i].Fields, got.Has(i), want, may, b.Err())
					}
				}
				if opened > 1 || opened == 1 && !f.MayNeedText() {
					t.Fatalf("filter %d: texts were opened %d times", k, opened)
				}
			}
		}
	}
	if ruledOut < 20 || ruledOut == 60 {
		t.Errorf("the spans of %d of 60 blocks rule out a number", ruledOut)
	}
}

// oddNumber is the value of a field that is often a number.
func oddNumber(rng *rand.Rand, round int) string {
	if odd := []string{"1e3", "-2.5", "NaN", "inf", "-Inf", "0x1p9", "12ms", "1_000", "99999e999", ""}; round%5 == 2 && rng.IntN(40) < len(odd) {
		return odd[rng.IntN(len(odd))]
	}
	if round%7 == 3 && rng.IntN(2) == 0 {
		return fmt.Sprintf("%dms", rng.IntN(500))
	}
	return fmt.Sprint(rng.IntN(500))
}

// stored is the filter without what texts hold.
func (f *Filter) stored() *Filter {
	s := *f
	s.text = nil
	return &s
}

// memberText makes a text that may hold the fields user and code.
func memberText(rng *rand.Rand) []byte {
	user := []string{"ann", "Ann", "bob", "磁盘", `\u78c1\u76d8`, "7", "an", `a\u006en`, "ann smith", ""}[rng.IntN(10)]
	code := rng.IntN(500)
	switch rng.IntN(8) {
	case 0:
		return fmt.Appendf(nil, `{"user":"%s","code":%d}`, user, code)
	case 1:
		return fmt.Appendf(nil, `{"code":%d,"in":{"user":"%s"},"user":"%s","user":"x"}`, code, user, user)
	case 2:
		return fmt.Appendf(nil, `{"user":"%s","code":%d`, user, code)
	case 3:
		return fmt.Appendf(nil, `user="%s" code=%d`, user, code)
	case 4:
		return fmt.Appendf(nil, "failed: user=%s, code=%d; user=never", user, code)
	case 5:
		return fmt.Appendf(nil, "user %s code %d user:%s", user, code, user)
	case 6:
		return nil
	}
	return fmt.Appendf(nil, "it is %d", code)
}
