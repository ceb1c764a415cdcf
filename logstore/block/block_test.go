package block

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/words"
)

func codec(t testing.TB) *Codec {
	t.Helper()
	c, err := NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func randomLines(rng *rand.Rand, n int) []Line {
	lines := make([]Line, n)
	for i := range lines {
		b := make([]byte, rng.IntN(60))
		for j := range b {
			b[j] = byte(rng.Uint32())
		}
		lines[i] = Line{T: rng.Int64() - rng.Int64(), Index: rng.Uint64(), Ord: rng.Uint32(), Severity: wire.Severity(rng.IntN(7)), Text: b}
		for range rng.IntN(3) {
			lines[i].Fields = append(lines[i].Fields, wire.Label{Name: fmt.Sprint("f", rng.IntN(9)), Value: string(b)})
		}
	}
	slices.SortFunc(lines, func(a, b Line) int {
		if a.T < b.T {
			return -1
		}
		return 1
	})
	return lines
}

// encode wants the version that it asks for.
func encode(t testing.TB, c *Codec, lines []Line, version int) (columns, text []byte) {
	t.Helper()
	out, err := c.Encode(lines, version, nil)
	if err != nil || out.Version != version {
		t.Fatalf("%d lines give version %d, %v: %v", len(lines), out.Version, out.Fallback, err)
	}
	return out.Columns, out.Text
}

func decode(c *Codec, columns, text []byte, n int) ([]Line, error) {
	var cols Columns
	var txt Text
	if err := c.DecodeColumns(&cols, columns, n, What{Positions: true, Fields: true}); err != nil {
		return nil, err
	}
	if err := c.DecodeText(&txt, text, n); err != nil {
		return nil, err
	}
	lines := make([]Line, n)
	for i := range lines {
		lines[i] = Line{T: cols.Times[i], Index: cols.Indexes[i], Ord: cols.Ords[i], Severity: wire.Severity(cols.Severities[i]), Text: txt.At(i)}
		if cols.Fields != nil {
			lines[i].Fields = cols.Fields[i]
		}
	}
	return lines, nil
}

func same(a, b Line) bool {
	return a.T == b.T && a.Index == b.Index && a.Ord == b.Ord && a.Severity == b.Severity && bytes.Equal(a.Text, b.Text) && slices.Equal(a.Fields, b.Fields)
}

func TestRoundTripAndDamage(t *testing.T) {
	c := codec(t)
	rng := rand.New(rand.NewPCG(5, 5))
	for round := range 100 {
		lines := randomLines(rng, 1+rng.IntN(200))
		columns, text := encode(t, c, lines, 1+round%2)
		got, err := decode(c, columns, text, len(lines))
		if err != nil || !slices.EqualFunc(got, lines, same) {
			t.Fatalf("%d lines come back otherwise: %v", len(lines), err)
		}
		h := HeaderOf(lines)
		if back, err := ParseHeader(h.Append(nil, 1+round%2)); err != nil || round%2 == 1 && back != h || back.Lines != h.Lines {
			t.Fatalf("header %+v comes back as %+v: %v", h, back, err)
		}
		for range 20 {
			b := [][]byte{bytes.Clone(columns), bytes.Clone(text)}
			k := rng.IntN(2)
			b[k][rng.IntN(len(b[k]))] ^= 1 << rng.IntN(8)
			if _, err := decode(c, b[0], b[1], len(lines)); !errors.Is(err, ErrDamaged) {
				t.Fatalf("a flipped bit gives %v", err)
			}
		}
		if _, err := decode(c, columns, text, len(lines)+1); !errors.Is(err, ErrDamaged) {
			t.Fatalf("one line more gives %v", err)
		}
	}
}

// A row of a dictionary that refers to no value of it is damage.
func TestDictionaryOfFewerValuesThanRowsName(t *testing.T) {
	for last, want := range map[byte]bool{1: false, 2: true, 255: true} {
		r := reader{b: []byte{columnDictionary, 2, 1, 'a', 2, 'b', 'c', 0, 1, last}}
		var s columnSet
		var v Values
		if s.parse(&v, 3, &r); r.bad != want {
			t.Errorf("row %d of 2 values: damaged is %v", last, r.bad)
		}
		if !want && (string(v.At(2)) != "bc" || v.size != 5) {
			t.Errorf("%q, %d bytes", v.At(2), v.size)
		}
	}
}

// The bytes of both versions are read for ever.
func TestGolden(t *testing.T) {
	short := []Line{
		{T: 1700000000000000000, Index: 7, Ord: 3, Severity: wire.SeverityInfo, Text: []byte("first 磁盘 line")},
		{T: 1700000000000000001, Index: 6, Ord: 9, Severity: wire.SeverityError, Fields: []wire.Label{{Name: "code", Value: "503"}}, Text: []byte("second line\xff")},
	}
	testGolden(t, "testdata/block_v1.hex", Version1, 8, short)
	long := slices.Clone(short)
	for i := range 40 { // every kind of column
		long = append(long, Line{
			T: 1700000000000000002 + int64(i), Index: 8, Ord: uint32(i), Severity: wire.SeverityInfo,
			Text:   fmt.Appendf(nil, "用户 user=%s at %06d took %d ms code %03d id %x", []string{"ann", "bob"}[i%2], 100000+i, i*i*i, (i*7919)%1000, 0xdeadbeef),
			Fields: []wire.Label{{Name: "code", Value: strconv.Itoa(200 + i%2)}, {Name: "user", Value: "ann"}},
		})
	}
	testGolden(t, "testdata/block_v2.hex", Version2, 8, long) // without lengths of slots and spans of fields
	testGolden(t, "testdata/block_v2_lengths.hex", Version2, 8, long)
	parts := testGolden(t, "testdata/block_v2_filter.hex", Version2, 12, long)
	c := codec(t)
	var spans Spans
	if err := c.Spans(&spans, parts["columns"]); err != nil {
		t.Fatal(err)
	}
	if s, known := spans.Of("code"); !known || s != (Span{200, 503}) {
		t.Errorf("the golden span of code reads as %+v, %v", s, known)
	}
	if s, known := spans.Of("user"); !known || s != noNumbers {
		t.Errorf("the golden span of user reads as %+v, %v", s, known)
	}
	var v View
	if ok, err := c.View(&v, parts["text"], len(long)); !ok || err != nil {
		t.Fatal(ok, err)
	}
	for n, want := range map[int]bool{2: false, 3: true, 4: false} { // user=
		if v.Template(0).MayHaveLength(0, n, false) != want {
			t.Errorf("the golden lengths of a slot of 3 bytes let %d pass: %v", n, !want)
		}
	}
}

// writeGolden writes a golden that is not there when NEW_GOLDEN is set. One that is there is what stores hold: a test never writes over it,
// so a new form is a new file.
func writeGolden(t *testing.T, file, text string) {
	t.Helper()
	if os.Getenv("NEW_GOLDEN") == "" {
		return
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, os.ErrExist) {
		return
	}
	if err == nil {
		_, err = f.WriteString(text)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestGoldensAreNotWrittenOver(t *testing.T) {
	t.Setenv("NEW_GOLDEN", "1")
	file := filepath.Join(t.TempDir(), "x.hex")
	for _, text := range []string{"first", "second"} {
		writeGolden(t, file, text)
	}
	if got, err := os.ReadFile(file); string(got) != "first" {
		t.Errorf("%q, %v", got, err)
	}
}

// testGolden compares with a golden block whose filter of version 2 has so many bits a word.
func testGolden(t *testing.T, file string, version, bitsPerWord int, lines []Line) (parts map[string][]byte) {
	t.Helper()
	c := codec(t)
	var voc Vocabulary
	out, err := c.Encode(lines, version, &voc)
	if err != nil || out.Version != version {
		t.Fatal(out.Version, err)
	}
	h := HeaderOf(lines)
	now := []string{
		"columns " + hex.EncodeToString(out.Columns), "text " + hex.EncodeToString(out.Text),
		"header " + hex.EncodeToString(h.Append(nil, version)), "filter " + hex.EncodeToString(voc.Filter(Version1)), "filter_v2 " + hex.EncodeToString(voc.Filter(Version2)),
	}
	writeGolden(t, file, strings.Join(now, "\n")+"\n")
	golden, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	parts = map[string][]byte{}
	for line := range strings.Lines(string(golden)) {
		name, hexed, _ := strings.Cut(strings.TrimSpace(line), " ")
		if parts[name], err = hex.DecodeString(hexed); err != nil {
			t.Fatal(err)
		}
	}
	got, err := decode(c, parts["columns"], parts["text"], len(lines))
	if err != nil || !slices.EqualFunc(got, lines, same) {
		t.Errorf("the golden block of %s reads as %+v: %v", file, got, err)
	}
	if version == Version1 {
		h.names = ""
	}
	if back, err := ParseHeader(parts["header"]); err != nil || back != h {
		t.Errorf("the golden header of %s reads as %+v: %v", file, back, err)
	}
	filters := map[string][]byte{"filter": voc.Filter(Version1), "filter_v2": voc.Filter(Version2)}
	if bitsPerWord == 8 {
		filters["filter_v2"] = voc.filter(Version2, 8, 5)
	}
	for name, now := range filters {
		if !bytes.Equal(parts[name], now) {
			t.Errorf("filters differ from %s of %s: words would not be found", name, file)
		}
		f := ReadFilter(parts[name])
		voc.words.each(func(hash uint64) {
			if !f.MayHold(&Sought{at: uint32(hash >> 32), step: uint32(hash) | 1}) {
				t.Errorf("%s of %s does not hold the word with the hash %x", name, file, hash)
			}
		})
	}
	return parts
}

func TestVocabularyHoldsEveryWord(t *testing.T) {
	for _, version := range []int{Version1, Version2} {
		testVocabulary(t, version)
	}
}

// mayHold asks the bytes of a filter for a word.
func mayHold(filter []byte, word string) bool {
	f, w := ReadFilter(filter), Seek(word)
	if may := f.MayHold(&w); !may || f.Brief().MayHold(&w) {
		return may
	}
	panic("the brief filter says no of " + word + " and the whole one does not")
}

func testVocabulary(t *testing.T, version int) {
	var voc Vocabulary
	text := []byte("Disk磁盘 full: blk_-1608999687919862906 deadbeef É9 " + strings.Repeat("x", 50) + " 4bf92f3577B34d " + strings.Repeat("9f", 70) + " v2 \u212A9")
	voc.Add(text)
	filter, terms := voc.Filter(version), "\n"+string(voc.Terms())
	all := append(words.Split(string(text)), "磁盘")
	for _, w := range all {
		if !mayHold(filter, w) {
			t.Errorf("%q is not in the filter", w)
		}
		if term, _ := IndexTerm(w); term != "" && !strings.Contains(terms, "\n"+term+"\n") {
			t.Errorf("%q: its term %q is not among %q", w, term, terms)
		}
	}
	hits := 0
	for i := range 10000 {
		if mayHold(filter, fmt.Sprint("absent", i)) {
			hits++
		}
	}
	if hits > 1500 {
		t.Errorf("%d of 10000 absent words pass", hits)
	}
	passed := 0 // of a form, or a length, that no word has
	for i := range 10000 {
		for _, w := range []string{fmt.Sprintf("%017x9", i), fmt.Sprintf("%d", 100000+i), fmt.Sprintf("z%06d", i)} {
			if mayHold(filter, w) {
				passed++
			}
		}
	}
	if (passed == 0) != (version == Version2) {
		t.Errorf("version %d lets %d of 30000 words of other forms pass", version, passed)
	}
	for n := range len(filter) {
		_ = mayHold(filter[:n], "4bf92f3577b34d") // must not panic
	}
	voc.Reset()
	if mayHold(voc.Filter(version), "full") || mayHold(voc.Filter(version), "4bf92f3577b34d") {
		t.Error("reset keeps words")
	}
}

func FuzzDecode(f *testing.F) {
	c := codec(f)
	columns, text := encode(f, c, randomLines(rand.New(rand.NewPCG(1, 1)), 5), Version1)
	f.Add(columns[:len(columns)-4], text[:len(text)-4], 5)
	f.Fuzz(func(t *testing.T, columns, text []byte, n int) {
		columns, text = c.seal(columns), c.seal(text) // past the checksum
		if n > 1000 {
			return
		}
		if _, err := decode(c, columns, text, n); err != nil && !errors.Is(err, ErrDamaged) {
			t.Fatalf("not ErrDamaged: %v", err)
		}
		_, _ = ParseHeader(columns) // must not panic
		_ = mayHold(columns, "77")
		_ = mayHold(append([]byte{Version2, 5}, columns...), "77")
	})
}

// What Encode writes can be read, and what could not be read it does not write.
func TestEncodeRefusesWhatDecodersWould(t *testing.T) {
	for _, version := range []int{Version1, Version2} {
		c := codec(t)
		field := []wire.Label{{Name: "body", Value: strings.Repeat("x", 1<<20)}}
		var lines []Line
		for i := range MaxRaw >> 20 {
			lines = append(lines, Line{T: int64(i), Fields: field})
			if i%2 == 1 { // else one constant holds them all
				lines[i].Fields = []wire.Label{{Name: "body", Value: strings.Repeat("y", i) + field[0].Value}}
			}
		}
		if out, err := c.Encode(lines, version, nil); !errors.Is(err, ErrTooLarge) || out.Columns != nil {
			t.Errorf("version %d: %d MiB of fields give %d bytes and %v", version, MaxRaw>>20, len(out.Columns), err)
		}
		lines = lines[:MaxRaw>>22]
		columns, text := encode(t, c, lines, version)
		if got, err := decode(c, columns, text, len(lines)); err != nil || !slices.EqualFunc(got, lines, same) {
			t.Errorf("version %d: %d lines come back as %d: %v", version, len(lines), len(got), err)
		}
		for i := range lines {
			lines[i].Text, lines[i].Fields = make([]byte, 4<<20), nil
		}
		if out, err := c.Encode(lines, version, nil); !errors.Is(err, ErrTooLarge) || out.Text != nil {
			t.Errorf("version %d: %d MiB of text give %d bytes and %v", version, len(lines)*4, len(out.Text), err)
		}
	}
}
