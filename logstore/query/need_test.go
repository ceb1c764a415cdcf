package query

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/triward/triward/logstore/words"
)

// What a condition needs of the words of a block must be there whenever a line of it matches, wherever in a character the piece
// that is sought begins and ends, and of whatever bytes it is.
func TestNeedHoldsForEveryMatch(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	alphabet := []string{
		"a", "b", "1", " ", "-", "é", "ß", "я", "中", "文", "、", "𝒳", "\u0301", "\xe9", "\xc3", "\xa9", "\xe4\xb8", "\xad", "\xf0\x9d", "\xff", "\x00",
	}
	if testing.Short() {
		alphabet = alphabet[:16]
	}
	cut := 0
	for range 200_000 {
		var line []byte
		for range 1 + rng.IntN(10) {
			line = append(line, alphabet[rng.IntN(len(alphabet))]...)
		}
		from := rng.IntN(len(line))
		piece := line[from : from+1+rng.IntN(len(line)-from)]
		f := Literal(string(piece))
		if !f.Match(&Line{Text: line}) {
			t.Fatalf("%q is not found in %q", piece, line)
		}
		ws := words.Split(string(line))
		has := func(w string) bool {
			if slices.Contains(ws, w) {
				return true
			}
			for i := 1; i < len(ws); i++ {
				if words.IsCJKWord(ws[i-1]) && words.IsCJKWord(ws[i]) && ws[i-1]+ws[i] == w {
					return true
				}
			}
			return false
		}
		need := f.Need()
		if need.Op != NeedAnything {
			cut++
		}
		if !need.May(has) {
			t.Fatalf("%q in %q: %+v, the line has %q", piece, line, need, ws)
		}
		if !bytes.Contains(line, piece) {
			t.Fatal("the test is wrong")
		}
	}
	if cut < 10_000 {
		t.Errorf("only %d pieces need anything", cut)
	}
}
