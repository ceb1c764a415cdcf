package pipeline

import (
	"slices"
	"strings"
)

// span is a secret in a text.
type span struct {
	from, to int
	kind     Kind
}

// inWord are the bytes of words: letters, digits, '_', '-' and '.'.
var inWord = func() (set [256]bool) {
	for _, r := range "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_-." {
		set[r] = true
	}
	return set
}()

// Bounds of what is looked at around a place, which keep the scan linear.
const (
	maxKey   = 64 // of a name before its separator
	peek     = 64 // ahead
	minWord  = 13 // a shorter word is neither a card number nor a token
	minCards = 16 // a shorter run of digits and blanks is no card number in groups
	minToken = 4  // a shorter value behind the name of a token is none
)

// steps say how a byte moves the scan on. The scan shifts a bit from the end of the last word towards trigger, and
// another one from the end of the last run of digits, blanks and hyphens: keep drops what the byte ends, begin starts it
// anew. Two more bits are behind an r, for a blank, and behind a hyphen, for another one. So it needs no branch until a word is minWord long,
// a run minCards, one of these pairs is there, or a byte stops it.
var steps = func() (table [256]struct{ keep, begin uint64 }) {
	const low, high = 1<<32 - 1, (1<<minCards - 1) << 33
	for i := range table {
		st := &table[i]
		if inWord[i] {
			st.keep |= low
		} else {
			st.begin |= 1
		}
		if inDigits[i] {
			st.keep |= high
		} else {
			st.begin |= 1 << 32
		}
		switch byte(i) {
		case 'r', 'R':
			st.begin |= rBlank >> 1
		case ' ':
			st.keep |= rBlank
		case '-':
			st.begin |= twoHyphens >> 1
			st.keep |= twoHyphens
		case ':', '=', '>', 0xef: // the last begins a colon of full width
			st.begin |= stopped
		}
	}
	return table
}()

// inDigits are the bytes of card numbers in groups.
var inDigits = [256]bool{
	'0': true, '1': true, '2': true, '3': true, '4': true, '5': true, '6': true, '7': true, '8': true, '9': true,
	' ': true, '-': true,
}

const (
	longWord = 1 << minWord
	longRun  = 1 << (32 + minCards)
	stopped  = 1 << 63
	fresh    = 1 | 1<<32 // nothing has begun

	rBlank     = 1 << 56
	twoHyphens = 1 << 58
)

// scan returns the secrets of a text, in ascending order and apart. It goes over the text once, without a branch for most
// bytes; whatever it looks at beyond the place where it stands is either masked, and passed over then, or of bounded
// length.
func scan(s string, opts *Options) []span {
	c := scanner{s: s, opts: opts}
	c.rest(c.walk())
	return c.spans
}

// walk looks for all secrets but those that rest looks for, and reports whether there may be some of those: two hyphens, or the end of the word
// "bearer" with a blank.
func (c *scanner) walk() (hyphens, bearer bool) {
	s := c.s
	state := uint64(fresh)
	for i := 0; i < len(s); i++ {
		st := &steps[s[i]]
		state = state<<1&st.keep | st.begin
		if state&(longWord|longRun|stopped|rBlank|twoHyphens) == 0 {
			continue
		}
		if state&twoHyphens != 0 {
			hyphens = true
		}
		if state&rBlank != 0 && i >= len("earer") {
			word := s[i-len("earer") : i]
			bearer = bearer || word == "earer" || word == "EARER"
		}
		if state&(longWord|longRun|stopped) == 0 {
			continue
		}
		next := i + 1
		switch {
		case state&stopped == 0:
			if state&longWord != 0 {
				next = c.word(i+1-minWord, i+1)
			}
			if next == i+1 && state&longRun != 0 {
				next = c.cards(i+1-minCards, i+1)
			}
		case s[i] == '>':
			next = c.element(i)
		case s[i] == 0xef:
			if strings.HasPrefix(s[i:], "：") {
				next = c.separator(i, len("："))
			}
		default:
			next = c.separator(i, 1)
		}
		if next != i+1 { // what is passed over may be anything
			i, state = next-1, fresh
			hyphens, bearer = true, true
		}
	}
	return hyphens, bearer
}

// rest looks for secrets that walk takes no note of, wherever they are.
func (c *scanner) rest(hyphens, bearer bool) {
	if hyphens {
		c.options()
	}
	if bearer && c.opts.Tokens {
		c.bearers("earer ")
		c.bearers("EARER ")
	}
}

// bearers looks for tokens behind "bearer", which ends as given, but for its first letter. They are of any characters of
// base64, so no word of them needs to be long.
func (c *scanner) bearers(ends string) {
	s, before := c.s, len(c.spans)
	for at := 0; ; {
		k := strings.Index(s[at:], ends)
		if k < 0 {
			break
		}
		first, from := at+k-1, at+k+len(ends)
		at = from
		if first < 0 || s[first]|0x20 != 'b' || from < len(s) && s[from] == '/' { // a path
			continue
		}
		for at < len(s) && inToken(s[at]) {
			at++
		}
		if at-from >= 16 {
			c.found(from, at, Token)
		}
	}
	if len(c.spans) > before && before > 0 {
		c.spans = apart(c.spans)
	}
}

type scanner struct {
	s     string
	opts  *Options
	spans []span
}

// found notes a secret, unless it is masked already, and reports whether secrets of the kind are masked at all.
func (c *scanner) found(from, to int, kind Kind) bool {
	switch kind {
	case Card:
		if !c.opts.Cards {
			return false
		}
	case Password:
		if !c.opts.Passwords {
			return false
		}
	case Token:
		if !c.opts.Tokens {
			return false
		}
	}
	if to > from && !masked(c.s[from:to]) {
		c.spans = append(c.spans, span{from, to, kind})
	}
	return true
}

// word looks at a word that is long enough to be a secret by its form. next is what lies behind it when it is one.
func (c *scanner) word(from, at int) (next int) {
	s, to := c.s, at
	for to < len(s) && inWord[s[to]] {
		to++
	}
	end := to
	for from < end && (s[from] == '-' || s[from] == '.') {
		from++
	}
	for end > from && (s[end-1] == '.' || s[end-1] == '-') {
		end--
	}
	if end-from < minWord {
		return at
	}
	kind := Token
	if b := s[from]; b >= '0' && b <= '9' {
		kind = Card
		if end-from > maxCard || !isCard(s[from:end]) {
			return at
		}
	} else if !isToken(s[from:end]) {
		return at
	}
	if c.found(from, end, kind) {
		return end
	}
	return at
}

// cards looks for card numbers in groups in a run of digits, blanks and hyphens that is long enough.
func (c *scanner) cards(from, at int) (next int) {
	s, to := c.s, at
	for to < len(s) && inDigits[s[to]] {
		to++
	}
	if to < len(s) && inWord[s[to]] { // the last group goes on with letters
		for to > from && s[to-1] != ' ' {
			to--
		}
	}
	next = at
	for i := from; i < to; i++ {
		if s[i] < '2' || s[i] > '6' || i > 0 && s[i-1] != ' ' && (i > from || inWord[s[i-1]]) {
			continue
		}
		if n := cardInGroups(s[i:min(to, i+maxCard)]); n > 0 && (i+n == len(s) || !inWord[s[i+n]]) && c.found(i, i+n, Card) {
			next = i + n
			i = next - 1
		}
	}
	return next
}

// options looks for what needs two hyphens: secrets that are arguments, and private keys.
func (c *scanner) options() {
	s, before := c.s, len(c.spans)
	for i := strings.Index(s, "--"); i >= 0; {
		next := i + 2
		word := next
		for word < len(s) && inWord[s[word]] {
			word++
		}
		switch {
		case word == len(s) || s[word] != ' ':
			next = word
		case strings.HasSuffix(s[i:word], pemBegin):
			next = c.pem(word)
		case word-next < maxKey:
			if kind, _ := keyKind(s[next:word]); kind != keyNone { // --password secret
				next = c.value(kind, true, word+1)
			}
		}
		k := strings.Index(s[next:], "--")
		if k < 0 {
			break
		}
		i = next + k
	}
	if len(c.spans) > before && before > 0 {
		c.spans = apart(c.spans)
	}
}

// apart sorts spans and makes one of those that overlap.
func apart(spans []span) []span {
	slices.SortStableFunc(spans, func(a, b span) int { return a.from - b.from })
	kept := spans[:1]
	for _, sp := range spans[1:] {
		if last := &kept[len(kept)-1]; sp.from < last.to {
			last.to = max(last.to, sp.to)
			continue
		}
		kept = append(kept, sp)
	}
	return kept
}

const pemBegin = "-----BEGIN"

// pem masks a private key, to its end or to that of the text. at is behind its first word.
func (c *scanner) pem(at int) (next int) {
	if !c.opts.Tokens { // its end may be far away
		return at + 1
	}
	head := c.s[at:min(len(c.s), at+peek)]
	_, after, ok := strings.Cut(head, "PRIVATE KEY")
	if !ok {
		return at + 1
	}
	from := at + len(head) - len(after)
	for from < len(c.s) && c.s[from] == '-' {
		from++
	}
	to := len(c.s)
	if i := strings.Index(c.s[from:], "-----END"); i >= 0 {
		to = from + i
	}
	if !c.found(from, to, Token) {
		return at + 1
	}
	return to
}

// element looks at <name>secret<.
func (c *scanner) element(at int) (next int) {
	if !mayBeKey(c.s, at) {
		return at + 1
	}
	from := c.nameBefore(at)
	if from == 0 || c.s[from-1] != '<' {
		return at + 1
	}
	kind, _ := keyKind(c.s[from:at])
	if kind == keyNone || !c.masks(kind) {
		return at + 1
	}
	to := at + 1
	for to < len(c.s) && c.s[to] != '<' && c.s[to] != '\n' {
		to++
	}
	if c.secret(kind, at+1, to) {
		return to
	}
	return at + 1
}

// nameBefore returns where the name begins that ends at end, of which at most maxKey bytes count.
func (c *scanner) nameBefore(end int) (from int) {
	for from = end; from > 0 && end-from < maxKey && inWord[c.s[from-1]]; {
		from--
	}
	return from
}

// between are the bytes that may stand between a name and its separator.
var between = [256]bool{' ': true, '\t': true, '"': true, '\'': true, '\\': true, ']': true}

// separator looks at the name before a separator of n bytes and at what follows.
func (c *scanner) separator(at, n int) (next int) {
	s := c.s
	if s[at] == ':' && at+2 < len(s) && s[at+1] == '/' && s[at+2] == '/' {
		return c.authority(at + 3)
	}
	end, quoted := at, s[at] == '='
	// Quotes, blanks and brackets may stand between.
	for end > 0 && at-end < maxBlanks && between[s[end-1]] {
		quoted = quoted || s[end-1] != ' ' && s[end-1] != '\t'
		end--
	}
	if end > 0 && s[end-1] >= 0x80 {
		if kind := keyInChinese(s[max(0, end-6):end]); kind != keyNone {
			return c.value(kind, true, at+n)
		}
		return at + n
	}
	if !mayBeKey(s, end) {
		return at + n
	}
	kind, bare := keyKind(s[c.nameBefore(end):end])
	if kind == keyNone || bare && !quoted {
		return at + n
	}
	return c.value(kind, quoted, at+n)
}

// authority looks for a password in user:password@host.
func (c *scanner) authority(from int) (next int) {
	s, colon, at := c.s, -1, -1
	i := from
loop:
	for ; i < len(s) && i-from < 4<<10; i++ {
		switch s[i] {
		case ' ', '\t', '\n', '"', '\'', '/', '?', '#', '<', '>', '\\', ',':
			break loop
		case ':':
			if colon < 0 {
				colon = i
			}
		case '@':
			at = i
		}
	}
	switch {
	case at < 0:
		return from
	case colon >= 0 && colon < at:
		if c.found(colon+1, at, Password) {
			return at + 1
		}
	case at-from >= 16: // a token instead of a user
		if c.found(from, at, Token) {
			return at + 1
		}
	}
	return from
}
