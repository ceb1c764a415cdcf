package block

import (
	"math/bits"

	"github.com/triward/triward/logstore/words"
	"github.com/zeebo/xxh3"
)

// A filter is a Bloom filter over all words of a block and over the pairs of CJK characters that follow each
// other: version byte (1), number of probes, then the bits. Probe i of the word with hash h looks at bit
// (high(h) + i*(low(h)|1)) mod number of bits, in 32-bit arithmetic. The hash is words.Hash.
const (
	filterProbes = 5
	filterBits   = 8 // a word
)

// WordHash is the hash of a folded word in filters.
func WordHash(word string) uint64 { return words.Hash([]byte(word)) }

// MayHold reports whether the block of the filter may hold a word with the hash. Filters that are no filters of
// this format may hold everything.
func MayHold(filter []byte, hash uint64) bool {
	if len(filter) < 3 || filter[0] != Version1 {
		return true
	}
	bits := filter[2:]
	n := uint32(len(bits)) * 8
	at, step := uint32(hash>>32), uint32(hash)|1
	for range filter[1] {
		if b := at % n; bits[b/8]&(1<<(b%8)) == 0 {
			return false
		}
		at += step
	}
	return true
}

// Vocabulary collects the words of lines for the filter and for the word index. Reset makes it ready for the
// next block.
type Vocabulary struct {
	words set
	terms set
	list  []byte // terms, each followed by a line feed
	fold  []byte
}

// Reset forgets all words.
func (v *Vocabulary) Reset() {
	v.words.reset()
	v.terms.reset()
	v.list = v.list[:0]
}

// Add takes the words of one line.
func (v *Vocabulary) Add(text []byte) {
	pairLen := 0 // v.fold[:pairLen] is the CJK character before
	for s := (words.Scanner{Text: text}); s.Next(); {
		if s.CJK {
			pairLen = v.addCJK(text[s.Start:s.End], pairLen)
			continue
		}
		pairLen = 0
		if !v.words.add(s.Hash()) || s.Lead == s.Start {
			continue
		}
		v.fold = words.AppendFold(v.fold[:0], text[s.Start:s.End])
		lead := s.Lead - s.Start
		if !s.ASCII {
			lead = words.Lead(string(v.fold))
		}
		v.term(words.Term(v.fold, lead))
	}
}

// addWord takes the word of a slot.
func (v *Vocabulary) addWord(word []byte) {
	if v.words.add(words.HashOf(word)) && (word[0] < '0' || word[0] > '9') {
		v.index(word)
	}
}

// index takes a word that was not known for the word index.
func (v *Vocabulary) index(word []byte) {
	s := words.Scanner{Text: word}
	if !s.Next() || s.Lead == s.Start {
		return
	}
	v.fold = words.AppendFold(v.fold[:0], word)
	lead := s.Lead - s.Start
	if !s.ASCII {
		lead = words.Lead(string(v.fold))
	}
	v.term(words.Term(v.fold, lead))
}

// addCJK adds a character, and the pair it makes with the one before.
func (v *Vocabulary) addCJK(char []byte, pairLen int) int {
	v.fold = words.AppendFold(v.fold[:pairLen], char)
	if word := v.fold[pairLen:]; v.words.add(words.Hash(word)) {
		v.term(word)
	}
	if pairLen > 0 && v.words.add(words.Hash(v.fold)) {
		v.term(v.fold)
	}
	return copy(v.fold, v.fold[pairLen:])
}

func (v *Vocabulary) term(t []byte) {
	if len(t) > 0 && v.terms.add(xxh3.Hash(t)) {
		v.list = append(append(v.list, t...), '\n')
	}
}

// Terms returns the distinct terms of the word index (words.Term and pairs of CJK characters), each followed by
// a line feed. It is valid until Reset.
func (v *Vocabulary) Terms() []byte { return v.list }

// Filter returns the bytes of the filter.
func (v *Vocabulary) Filter() []byte {
	n := uint32(v.words.n*filterBits+63) / 64 * 64
	if n == 0 {
		n = 64
	}
	out := make([]byte, 2+n/8)
	out[0], out[1] = Version1, filterProbes
	set := out[2:]
	inverse := ^uint64(0)/uint64(n) + 1
	v.words.each(func(hash uint64) {
		at, step := uint32(hash>>32), uint32(hash)|1
		for range filterProbes {
			b, _ := bits.Mul64(inverse*uint64(at), uint64(n)) // at % n, as Lemire, Kaser and Kurz have it ("Faster remainder by direct computation")
			set[b/8] |= 1 << (b % 8)
			at += step
		}
	})
	return out
}

// set is an open-addressing set of hashes; zero is kept apart.
type set struct {
	slots []uint64
	n     int
	zero  bool
}

func (s *set) reset() {
	if len(s.slots) > 1<<18 {
		s.slots = nil // one odd block must not hold memory for ever
	}
	clear(s.slots)
	s.n, s.zero = 0, false
}

func (s *set) add(h uint64) bool {
	if h == 0 {
		if s.zero {
			return false
		}
		s.zero = true
		s.n++
		return true
	}
	if 2*s.n >= len(s.slots) {
		s.grow()
	}
	mask := uint64(len(s.slots) - 1)
	for i := h & mask; ; i = (i + 1) & mask {
		switch s.slots[i] {
		case 0:
			s.slots[i] = h
			s.n++
			return true
		case h:
			return false
		}
	}
}

func (s *set) grow() {
	old := s.slots
	s.slots = make([]uint64, max(1024, 2*len(old)))
	mask := uint64(len(s.slots) - 1)
	for _, h := range old {
		if h == 0 {
			continue
		}
		i := h & mask
		for s.slots[i] != 0 {
			i = (i + 1) & mask
		}
		s.slots[i] = h
	}
}

func (s *set) each(fn func(uint64)) {
	if s.zero {
		fn(0)
	}
	for _, h := range s.slots {
		if h != 0 {
			fn(h)
		}
	}
}

// IndexTerm returns the term by which the word index knows a folded word or a pair of CJK characters, and
// whether the term is all of the word. An empty term means that the index does not know such words.
func IndexTerm(word string) (term string, whole bool) {
	if words.IsCJKWord(word) {
		return word, true
	}
	term = words.Term(word, words.Lead(word))
	return term, len(term) == len(word)
}
