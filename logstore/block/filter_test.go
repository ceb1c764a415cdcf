package block

import (
	"strings"
	"testing"

	"github.com/triward/triward/logstore/words"
)

// Whoever writes lines can make words whose hashes are the same: the word index knows both nevertheless, in whatever way they come.
func TestWordsWithOneHashAreBothIndexed(t *testing.T) {
	for _, word := range []string{"hidden", "hidden7x", "磁", "磁盘", "straße", strings.Repeat("long", 15)} {
		for how, add := range map[string]func(v *Vocabulary){
			"a line":   func(v *Vocabulary) { v.Add([]byte("x " + word + " y")) },
			"a slot":   func(v *Vocabulary) { v.addWord([]byte(word)) },
			"capitals": func(v *Vocabulary) { v.Add([]byte(strings.ToUpper(word))) },
		} {
			if how == "a slot" && words.IsCJKWord(word) {
				continue // is never one
			}
			var v Vocabulary
			at, fresh := v.words.add(words.Hash([]byte(words.FoldString(word)))) // of another word
			if *at = v.term([]byte("other")); !fresh {
				t.Fatal("the hash is known")
			}
			want, _ := IndexTerm(words.FoldString(word))
			if how == "capitals" { // ß has none of its own length
				want, _ = IndexTerm(words.FoldString(strings.ToUpper(word)))
			}
			for range 3 {
				add(&v)
			}
			if terms := "\n" + string(v.Terms()); strings.Count(terms, "\n"+want+"\n") != 1 || !strings.HasPrefix(terms, "\nother\n") {
				t.Errorf("%q in %s: the terms are %q", word, how, terms)
			}
		}
	}
}

// Terms whose hashes are the same are both there, each once.
func TestTermsWithOneHashAreBothThere(t *testing.T) {
	var s termSet
	list := []string{"none", "a", "b", "c"}
	for range 3 {
		for k := 1; k < len(list); k++ {
			slot := s.find(7, func(at uint32) bool { return list[at] == list[k] })
			if slot.at != 0 && list[slot.at] != list[k] {
				t.Fatalf("%q is taken for %q", list[k], list[slot.at])
			}
			slot.at = uint32(k)
		}
	}
	for k := range uint32(5000) { // and when the set grows
		s.find(uint64(k)*0x9e3779b97f4a7c15, func(uint32) bool { return false }).at = k + 1
	}
	if s.n != 3+5000 {
		t.Errorf("%d terms", s.n)
	}
	if slot := s.find(7, func(at uint32) bool { return at == 3 }); slot.at != 3 {
		t.Error("a term is lost when the set grows")
	}
}
