package words

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestSplit(t *testing.T) {
	for text, want := range map[string][]string{
		"":                          nil,
		"Timed-out: user_id=42":     {"timed", "out", "user", "id", "42"},
		"磁盘full 空间":                 {"磁", "盘", "full", "空", "间"},
		"a\xffb \xe4\xb8x":          {"a", "b", "x"},
		"ÜBER ſ \u212A İ x86_64 v2": {"über", "ſ", "\u212A", "İ", "x86", "64", "v2"},
		"サーバー ９９ e\u0301":           {"サ", "ー", "バ", "ー", "９９", "e\u0301"},
	} {
		if got := Split(text); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func TestTerm(t *testing.T) {
	for word, want := range map[string]string{"abc": "abc", "abc1def": "abc", "1abc": "", "９x": "", "磁": "磁"} {
		if got := Term(word, Lead(word)); got != want {
			t.Errorf("%q: %q, want %q", word, got, want)
		}
	}
	long := "aééééééééééééééééééééééééééééé"
	if got := Term(long, len(long)); len(got) > MaxTerm || !utf8.ValidString(got) {
		t.Errorf("%q", got)
	}
}

// Scanner, Hash, AppendLowerASCII, Same and Bounded must agree about any bytes.
func TestAgreement(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	alphabet := []string{"a", "B", "z", "Z", "@", "[", "`", "{", "0", "9", " ", "_", "é", "É", "磁", "\xff", "\xe4\xb8", "\u212A", "\u0301", "９", "ー", "\x00"}
	for range 20000 {
		var text []byte
		for range rng.IntN(30) {
			text = append(text, alphabet[rng.IntN(len(alphabet))]...)
		}
		low := AppendLowerASCII(nil, text)
		for i, b := range text {
			if low[i] != lower[b] {
				t.Fatalf("%q lowered is %q", text, low)
			}
		}
		starts := map[int]int{}
		for s := (Scanner{Text: text}); s.Next(); {
			word := text[s.Start:s.End]
			fold := AppendFold(nil, word)
			if !s.CJK && s.Hash() != Hash(fold) || !Same(word, string(fold), false) || !utf8.Valid(word) {
				t.Fatalf("%q: word %q folds to %q", text, word, fold)
			}
			if s.ASCII != (bytes.IndexFunc(word, func(r rune) bool { return r >= utf8.RuneSelf }) < 0) {
				t.Fatalf("%q: ASCII is %v", word, s.ASCII)
			}
			starts[s.Start] = s.End
		}
		for i := range text {
			for j := i + 1; j <= len(text) && (class[text[j-1]] == letter || class[text[j-1]] == digit); j++ {
				end, ok := starts[i]
				if Bounded(text, i, j, false) != (ok && end == j) || Bounded(text, i, j, true) != ok {
					t.Fatalf("%q: [%d:%d] bounded %v, words %v", text, i, j, Bounded(text, i, j, false), starts)
				}
			}
		}
	}
}

// Filters and word indexes hold words as the Unicode tables of their day cut and fold them. When those change, the
// version of filters must be raised and word indexes made again, or a word with a character that is new is not found.
func TestUnicodeTablesAreThoseOfTheFormat(t *testing.T) {
	if unicode.Version != "15.0.0" {
		t.Errorf("this Go has the tables of Unicode %s; filters and indexes of format 1 are made with those of 15.0.0", unicode.Version)
	}
}
