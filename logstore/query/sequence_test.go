package query

import (
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/triward/triward/logstore/words"
)

// sequenceOf asks for words in a row by patterns and by words that are near them.
func sequenceOf(rng *rand.Rand, row []string) *Filter {
	var tests []wordTest
	for _, w := range row {
		r := []rune(w)
		from := rng.IntN(len(r) + 1)
		to := from + rng.IntN(len(r)-from+1)
		switch k := rng.IntN(3); {
		case k == 0 && !words.IsCJKWord(w):
			tests = append(tests, wordTest{glob: words.NewGlob(string(r[:from]) + "*" + string(r[to:]))})
		case k == 1:
			if n := words.NewNear(w, 1+rng.IntN(2)); n != nil {
				tests = append(tests, wordTest{near: n, text: w})
				continue
			}
			fallthrough
		default:
			tests = append(tests, wordTest{word: w})
		}
	}
	return sequence(tests)
}

func describeTests(f *Filter) string {
	var out []string
	for i := range f.tests {
		switch t := &f.tests[i]; {
		case t.glob != nil:
			out = append(out, strings.Join(t.glob.Pieces(), "*"))
		case t.near != nil:
			out = append(out, t.text+"~")
		default:
			out = append(out, t.word)
		}
	}
	return fmt.Sprintf("words %q", out)
}
