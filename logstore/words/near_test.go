package words

import (
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
	"unicode"
)

// naiveEdits is the distance straight from its definition, with the numbers of the words left alone; it is large when there is none.
func naiveEdits(a, b []rune) int {
	const none = 100
	switch {
	case len(a) == 0 && len(b) == 0:
		return 0
	case len(a) > 0 && len(b) > 0 && a[0] == b[0]:
		return naiveEdits(a[1:], b[1:]) // taking equal characters for each other never costs more
	}
	best := none
	if len(a) > 0 && !unicode.IsNumber(a[0]) {
		best = min(best, 1+naiveEdits(a[1:], b))
	}
	if len(b) > 0 && !unicode.IsNumber(b[0]) {
		best = min(best, 1+naiveEdits(a, b[1:]))
	}
	if len(a) > 0 && len(b) > 0 && !unicode.IsNumber(a[0]) && !unicode.IsNumber(b[0]) {
		best = min(best, 1+naiveEdits(a[1:], b[1:]))
		if len(a) > 1 && len(b) > 1 && a[0] == b[1] && a[1] == b[0] {
			best = min(best, 1+naiveEdits(a[2:], b[2:]))
		}
	}
	return best
}

func randomWord(rng *rand.Rand, n int) []rune {
	letters := []rune("abcAé1２")
	out := make([]rune, n)
	for i := range out {
		out[i] = letters[rng.IntN(len(letters))]
	}
	return out
}

// vary makes a few random changes, which may be edits of a Near or not.
func vary(rng *rand.Rand, w []rune) []rune {
	w = append([]rune(nil), w...)
	for range rng.IntN(4) {
		at := rng.IntN(len(w) + 1)
		switch k := rng.IntN(4); {
		case k == 0:
			w = append(w[:at], append(randomWord(rng, 1), w[at:]...)...)
		case at == len(w):
		case k == 1:
			w = append(w[:at], w[at+1:]...)
		case k == 2:
			w[at] = randomWord(rng, 1)[0]
		case at > 0:
			w[at], w[at-1] = w[at-1], w[at]
		}
	}
	return w
}

func TestNearIsTheDistance(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 5))
	sets, in := 0, 0
	for range 40000 {
		word := FoldString(string(randomWord(rng, 2+rng.IntN(8))))
		edits := 1 + rng.IntN(2)
		n := NewNear(word, edits)
		letters := 0
		for _, r := range word {
			if !unicode.IsNumber(r) {
				letters++
			}
		}
		if (n != nil) != (letters >= edits+2) {
			t.Fatalf("%q with %d edits: set is %v", word, edits, n)
		}
		if n == nil {
			continue
		}
		sets++
		other := vary(rng, []rune(word))
		if len(other) == 0 {
			continue
		}
		folded := []rune(FoldString(string(other)))
		want := folded[0] == []rune(word)[0] && naiveEdits(folded, []rune(word)) <= edits
		if got := n.Has([]byte(string(other))); got != want {
			t.Fatalf("%q ~%d %q: %v, want %v (distance %d)", word, edits, string(other), got, want, naiveEdits(folded, []rune(word)))
		}
		if !want {
			continue
		}
		in++
		f := string(folded)
		if term := Term(f, Lead(f)); (term == "") != (n.Prefix() == "") || !strings.HasPrefix(term, n.Prefix()) || term != "" && !n.MayTerm(term) {
			t.Fatalf("%q ~%d: %q is in the set, and its term %q is left out", word, edits, f, term)
		}
	}
	if sets < 10000 || in < 5000 {
		t.Errorf("only %d sets and %d words in them", sets, in)
	}
}

// Terms are cut at MaxTerm bytes; a long word must be found by what is left of it.
func TestNearOfLongWords(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 1))
	for range 4000 {
		word := []rune(strings.Repeat(string([]rune{'a' + rune(rng.IntN(26)), 'é', 'z'}[rng.IntN(3)]), 20+rng.IntN(40)))
		for range 10 {
			word[rng.IntN(len(word))] = []rune("abéz")[rng.IntN(4)]
		}
		n := NewNear(string(word), 2)
		if n == nil {
			t.Fatalf("%q has no set", string(word))
		}
		other := append([]rune(nil), word...)
		for range 2 {
			at := 1 + rng.IntN(len(other)-1)
			if rng.IntN(2) == 0 {
				other = append(other[:at], other[at+1:]...)
			} else {
				other = append(other[:at], append([]rune{'q'}, other[at:]...)...)
			}
		}
		f := string(other)
		if !n.Has([]byte(f)) || !n.MayTerm(Term(f, Lead(f))) {
			t.Fatalf("%q is not near %q (term %q: %v)", f, string(word), Term(f, Lead(f)), n.MayTerm(Term(f, Lead(f))))
		}
	}
	if NewNear(strings.Repeat("a", maxNear+1), 1) != nil || NewNear("two words", 1) != nil || NewNear("磁盘空间", 1) != nil || NewNear("", 1) != nil {
		t.Error("a set of what is no word")
	}
	if NewNear("abcdef", 1).Has([]byte(strings.Repeat("a", 1<<20))) {
		t.Error("a very long word is near")
	}
}

func TestGlobIsTheExpression(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 4))
	alphabet := []rune("aabé*")
	for range 40000 {
		pattern, word := make([]rune, rng.IntN(7)), make([]rune, rng.IntN(9))
		for i := range pattern {
			pattern[i] = alphabet[rng.IntN(len(alphabet))]
		}
		for i := range word {
			word[i] = []rune("aAbÉé")[rng.IntN(5)]
		}
		re := regexp.MustCompile(`^(?s:` + strings.ReplaceAll(regexp.QuoteMeta(string(pattern)), `\*`, `.*`) + `)$`)
		want := re.MatchString(FoldString(string(word)))
		if got := NewGlob(string(pattern)).Has([]byte(string(word))); got != want {
			t.Fatalf("%q on %q: %v, want %v", string(pattern), string(word), got, want)
		}
	}
	for _, c := range [][2]string{{"\uFFFD*", "\xff"}, {"a*", ""}, {"*\xff*", "\xe7\xff"}, {"\uFFFDlonger*", "\xfflonger"}} {
		NewGlob(c[0]).Has([]byte(c[1])) // bytes that are no UTF-8 must not panic
	}
}

func BenchmarkNear(b *testing.B) {
	n := NewNear("connection", 2)
	line := []byte("2026-11-27 web-1 nginx[812]: upstream Conection refused while connecting to upstream, client 10.0.0.7, request GET /cart")
	b.SetBytes(int64(len(line)))
	for b.Loop() {
		for s := (Scanner{Text: line}); s.Next(); {
			n.Has(line[s.Start:s.End])
		}
	}
}

func BenchmarkScan(b *testing.B) {
	line := []byte("2026-11-27 web-1 nginx[812]: upstream Conection refused while connecting to upstream, client 10.0.0.7, request GET /cart")
	b.SetBytes(int64(len(line)))
	for b.Loop() {
		for s := (Scanner{Text: line}); s.Next(); {
			Same(line[s.Start:s.End], "connection", false)
		}
	}
}
