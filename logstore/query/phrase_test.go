package query

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/triward/triward/logstore/block"
	"github.com/triward/triward/logstore/words"
)

// A phrase that begins again and again is found where it stands, and takes hardly more comparisons than the text has words.
func TestPhrasesThatBeginAgainAndAgain(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	some := func(n int) (ws []string) {
		for range n {
			ws = append(ws, []string{"a", "b", "ab"}[rng.IntN(3)])
		}
		return ws
	}
	for range 20_000 {
		phrase, text := some(1+rng.IntN(7)), some(rng.IntN(40))
		f := Phrase(strings.Join(phrase, " "), rng.IntN(2) == 0)
		is, tried := f.findPhrase([]byte(strings.Join(text, "-")))
		want := false
		for i := 0; i+len(phrase) <= len(text); i++ {
			last := i + len(phrase) - 1
			want = want || strings.Join(text[i:last], " ") == strings.Join(phrase[:len(phrase)-1], " ") &&
				(text[last] == phrase[len(phrase)-1] || f.prefix && strings.HasPrefix(text[last], phrase[len(phrase)-1]))
		}
		if is != want {
			t.Fatalf("%q, prefix %v, in %q: %v", phrase, f.prefix, text, is)
		}
		if tried > 2*len(text) {
			t.Fatalf("%q in %q: %d comparisons", phrase, text, tried)
		}
	}
	long := Phrase(strings.Repeat("a ", 4000)+"b", false)
	if is, tried := long.findPhrase([]byte(strings.Repeat("a ", 100_000))); is || tried > 200_000 {
		t.Errorf("found %v in %d comparisons", is, tried)
	}
}

// The same phrase is not held against every place of a long template: there, lines are decided by their texts.
func TestTemplatesAreNotComparedWordByWordForEver(t *testing.T) {
	codec, err := block.NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	defer codec.Close()
	var lines []block.Line
	for i := range 4 {
		lines = append(lines, block.Line{T: int64(i), Text: fmt.Appendf(nil, "%s%d %s", strings.Repeat("x ", 1000), i, strings.Repeat("x ", 1000))})
	}
	lines[2].Text = append(lines[2].Text, " y"...)
	lines = append(lines, lines[2], lines[2])
	out, err := codec.Encode(lines, block.Version2, nil)
	if err != nil {
		t.Fatal(err)
	}
	var v block.View
	if ok, err := codec.View(&v, out.Text, len(lines)); err != nil || !ok {
		t.Fatalf("no templates: %v", err)
	}
	f := Phrase(strings.Repeat("x ", 900)+"y", false)
	if how := new(Plans).judge(f, &v.Template(0).Shape, nil, anySlot, nil).how; how != byText {
		t.Errorf("a template is judged as %d", how)
	}
	var plans Plans
	b := Lines{N: len(lines), View: &v, Plans: &plans}
	if found := f.Select(&b, Range(len(lines), 0, len(lines))); found.Count() != 3 || !found.Has(2) {
		t.Errorf("lines %b", found)
	}
	if f := Phrase("x y", false); new(Plans).judge(f, &v.Template(0).Shape, nil, anySlot, nil).how != noLine {
		t.Error("a short phrase is not judged by the template")
	}
}

// Nor is a block, or the index of a day, asked for each of thousands of words.
func TestPhrasesAskForFewWords(t *testing.T) {
	for _, f := range []*Filter{Phrase(strings.Repeat("磁盘 a ", 1000), false), Field("x", Equal, strings.Repeat("a b ", 1000)).text} {
		if n := f.Need(); len(n.Kids) > 5 {
			t.Errorf("%d words are asked for", len(n.Kids))
		}
	}
	var text strings.Builder
	for i := range 3000 {
		fmt.Fprintf(&text, "w%dx ", i)
	}
	for _, f := range []*Filter{Phrase(text.String(), false), Phrase(text.String(), true), Literal(text.String()), Field("x", Equal, text.String()).text} {
		if n := f.Need(); len(n.Kids) < maxNeeds || len(n.Kids) > maxNeeds+1 {
			t.Errorf("%d of 3000 words are asked for", len(n.Kids))
		}
	}
}

func TestWordsInARowWithStarsAreBounded(t *testing.T) {
	if _, err := Parse(strings.Repeat("a-", maxWildWords-1) + "b*c"); err != nil {
		t.Error(err)
	}
	if f, err := Parse(strings.Repeat("a-", maxWildWords) + "b*c"); err == nil {
		t.Errorf("%d words are taken", len(f.tests))
	}
	if n := len(words.Split(strings.Repeat("a-", 900))); n != 900 {
		t.Fatal(n)
	}
	if _, err := Parse(`"` + strings.Repeat("a-", 900) + `b"*`); err != nil { // a phrase may be long
		t.Error(err)
	}
}
