package block

import (
	"encoding/binary"
	"math/bits"

	"github.com/triward/triward/logstore/words"
	"github.com/zeebo/xxh3"
)

// A filter is a Bloom filter over all words of a block and over the pairs of CJK characters that follow each
// other: version byte (1), number of probes, then the bits. Probe i of the word with hash h looks at bit
// (high(h) + i*(low(h)|1)) mod number of bits, in 32-bit arithmetic. The hash is words.Hash.
//
// Version 2 has the forms of words before the bits, so that a word of a form that no word has is not let through by chance, which
// costs the reading of a block: a uvarint for each wordForm, bit min(length, 63) of which is set when there is a word of the form and length.

// filterSize returns how large filters are written. How many bits there are for a word is not part of the format. Of 1,000 words that a block does not have 4 pass 12 bits
// with 6 probes, 21 pass 8 bits with 5, which filters of version 2 had before.
func filterSize(version int) (bitsPerWord, probes int) {
	if version >= Version2 {
		return 12, 6
	}
	return 8, 5
}

// wordForms are the forms of ASCII words with a digit: 1 for those with letters a to f, 2 for those with others, added up.
const wordForms = 4

// formOf returns the form and the bit of its length; ok is false for words that have none.
func formOf[T ~string | ~[]byte](word T) (form int, length uint64, ok bool) {
	var c Classes
	for i := range len(word) {
		c |= classOf[word[i]]
	}
	if c&(Digit|Wide) != Digit {
		return 0, 0, false
	}
	if c&(LowerHex|UpperHex) != 0 {
		form = 1
	}
	if c&(Lower|Upper) != 0 {
		form += 2
	}
	return form, 1 << min(len(word), 63), true
}

// Sought is a folded word, or two CJK characters that follow each other, as filters are asked for it.
type Sought struct {
	at, step uint32
	form     int
	length   uint64
	formed   bool
}

// Seek returns what filters are asked for a word.
func Seek(word string) Sought {
	hash := words.Hash([]byte(word))
	s := Sought{at: uint32(hash >> 32), step: uint32(hash) | 1}
	s.form, s.length, s.formed = formOf(word)
	return s
}

// Filter is one that was read. It is immutable.
type Filter struct {
	forms  [wordForms]uint64
	formed bool // forms are known
	brief  bool // bits were left out
	probes byte
	bits   []byte // none when it may hold everything
}

// ReadFilter reads the bytes of a filter, which it keeps. What is no filter of these formats may hold everything.
func ReadFilter(b []byte) Filter {
	var f Filter
	if len(b) < 3 || b[0] != Version1 && b[0] != Version2 {
		return f
	}
	probes, bits := b[1], b[2:]
	if b[0] == Version2 {
		for i := range f.forms {
			has, n := binary.Uvarint(bits)
			if n <= 0 {
				return Filter{}
			}
			f.forms[i], bits = has, bits[n:]
		}
		f.formed = true
	}
	f.probes, f.bits = probes, bits
	return f
}

// Brief returns the filter without its bits: it lets every word pass whose form and length the block has.
func (f *Filter) Brief() *Filter {
	return &Filter{forms: f.forms, formed: f.formed, brief: true}
}

// IsBrief reports whether the filter is one that Brief returned, which the whole one may say no where it says yes.
func (f *Filter) IsBrief() bool { return f.brief }

// Size returns about how many bytes the filter takes.
func (f *Filter) Size() int { return 96 + cap(f.bits) }

// MayHold reports whether the block of the filter may hold a word.
func (f *Filter) MayHold(w *Sought) bool {
	if f.formed && w.formed && f.forms[w.form]&w.length == 0 {
		return false
	}
	n := uint32(len(f.bits)) * 8
	if n == 0 {
		return true
	}
	at := w.at
	for range f.probes {
		if b := at % n; f.bits[b/8]&(1<<(b%8)) == 0 {
			return false
		}
		at += w.step
	}
	return true
}

// Vocabulary collects the words of lines for the filter and for the word index. Reset makes it ready for the
// next block.
type Vocabulary struct {
	words set
	terms termSet
	forms [wordForms]uint64
	list  []byte // terms, each followed by a line feed
	fold  []byte
}

// Reset forgets all words.
func (v *Vocabulary) Reset() {
	v.words.reset()
	v.terms.reset()
	v.forms = [wordForms]uint64{}
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
		if s.Lead < s.End {
			v.form(text[s.Start:s.End])
		}
		if at, fresh := v.words.add(s.Hash()); s.Lead > s.Start {
			v.index(&s, at, fresh)
		}
	}
}

// addWord takes the word of a slot.
func (v *Vocabulary) addWord(word []byte) {
	v.form(word)
	at, fresh := v.words.add(words.HashOf(word))
	if word[0] >= '0' && word[0] <= '9' {
		return
	}
	if s := (words.Scanner{Text: word}); s.Next() && s.Lead > s.Start {
		v.index(&s, at, fresh)
	}
}

// form notes the form of a word: of every one, as two with one hash need not be alike.
func (v *Vocabulary) form(word []byte) {
	if form, length, ok := formOf(word); ok {
		v.forms[form] |= length
	}
}

// index takes the word at which s stands for the word index. at is where the term of a word with its hash is noted. Whoever writes
// lines can make words with one hash, so a word that is not fresh need not be the one that was there.
func (v *Vocabulary) index(s *words.Scanner, at *uint32, fresh bool) {
	word, lead := s.Text[s.Start:s.End], s.Lead-s.Start
	if v.full() || !fresh && s.ASCII && lead <= words.MaxTerm && v.isTerm(*at, word[:lead]) {
		return
	}
	v.fold = words.AppendFold(v.fold[:0], word)
	if !s.ASCII {
		lead = words.Lead(string(v.fold))
	}
	*at = v.term(words.Term(v.fold, lead))
}

// addCJK adds a character, and the pair it makes with the one before.
func (v *Vocabulary) addCJK(char []byte, pairLen int) int {
	v.fold = words.AppendFold(v.fold[:pairLen], char)
	v.whole(v.fold[pairLen:])
	if pairLen > 0 {
		v.whole(v.fold)
	}
	return copy(v.fold, v.fold[pairLen:])
}

// whole takes a folded word that is a term as a whole.
func (v *Vocabulary) whole(word []byte) {
	if at, fresh := v.words.add(words.Hash(word)); !v.full() && (fresh || !v.isTerm(*at, word)) {
		*at = v.term(word)
	}
}

// isTerm reports whether letters fold to the term that is noted at a place; ASCII letters may be of any case.
func (v *Vocabulary) isTerm(at uint32, letters []byte) bool {
	if at == 0 || len(v.list) <= int(at-1)+len(letters) {
		return false
	}
	term := v.list[at-1 : int(at-1)+len(letters)+1]
	for i, b := range letters {
		if 'A' <= b && b <= 'Z' {
			b += 'a' - 'A'
		}
		if term[i] != b {
			return false
		}
	}
	return term[len(letters)] == '\n'
}

// term returns the place of a term, plus one: where it begins in the list, to which it is added when it is new. 0 is that of none.
func (v *Vocabulary) term(t []byte) uint32 {
	if len(t) == 0 {
		return 0
	}
	slot := v.terms.find(xxh3.Hash(t), func(at uint32) bool { return v.isTerm(at, t) })
	if slot.at == 0 {
		slot.at = uint32(len(v.list)) + 1
		v.list = append(append(v.list, t...), '\n')
	}
	return slot.at
}

// fewTerms are worth it to be in a word index, however few lines they are of.
const fewTerms = 1024

// full reports whether there are more terms than a block of any size may have in a word index.
func (v *Vocabulary) full() bool { return v.terms.n > MaxLines }

// Wordy reports whether the words of a block of so many lines are too many for a word index, as those of lines with random letters are:
// each would be there for this block alone, and take more bytes than the lines. Terms may lack some of them then.
func (v *Vocabulary) Wordy(lines int) bool { return v.terms.n > max(lines, fewTerms) }

// Terms returns the distinct terms of the word index (words.Term and pairs of CJK characters), each followed by
// a line feed. It is valid until Reset.
func (v *Vocabulary) Terms() []byte { return v.list }

// Filter returns the bytes of the filter in a version.
func (v *Vocabulary) Filter(version int) []byte {
	bitsPerWord, probes := filterSize(version)
	return v.filter(version, bitsPerWord, probes)
}

func (v *Vocabulary) filter(version, bitsPerWord, probes int) []byte {
	n := uint32(v.words.n*bitsPerWord+63) / 64 * 64
	if n == 0 {
		n = 64
	}
	out := make([]byte, 2, 2+wordForms*binary.MaxVarintLen64+n/8)
	out[0], out[1] = byte(version), byte(probes)
	if version >= Version2 {
		for _, lengths := range v.forms {
			out = binary.AppendUvarint(out, lengths)
		}
	}
	set := out[len(out) : len(out)+int(n/8)]
	out = out[:len(out)+len(set)]
	inverse := ^uint64(0)/uint64(n) + 1
	v.words.each(func(hash uint64) {
		at, step := uint32(hash>>32), uint32(hash)|1
		for range probes {
			b, _ := bits.Mul64(inverse*uint64(at), uint64(n)) // at % n, as Lemire, Kaser and Kurz have it ("Faster remainder by direct computation")
			set[b/8] |= 1 << (b % 8)
			at += step
		}
	})
	return out
}

// set is an open-addressing set of hashes, each with a place in the list of terms; zero is kept apart.
type set struct {
	slots  []uint64
	places []uint32
	n      int
	zero   bool
	zeroAt uint32
}

// largeSet is beyond what is kept for the next block: one odd block must not hold memory for ever.
const largeSet = 1 << 18

func (s *set) reset() {
	if len(s.slots) > largeSet {
		s.slots, s.places = nil, nil
	}
	clear(s.slots)
	clear(s.places)
	s.n, s.zero, s.zeroAt = 0, false, 0
}

// add returns the place that is noted with a hash, valid until the next add, and whether the hash is new.
func (s *set) add(h uint64) (place *uint32, fresh bool) {
	if h == 0 {
		if !s.zero {
			s.zero, fresh = true, true
			s.n++
		}
		return &s.zeroAt, fresh
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
			return &s.places[i], true
		case h:
			return &s.places[i], false
		}
	}
}

func (s *set) grow() {
	slots, places := s.slots, s.places
	s.slots = make([]uint64, max(1024, 2*len(slots)))
	s.places = make([]uint32, len(s.slots))
	mask := uint64(len(s.slots) - 1)
	for k, h := range slots {
		if h == 0 {
			continue
		}
		i := h & mask
		for s.slots[i] != 0 {
			i = (i + 1) & mask
		}
		s.slots[i], s.places[i] = h, places[k]
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

// termSet finds terms by their hash.
type termSet struct {
	slots []termSlot
	n     int
}

// termSlot is a term: its hash, and its place in the list, 0 for no term.
type termSlot struct {
	hash uint64
	at   uint32
}

func (s *termSet) reset() {
	if len(s.slots) > largeSet {
		s.slots = nil
	}
	clear(s.slots)
	s.n = 0
}

// find returns the slot of a term with a hash, for which is says yes, or one where the caller puts it. It is valid until the next find.
func (s *termSet) find(hash uint64, is func(at uint32) bool) *termSlot {
	if 2*s.n >= len(s.slots) {
		old := s.slots
		s.slots = make([]termSlot, max(1024, 2*len(old)))
		for _, t := range old {
			if t.at != 0 {
				*s.free(t.hash) = t
			}
		}
	}
	mask := uint64(len(s.slots) - 1)
	for i := hash & mask; ; i = (i + 1) & mask {
		switch t := &s.slots[i]; {
		case t.at == 0:
			t.hash = hash
			s.n++
			return t
		case t.hash == hash && is(t.at):
			return t
		}
	}
}

// free returns an empty slot for a hash.
func (s *termSet) free(hash uint64) *termSlot {
	mask := uint64(len(s.slots) - 1)
	i := hash & mask
	for s.slots[i].at != 0 {
		i = (i + 1) & mask
	}
	return &s.slots[i]
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
