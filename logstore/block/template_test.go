package block

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/words"
)

// oddLines have what a codec of templates could lose.
func oddLines() []Line {
	texts := []string{
		"", "\n", "\r\n", "a\r\nb 1\r\n", "007", "+1 -1 1e5 0x1F 0b1", "123456789012345678901234567890", "0", "00", "磁盘9号 7磁 ９９", "é9 9é Ü=ü",
		"\xff1\xfe2\x80", "x1\x80y", "\xe4\xb8" + "1", "a=b=c=", "=", "===x", "key=value key=value2 key=", "k=磁盘", "deadbeef-cafe be DEAD Fe", "1", " 1", "1 ",
		"e\u0301 9e\u0301=1", strings.Repeat("1 ", maxSlots), strings.Repeat("1 ", maxSlots+1), strings.Repeat("1 ", 4000), strings.Repeat("long ", 50000) + "7",
		"9223372036854775807 9223372036854775808 999999999999999999 1000000000000000000", "\x00 \x001\x00",
	}
	var lines []Line
	for round := range 5 {
		for _, text := range texts {
			lines = append(lines, Line{T: int64(len(lines)), Index: uint64(round), Ord: uint32(len(lines)), Severity: 3, Text: []byte(text)})
		}
	}
	return lines
}

// A block of version 2 comes back byte for byte, whole and line by line, and has the words that version 1 has.
func TestTemplatesKeepEveryByte(t *testing.T) {
	c := codec(t)
	all := corpora(t, 3000)
	all["odd"] = oddLines()
	rng := rand.New(rand.NewPCG(2, 2))
	for round := range 30 { // lines of few forms, torn
		all[fmt.Sprint("torn", round)] = tornLines(rng, all["service"][:40], 200)
	}
	var v View
	for _, name := range sortedNames(all) {
		lines := all[name]
		var voc, plain Vocabulary
		out, err := c.Encode(lines, Version2, &voc)
		if err != nil || out.Version != Version2 {
			t.Fatalf("%s: version %d, %v: %v", name, out.Version, out.Fallback, err)
		}
		got, err := decode(c, out.Columns, out.Text, len(lines))
		if err != nil || !slices.EqualFunc(got, lines, same) {
			t.Fatalf("%s: lines come back otherwise: %v", name, err)
		}
		if ok, err := c.View(&v, out.Text, len(lines)); !ok || err != nil {
			t.Fatalf("%s: view: %v", name, err)
		}
		for range 200 {
			i := rng.IntN(len(lines))
			if text := v.Append(nil, i); !bytes.Equal(text, lines[i].Text) || v.Err() != nil {
				t.Fatalf("%s: line %d is %q, want %q: %v", name, i, text, lines[i].Text, v.Err())
			}
		}
		for i := range lines {
			plain.Add(lines[i].Text)
		}
		if !bytes.Equal(voc.Filter(Version2), plain.Filter(Version2)) {
			t.Errorf("%s: the filter holds other words", name)
		}
		if a, b := termsOf(&voc), termsOf(&plain); !slices.Equal(a, b) {
			t.Errorf("%s: %d terms for the index, want %d", name, len(a), len(b))
		}
		checkWords(t, name, &v)
	}
}

func termsOf(v *Vocabulary) []string {
	terms := strings.Split(string(v.Terms()), "\n")
	slices.Sort(terms)
	return terms
}

// checkWords holds templates to what they promise: the words of a line are those of the pieces and the values.
func checkWords(t *testing.T, name string, v *View) {
	t.Helper()
	for i := range v.Templates() {
		tp := v.Template(i)
		for k, line := range tp.Lines() {
			if k > 20 {
				break
			}
			want := words.Split(string(v.Append(nil, int(line))))
			got := words.Split(string(tp.Piece(0)))
			for s := range tp.Slots() {
				value := words.Split(string(tp.Column(s).At(k)))
				if len(value) != 1 {
					t.Fatalf("%s: the value %q is %d words", name, tp.Column(s).At(k), len(value))
				}
				got = append(append(got, value...), words.Split(string(tp.Piece(s+1)))...)
			}
			if !slices.Equal(got, want) {
				t.Fatalf("%s: words %q, want %q", name, got, want)
			}
		}
	}
}

// The same template has one name in every block, whatever else is in it.
func TestTemplatesHaveOneNameEverywhere(t *testing.T) {
	c := codec(t)
	hash := func(first, user string, n int) uint64 {
		var lines []Line
		for i := range 20 {
			lines = append(lines, Line{T: int64(i), Text: fmt.Appendf(nil, first, i)})
			lines = append(lines, Line{T: int64(i), Text: fmt.Appendf(nil, "login of user=%s took %d ms", user, n*i)})
		}
		_, text := encode(t, c, lines, Version2)
		var v View
		if _, err := c.View(&v, text, len(lines)); err != nil {
			t.Fatal(err)
		}
		for i := range v.Templates() {
			if tp := v.Template(i); string(tp.AppendText(nil, "<*>")) == "login of user=<*> took <*> ms" {
				return tp.Hash()
			}
		}
		t.Fatal("no such template")
		return 0
	}
	if a, b := hash("x %d", "alice", 0), hash("other %d things", "bob", 17); a != b {
		t.Errorf("%x and %x", a, b)
	}
}

// tornLines are lines of few forms with a byte changed or cut short.
func tornLines(rng *rand.Rand, from []Line, n int) (lines []Line) {
	for i := range n {
		text := bytes.Clone(from[rng.IntN(len(from))].Text)
		if len(text) > 0 && rng.IntN(2) == 0 {
			text[rng.IntN(len(text))] = []byte{0xff, '9', ' ', '=', 'f', 0xe4, '\n'}[rng.IntN(7)]
		}
		if rng.IntN(9) == 0 {
			text = text[:rng.IntN(len(text)+1)]
		}
		lines = append(lines, Line{T: int64(i), Text: text})
	}
	return lines
}

// A line that has the path of a template is cut as its words say.
func TestPathsCutAsWordsDo(t *testing.T) {
	all := corpora(t, 3000)
	all["odd"] = oddLines()
	var cjk []Line
	for i := range 600 {
		cjk = append(cjk, Line{Text: fmt.Appendf(nil, []string{"用户%d登录", "用户%dé登录", "用户%d登录 id=%x", "é%d 用户=ab", "\xe4\xb8%d\xe4\xb8", "用户ab%d磁ab盘"}[i%6], i, i*i)})
	}
	all["cjk"] = cjk
	rng := rand.New(rand.NewPCG(6, 2))
	for round := range 60 {
		all[fmt.Sprint("torn", round)] = tornLines(rng, [][]Line{all["service"][:40], oddLines()[:20], cjk[:40]}[round%3], 400)
	}
	walked := 0
	for _, name := range sortedNames(all) {
		lines := all[name]
		var k cutter
		k.cut(lines)
		checkCut(t, name, &k, lines)
		for i := range lines {
			if c := k.walk(lines[i].Text); c >= 0 {
				if walked++; k.of[i] != c && k.of[i] >= 0 {
					t.Fatalf("%s: %q has the path of another template", name, lines[i].Text)
				}
			}
		}
	}
	if walked < 10000 {
		t.Errorf("only %d lines have a path", walked)
	}
}

// checkCut holds the cuts to what the words say.
func checkCut(t *testing.T, name string, k *cutter, lines []Line) {
	t.Helper()
	for i := range lines {
		if k.of[i] < 0 {
			continue
		}
		var want []span
		for s := (words.Scanner{Text: lines[i].Text}); s.Next(); {
			if variable(&s) {
				want = append(want, span{uint32(s.Start), uint32(s.End)})
			}
		}
		if got := k.spans[k.first[i]:k.first[i+1]]; !slices.Equal(got, want) {
			t.Fatalf("%s: %q is cut at %v, want %v", name, lines[i].Text, got, want)
		}
		var mine, other [][]byte
		exemplar := k.cands[k.of[i]].line
		k.pieces(lines[i].Text, i, func(p []byte) { mine = append(mine, p) })
		k.pieces(lines[exemplar].Text, exemplar, func(p []byte) { other = append(other, p) })
		if !slices.EqualFunc(mine, other, bytes.Equal) {
			t.Fatalf("%s: %q is not of the template of %q", name, lines[i].Text, lines[exemplar].Text)
		}
	}
}

// damageLastColumn flips a bit of the last group of columns of a text.
func damageLastColumn(t *testing.T, c *Codec, text []byte) {
	t.Helper()
	_, secs, err := c.unpack(nil, text)
	if err != nil {
		t.Fatal(err)
	}
	last := secs[0]
	for _, s := range secs {
		if s.id < optional {
			last = s
		}
	}
	last.b[len(last.b)-1] ^= 1 // they keep the text
}

// Damage is found in what is used, and only there.
func TestViewFindsDamageOnlyWhereItLooks(t *testing.T) {
	c := codec(t)
	lines := corpora(t, 3000)["service"]
	_, text := encode(t, c, lines, Version2)
	damageLastColumn(t, c, text)
	var v View
	if _, err := c.View(&v, text, len(lines)); err != nil {
		t.Fatal(err)
	}
	last := v.Template(v.Templates() - 1)
	if last.Column(last.Slots()-1) != nil || !errors.Is(v.Err(), ErrDamaged) {
		t.Errorf("damage gives %v", v.Err())
	}
	var out Text
	if err := c.DecodeText(&out, text, len(lines)); !errors.Is(err, ErrDamaged) {
		t.Errorf("damage gives %v", err)
	}
	text[0] = 3
	if _, err := c.View(&v, text, len(lines)); !errors.Is(err, ErrDamaged) {
		t.Errorf("a flipped version gives %v", err)
	}
}

// A whole block of a version to come is not taken for damage.
func TestNewerVersionIsNotDamage(t *testing.T) {
	c := codec(t)
	columns, text := encode(t, c, oddLines(), Version2)
	for _, b := range [][]byte{columns, text} {
		dir := b[:5+int(b[1])+int(b[2])<<8]
		dir[0] = 3
		copy(b[len(dir):], c.seal(bytes.Clone(dir))[len(dir):])
	}
	var cols Columns
	if err := c.DecodeColumns(&cols, columns, len(oddLines()), What{}); !errors.Is(err, ErrNewer) || errors.Is(err, ErrDamaged) {
		t.Errorf("columns of version 3 give %v", err)
	}
	var out Text
	if err := c.DecodeText(&out, text, len(oddLines())); !errors.Is(err, ErrNewer) || errors.Is(err, ErrDamaged) {
		t.Errorf("text of version 3 gives %v", err)
	}
}

// A few bytes that say they are very many are refused before memory is taken for them.
func TestExpansionIsBounded(t *testing.T) {
	c := codec(t)
	huge := strings.Repeat("x", 256<<10)
	dict := []byte{}
	dict = appendUvarints(dict, 256<<10*8000, 1, 8000, 0, 256<<10)
	dict = append(append(dict, huge...), 0)
	for _, total := range []int{MaxRaw, 256 << 10, 0} {
		d := append(appendUvarints(nil, total), dict[len(appendUvarints(nil, 256<<10*8000)):]...)
		b, err := c.pack(Version2, []section{{secTemplates, d}, {secTemplateIDs, bytes.Repeat([]byte{1}, 8000)}})
		if err != nil {
			t.Fatal(err)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		var out Text
		err = c.DecodeText(&out, b, 8000)
		runtime.ReadMemStats(&after)
		if !errors.Is(err, ErrDamaged) || after.TotalAlloc-before.TotalAlloc > 16<<20 {
			t.Errorf("%d bytes take %d and give %v", len(b), after.TotalAlloc-before.TotalAlloc, err)
		}
	}
}

func appendUvarints(dst []byte, ns ...int) []byte {
	for _, n := range ns {
		for ; n >= 0x80; n >>= 7 {
			dst = append(dst, byte(n)|0x80)
		}
		dst = append(dst, byte(n))
	}
	return dst
}

// Fields come back whatever they are, by columns when they are sorted and line by line when not.
func TestFieldColumns(t *testing.T) {
	c := codec(t)
	rng := rand.New(rand.NewPCG(4, 4))
	for round := range 40 {
		var lines []Line
		for i := range 1 + rng.IntN(300) {
			l := Line{T: int64(i), Text: []byte("x")}
			for f := range 8 {
				if rng.IntN(3) > 0 || round%4 == 0 {
					l.Fields = append(l.Fields, wire.Label{Name: fmt.Sprint("f", f), Value: []string{"", "GET", fmt.Sprint(i), fmt.Sprint(1e6 + i), "磁盘"}[(f+i*(f%2))%5]})
				}
			}
			if round%5 == 4 {
				rng.Shuffle(len(l.Fields), func(a, b int) { l.Fields[a], l.Fields[b] = l.Fields[b], l.Fields[a] })
			}
			lines = append(lines, l)
		}
		columns, text := encode(t, c, lines, Version2)
		if got, err := decode(c, columns, text, len(lines)); err != nil || !slices.EqualFunc(got, lines, same) {
			t.Fatalf("%d lines come back otherwise: %v", len(lines), err)
		}
	}
}

// FuzzEncode wants every line back.
func FuzzEncode(f *testing.F) {
	c := codec(f)
	f.Add([]byte("a=1 b\na=2 b\na=33 b\n磁9盘\n\xff"), []byte("\n"))
	for _, l := range oddLines()[:20] {
		f.Add(bytes.Repeat(append(l.Text, ';'), 5), []byte(";"))
	}
	f.Fuzz(func(t *testing.T, text, sep []byte) {
		var lines []Line
		var plain, voc Vocabulary
		for i, part := range bytes.SplitN(text, sep, 3000) {
			lines = append(lines, Line{T: int64(i), Text: part, Fields: wire.LabelsFromMap(map[string]string{"f": string(part)})})
			plain.Add(part)
		}
		if len(lines) == 0 {
			return
		}
		out, err := c.Encode(lines, Version2, &voc)
		if err != nil || out.Version != Version2 {
			t.Fatalf("version %d, %v: %v", out.Version, out.Fallback, err)
		}
		if !bytes.Equal(voc.Filter(Version2), plain.Filter(Version2)) || !slices.Equal(termsOf(&voc), termsOf(&plain)) {
			t.Fatal("other words")
		}
		var k cutter
		k.cut(lines)
		checkCut(t, "fuzz", &k, lines)
	})
}

// FuzzView reads sections of anything.
func FuzzView(f *testing.F) {
	c := codec(f)
	lines := slices.DeleteFunc(oddLines(), func(l Line) bool { return len(l.Text) > 100 })
	_, text := encode(f, c, lines, Version2)
	_, secs, err := c.unpack(nil, text)
	if err != nil {
		f.Fatal(err)
	}
	part := func(id uint32) []byte {
		b, err := c.raw(nil, secs.get(id))
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	f.Add(part(secTemplates), part(secTemplateIDs), part(secColumns), part(secLengths), part(secText), len(lines))
	f.Fuzz(func(t *testing.T, dict, ids, column, lengths, flat []byte, n int) {
		b, err := c.pack(Version2, []section{{secLengths, lengths}, {secText, flat}, {secTemplates, dict}, {secTemplateIDs, ids}, {secColumns, column}})
		if err != nil {
			return
		}
		var out Text
		if err := c.DecodeText(&out, b, n%2000); err != nil && !errors.Is(err, ErrDamaged) {
			t.Fatalf("not ErrDamaged: %v", err)
		}
		b, err = c.pack(Version2, []section{{secTimes, lengths}, {secSeverities, ids}, {secFieldNames, dict}, {secColumns, column}})
		if err != nil {
			return
		}
		var cols Columns
		if err := c.DecodeColumns(&cols, b, n%2000, What{Fields: true}); err != nil && !errors.Is(err, ErrDamaged) {
			t.Fatalf("not ErrDamaged: %v", err)
		}
	})
}

// What does not come back is written in version 1, with all its words: a fault of the codec loses no line.
func TestFaultyCodecFallsBack(t *testing.T) {
	c, good := codec(t), codec(t)
	lines := corpora(t, 3000)["service"]
	dec, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(1<<10))
	if err != nil {
		t.Fatal(err)
	}
	c.dec.Close()
	c.dec = dec // fails on all that is larger
	var voc, plain Vocabulary
	out, err := c.Encode(lines, Version2, &voc)
	if err != nil || out.Version != Version1 || out.Fallback == nil {
		t.Fatalf("version %d, %v: %v", out.Version, out.Fallback, err)
	}
	got, err := decode(good, out.Columns, out.Text, len(lines))
	if err != nil || !slices.EqualFunc(got, lines, same) {
		t.Errorf("lines come back otherwise: %v", err)
	}
	for i := range lines {
		plain.Add(lines[i].Text)
	}
	if !bytes.Equal(voc.Filter(Version2), plain.Filter(Version2)) {
		t.Error("other words")
	}

	// Each part is compared.
	other := slices.Clone(lines)
	var e encoder
	whole, err := good.Encode(lines, Version2, nil)
	if err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(l *Line){
		"text": func(l *Line) { l.Text = append(bytes.Clone(l.Text), 'x') },
		"value": func(l *Line) {
			l.Text = bytes.Clone(l.Text)
			l.Text[bytes.IndexByte(l.Text, '.')-1] ^= 1
		},
		"piece":    func(l *Line) { l.Text = bytes.Replace(l.Text, []byte("connection"), []byte("connectiom"), 1) },
		"time":     func(l *Line) { l.T++ },
		"index":    func(l *Line) { l.Index++ },
		"ordinal":  func(l *Line) { l.Ord++ },
		"severity": func(l *Line) { l.Severity++ },
		"fields":   func(l *Line) { l.Fields = []wire.Label{{Name: "a", Value: "b"}} },
	} {
		other[17] = lines[17]
		change(&other[17])
		if err := e.verify(good, other, whole.Columns, whole.Text); !errors.Is(err, errDifferent) {
			t.Errorf("another %s gives %v", what, err)
		}
	}
	if err := e.verify(good, lines, whole.Columns, whole.Text); err != nil {
		t.Error(err)
	}
}

// Whoever looks at ids reads them alone, and whoever does not reads none of them, however few lines of a form there are.
func TestIDsAreApart(t *testing.T) {
	c := codec(t)
	rng := rand.New(rand.NewPCG(8, 8))
	var lines []Line
	const n, forms = 1000, 10
	for i := range n {
		id := fmt.Sprintf("%016x%016x", rng.Uint64(), rng.Uint64())
		lines = append(lines, Line{
			T: int64(i), Index: 1, Ord: uint32(i), Severity: 3, Fields: []wire.Label{{Name: "id", Value: id}, {Name: "number", Value: fmt.Sprint(rng.IntN(1e9))}},
			Text: fmt.Appendf(nil, "%s took %d of %d for %s at %d", strings.Repeat("x", 1+i%forms), rng.IntN(1e6), rng.IntN(1e6), id, rng.IntN(1e6)),
		})
	}
	columns, text := encode(t, c, lines, Version2)
	read := func(slot int) int {
		var v View
		if ok, err := c.View(&v, text, n); !ok || err != nil {
			t.Fatal(err)
		}
		before := v.Decompressed()
		for i := range v.Templates() {
			if got := v.Template(i).Column(slot).Len(); got != n/forms {
				t.Fatalf("%d values", got)
			}
		}
		return v.Decompressed() - before
	}
	if got := read(2); got < 32*n || got > 33*n {
		t.Errorf("%d bytes are read for %d ids", got, n)
	}
	if got := read(0); got > 3*8*n {
		t.Errorf("%d bytes are read for %d numbers", got, n)
	}
	var cols Columns
	if err := c.DecodeColumns(&cols, columns, n, What{Fields: true, ByName: true}); err != nil {
		t.Fatal(err)
	}
	if groups := len(cols.fields.cols.first); groups != 2 {
		t.Errorf("two fields are in %d sections", groups)
	}
}
