// Package words says what a word of a log line is. Search, index and filters all cut lines with it, so that a
// word found by scanning is the word that was indexed.
//
// A word is a longest run of letters, digits and combining marks; every Chinese, Japanese or Korean character
// is a word of its own. Everything else, and every byte that is not UTF-8, separates words. Words are compared
// without regard to case (Fold). The package imports nothing of Triward.
package words

import (
	"encoding/binary"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	separator = iota
	letter
	digit
	wide // first byte of a rune that is not ASCII, or no rune at all
)

var class = func() (c [256]uint8) {
	for i := range c {
		switch b := byte(i); {
		case b >= utf8.RuneSelf:
			c[i] = wide
		case 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z':
			c[i] = letter
		case '0' <= b && b <= '9':
			c[i] = digit
		}
	}
	return c
}()

var lower = func() (c [256]byte) {
	for i := range c {
		c[i] = byte(i)
		if 'A' <= i && i <= 'Z' {
			c[i] = byte(i) + 'a' - 'A'
		}
	}
	return c
}()

// Fold returns the rune by which r is compared: its lower case, except that a rune outside ASCII never folds
// into ASCII, so that ASCII words can be sought in text whose ASCII letters alone were lowered.
func Fold(r rune) rune {
	if r < utf8.RuneSelf {
		return rune(lower[r])
	}
	if l := unicode.ToLower(r); l >= utf8.RuneSelf {
		return l
	}
	return r
}

// IsCJK reports whether r is a word by itself.
func IsCJK(r rune) bool {
	return r >= 0x1100 && (unicode.Is(unicode.Han, r) || unicode.In(r, unicode.Hiragana, unicode.Katakana, unicode.Hangul))
}

func runeClass(r rune) uint8 {
	switch {
	case unicode.IsLetter(r), unicode.IsMark(r):
		return letter
	case unicode.IsNumber(r):
		return digit
	}
	return separator
}

// Scanner walks over the words of a text. The zero Scanner with Text set stands before the first.
type Scanner struct {
	Text       []byte
	Start, End int  // the current word is Text[Start:End]
	Lead       int  // Text[Start:Lead] are the letters before its first digit
	CJK        bool // the word is one CJK character
	ASCII      bool // the word is ASCII only

	hash uint64 // of an ASCII word, before mix
}

// Next goes to the next word and reports whether there is one.
func (s *Scanner) Next() bool {
	text, i := s.Text, s.End
	for i < len(text) {
		switch class[text[i]] {
		case separator:
			i++
			continue
		case wide:
			r, n := utf8.DecodeRune(text[i:])
			if IsCJK(r) {
				s.Start, s.End, s.Lead, s.CJK, s.ASCII = i, i+n, i+n, true, false
				return true
			}
			if (r == utf8.RuneError && n <= 1) || runeClass(r) == separator {
				i += n
				continue
			}
		}
		s.word(i)
		return true
	}
	s.Start, s.End = i, i
	return false
}

const (
	hashStart = 14695981039346656037
	hashPrime = 1099511628211
)

func mix(h uint64) uint64 {
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// Hash is the hash of a folded word: FNV-1a with 64 bits, and over that the finaliser of MurmurHash3.
func Hash(folded []byte) uint64 {
	h := uint64(hashStart)
	for _, b := range folded {
		h = (h ^ uint64(b)) * hashPrime
	}
	return mix(h)
}

// HashOf returns Hash of the folded form of a word.
func HashOf(word []byte) uint64 {
	h := uint64(hashStart)
	for _, b := range word {
		if b >= utf8.RuneSelf {
			return Hash(AppendFold(nil, word))
		}
		h = (h ^ uint64(lower[b])) * hashPrime
	}
	return mix(h)
}

// ASCIIRun returns where the ASCII letters and digits end that stand at text[at:], and whether there is a digit among them. It is
// the end of a word when a word begins at `at` and what follows does not belong to one.
func ASCIIRun(text []byte, at int) (end int, digits bool) {
	seen := uint8(0)
	for end = at; end < len(text); end++ {
		c := class[text[end]]
		if c-letter > digit-letter { // a separator or not ASCII
			break
		}
		seen |= c
	}
	return end, seen&digit != 0
}

// Hash returns Hash of the folded current word.
func (s *Scanner) Hash() uint64 {
	if s.ASCII {
		return mix(s.hash)
	}
	return Hash(AppendFold(nil, s.Text[s.Start:s.End]))
}

// word takes the word that starts at i.
func (s *Scanner) word(i int) {
	text, h := s.Text, uint64(hashStart)
	for s.Start, s.Lead = i, -1; i < len(text); i++ { // ASCII, nearly always to the end
		c := class[text[i]]
		if c == digit && s.Lead < 0 {
			s.Lead = i
		} else if c == separator || c == wide {
			break
		}
		h = (h ^ uint64(lower[text[i]])) * hashPrime
	}
	if s.CJK, s.ASCII, s.hash = false, true, h; i < len(text) && class[text[i]] == wide {
		s.wideWord(s.Start)
		return
	}
	if s.End = i; s.Lead < 0 {
		s.Lead = i
	}
}

// wideWord takes a word that may hold runes outside ASCII.
func (s *Scanner) wideWord(i int) {
	text := s.Text
	s.Start, s.Lead, s.CJK, s.ASCII = i, -1, false, true
	for i < len(text) {
		c, n := class[text[i]], 1
		if c == wide {
			var r rune
			r, n = utf8.DecodeRune(text[i:])
			if (r == utf8.RuneError && n <= 1) || IsCJK(r) {
				break
			}
			if c = runeClass(r); c != separator {
				s.ASCII = false
			}
		}
		if c == separator {
			break
		}
		if c == digit && s.Lead < 0 {
			s.Lead = i
		}
		i += n
	}
	if s.End = i; s.Lead < 0 {
		s.Lead = i
	}
}

// AppendFold appends the folded form of a word.
func AppendFold(dst, word []byte) []byte {
	for i := 0; i < len(word); {
		if b := word[i]; b < utf8.RuneSelf {
			dst = append(dst, lower[b])
			i++
			continue
		}
		r, n := utf8.DecodeRune(word[i:])
		if r == utf8.RuneError && n <= 1 {
			dst = append(dst, word[i])
		} else {
			dst = utf8.AppendRune(dst, Fold(r))
		}
		i += n
	}
	return dst
}

// FoldString returns the folded form of s.
func FoldString(s string) string {
	return string(AppendFold(make([]byte, 0, len(s)), []byte(s)))
}

// AppendLowerASCII appends text with its ASCII letters lowered and every other byte as it is.
func AppendLowerASCII(dst, text []byte) []byte {
	n := len(dst)
	dst = append(dst, text...)
	b := dst[n:]
	const ones, high = 0x0101010101010101, 0x8080808080808080
	for len(b) >= 8 { // eight bytes at once: bit 7 of each byte of `upper` tells whether it is A to Z
		w := binary.LittleEndian.Uint64(b)
		low := w &^ high
		upper := (low + (0x80-'A')*ones) &^ (low + (0x7f-'Z')*ones) &^ w & high
		binary.LittleEndian.PutUint64(b, w|upper>>2)
		b = b[8:]
	}
	for i, c := range b {
		b[i] = lower[c]
	}
	return dst
}

// Bounded reports whether text[start:end], which is ASCII, is a whole word of text, or with prefix the beginning
// of one.
func Bounded(text []byte, start, end int, prefix bool) bool {
	if start > 0 {
		if c := class[text[start-1]]; c == letter || c == digit {
			return false
		} else if c == wide && joins(utf8.DecodeLastRune(text[:start])) {
			return false
		}
	}
	if end < len(text) && !prefix {
		if c := class[text[end]]; c == letter || c == digit {
			return false
		} else if c == wide && joins(utf8.DecodeRune(text[end:])) {
			return false
		}
	}
	return true
}

// joins reports whether a rune beside a word belongs to it.
func joins(r rune, n int) bool {
	return !(r == utf8.RuneError && n <= 1) && !IsCJK(r) && runeClass(r) != separator
}

// Split returns the folded words of s.
func Split(s string) []string {
	var out []string
	for sc := (Scanner{Text: []byte(s)}); sc.Next(); {
		out = append(out, string(AppendFold(nil, sc.Text[sc.Start:sc.End])))
	}
	return out
}

// Same reports whether word folds to folded, or to something that starts with it when prefix is set.
func Same(word []byte, folded string, prefix bool) bool {
	i, j := 0, 0
	for j < len(folded) {
		if i >= len(word) {
			return false
		}
		if b := word[i]; b < utf8.RuneSelf {
			if lower[b] != folded[j] {
				return false
			}
			i++
			j++
			continue
		}
		r, n := utf8.DecodeRune(word[i:])
		q, m := utf8.DecodeRuneInString(folded[j:])
		if Fold(r) != q {
			return false
		}
		i += n
		j += m
	}
	return prefix || i == len(word)
}

// Caseless reports whether no rune of folded outside ASCII has another form under Fold: only then may the word
// be sought in text whose ASCII letters alone were lowered.
func Caseless(folded string) bool {
	for _, r := range folded {
		if r >= utf8.RuneSelf && !IsCJK(r) {
			return false
		}
	}
	return true
}

// ASCII reports whether a folded word is ASCII only: then what folds to it is so too, and as long.
func ASCII(folded string) bool {
	for i := range len(folded) {
		if folded[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// MaxTerm bounds a term of the word index, in bytes.
const MaxTerm = 40

// Term returns the index term of a folded word with lead bytes before its first digit: the letters it starts
// with, cut to MaxTerm bytes at a rune. It is empty for words that start with a digit.
func Term[T ~string | ~[]byte](folded T, lead int) T {
	if lead <= MaxTerm {
		return folded[:lead]
	}
	n := MaxTerm
	for n > 0 && !utf8.RuneStart(folded[n]) {
		n--
	}
	return folded[:n]
}

// Lead returns the number of bytes of a folded word before its first digit.
func Lead(folded string) int {
	if r, _ := utf8.DecodeRuneInString(folded); IsCJK(r) {
		return len(folded)
	}
	n := strings.IndexFunc(folded, unicode.IsNumber)
	if n < 0 {
		return len(folded)
	}
	return n
}

// IsCJKWord reports whether a word of Split is one CJK character.
func IsCJKWord(w string) bool {
	r, _ := utf8.DecodeRuneInString(w)
	return IsCJK(r)
}
