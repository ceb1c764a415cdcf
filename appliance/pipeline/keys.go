package pipeline

import "strings"

// keyed is what a name says of what follows it.
type keyed uint8

const (
	keyNone keyed = iota
	keyPassword
	keyToken
	keyAuthorization
)

// keyNames are the ends of names that a secret follows. A name that is `bare` needs a '=' or quotes around it: with a
// colon it begins a sentence.
var keyNames = [...]struct {
	name string
	kind keyed
	bare bool
}{
	{"password", keyPassword, false},
	{"passwd", keyPassword, false},
	{"pwd", keyPassword, false},
	{"passphrase", keyPassword, false},
	{"passcode", keyPassword, false},
	{"pass", keyPassword, true},
	{"token", keyToken, false},
	{"secret", keyToken, false},
	{"apikey", keyToken, false},
	{"accesskey", keyToken, false},
	{"secretkey", keyToken, false},
	{"privatekey", keyToken, false},
	{"accountkey", keyToken, false},
	{"signingkey", keyToken, false},
	{"encryptionkey", keyToken, false},
	{"authorization", keyAuthorization, false},
}

// endsKey are the last two letters of the names: a set of the last but one for each last.
var endsKey = func() (set [256]uint32) {
	for _, k := range keyNames {
		last, before := k.name[len(k.name)-1], k.name[len(k.name)-2]
		set[last] |= 1 << (before & 31)
		set[last-'a'+'A'] |= 1 << (before & 31)
	}
	return set
}()

// mayBeKey reports whether a name that ends at end ends as one of the names does.
func mayBeKey(s string, end int) bool {
	return end > 1 && endsKey[s[end-1]]&(1<<(s[end-2]&31)) != 0
}

// keyKind returns what a name of at most maxKey bytes says. Case does not count, nor do '_', '-' and '.' in it.
func keyKind(name string) (kind keyed, bare bool) {
	if !mayBeKey(name, len(name)) {
		return keyNone, false
	}
	// The last letters, folded, from the end on.
	var room [16]byte
	n := 0
	for i := len(name) - 1; i >= 0 && n < len(room); i-- {
		switch b := name[i]; {
		case b == '_' || b == '-' || b == '.':
			continue
		case b >= 'A' && b <= 'Z':
			room[len(room)-1-n] = b + 'a' - 'A'
		default:
			room[len(room)-1-n] = b
		}
		n++
	}
	folded := string(room[len(room)-n:])
	for i := range keyNames {
		k := &keyNames[i]
		if !strings.HasSuffix(folded, k.name) {
			continue
		}
		if k.name == "pass" {
			if at := len(name) - len(k.name); at > 0 && name[at-1] != '_' && name[at-1] != '-' && name[at-1] != '.' {
				continue // a compass
			}
		}
		return k.kind, k.bare
	}
	return keyNone, false
}

// keyInChinese returns what the last two characters of a name say.
func keyInChinese(name string) keyed {
	switch string(name) {
	case "密码", "口令":
		return keyPassword
	case "令牌", "密钥":
		return keyToken
	}
	return keyNone
}

// harmless are values that are no secret behind any name.
func harmless(v string) bool {
	switch strings.ToLower(v) {
	case "", "true", "false", "null", "nil", "none", "yes", "no", "undefined":
		return true
	}
	return masked(v)
}

// secret masks what lies between from and to when it is a secret.
func (c *scanner) secret(kind keyed, from, to int) bool {
	n := to - from
	if n <= 0 || n < 10 && harmless(c.s[from:to]) {
		return false
	}
	if kind == keyPassword {
		return c.found(from, to, Password)
	}
	return n >= minToken && c.found(from, to, Token)
}

// masks reports whether secrets of the kind are masked at all. It is asked before a value is looked for: the end of one
// that stays may be far away, and the next name stands within it.
func (c *scanner) masks(kind keyed) bool {
	switch kind {
	case keyPassword:
		return c.opts.Passwords
	case keyAuthorization: // it says itself which of them it is
		return true
	}
	return c.opts.Tokens
}

// maxBlanks is how many blanks may stand before and behind a separator: lists of settings are written in columns.
const maxBlanks = 64

// value masks the value at `at`, behind a name and its separator. named says that the name was written so that only a
// value can follow it, and not a sentence.
func (c *scanner) value(kind keyed, named bool, at int) (next int) {
	s, from := c.s, at
	if !c.masks(kind) {
		return at
	}
	for from < len(s) && from-at < maxBlanks && (s[from] == ' ' || s[from] == '\t' || s[from] == '=' || s[from] == '>' && from == at) {
		from++
	}
	if from < len(s) && s[from] == '[' && from+1 < len(s) && c.quote(from+1) > 0 { // a list
		from++
	}
	switch {
	case from == len(s):
		return at
	case strings.HasPrefix(s[from:], Redacted):
		return from + len(Redacted)
	case from > at && c.isPair(from): // the value is empty
		return at
	}
	if kind == keyAuthorization {
		return c.authorization(at, from)
	}
	if q := c.quote(from); q > 0 {
		inner := from + q
		if kind == keyPassword && isPath(s[inner:]) && !named {
			return at
		}
		to := c.closing(from, inner)
		if c.secret(kind, inner, to) {
			return to
		}
		return at
	}
	if kind == keyPassword && isPath(s[from:min(len(s), from+2)]) {
		return at // PWD=/home is a place
	}
	if kind == keyToken && !named && !c.looksLikeToken(from) {
		return at
	}
	to := c.plainEnd(from)
	if c.secret(kind, from, to) {
		return to
	}
	return at
}

func isPath(v string) bool { return len(v) > 0 && v[0] == '/' }

// maxEscapes is how many backslashes may stand before a quote: a text in quotes within four others has 15.
const maxEscapes = 15

// quote returns how many bytes the quote at i has, with the backslashes before it; 0 when there is none.
func (c *scanner) quote(i int) int {
	k := i
	for k < len(c.s) && k-i < maxEscapes && c.s[k] == '\\' {
		k++
	}
	if k < len(c.s) && (c.s[k] == '"' || c.s[k] == '\'' || c.s[k] == '`' && k == i) {
		return k + 1 - i
	}
	return 0
}

// closing returns where the quote that lies between `open` and i ends, before its backslashes; the end of the text when
// it was cut off. Within a text that is in quotes itself, n backslashes stand before both quotes, and what the value holds
// of backslashes and quotes has n+1 for each of its own.
func (c *scanner) closing(open, i int) int {
	s, n := c.s, i-1-open
	mark, run := s[i-1], 0
	for ; i < len(s); i++ {
		switch {
		case s[i] == '\\':
			run++
			continue
		case s[i] == mark && run >= n && (run-n)/(n+1)%2 == 0:
			return i - n
		}
		run = 0
	}
	return len(s)
}

// plainEnd returns where a value without quotes ends. A comma and the like are part of it unless another name, a blank
// or the end follows.
func (c *scanner) plainEnd(i int) int {
	s := c.s
	for ; i < len(s); i++ {
		switch s[i] {
		case ' ', '\t', '\n', '\r', '"', '\'', '`', '&', '<', '>':
			return i
		case ',', ';', ')', '}', ']', '|':
			if c.goesOn(i + 1) {
				return i
			}
		case '\\':
			if i+1 < len(s) && (s[i+1] == 'n' || s[i+1] == 'r' || s[i+1] == '"' || s[i+1] == 't') {
				return i
			}
		}
	}
	return len(s)
}

// isPair reports whether name=value stands at i.
func (c *scanner) isPair(i int) bool {
	s, end, from := c.s, min(len(c.s), i+peek), i
	for i < end && inWord[s[i]] {
		i++
	}
	return i > from && i+1 < end && s[i] == '=' && s[i+1] != '=' && s[i+1] != ' '
}

// goesOn reports whether something other than a value follows.
func (c *scanner) goesOn(i int) bool {
	s := c.s
	if i == len(s) {
		return true
	}
	switch s[i] {
	case ' ', '\t', '\n', '\r', '"', '\'', ',', ';', ')', '}', ']', '\\':
		return true
	}
	end := min(len(s), i+peek)
	k := i
	for k < end && inWord[s[k]] {
		k++
	}
	return k > i && k < end && (s[k] == '=' || s[k] == ':')
}

// looksLikeToken reports whether a plain value behind "token:" is one rather than a word of a sentence: eight bytes
// with a digit among them.
func (c *scanner) looksLikeToken(from int) bool {
	digit := false
	i := from
	for end := min(len(c.s), from+peek); i < end && inToken(c.s[i]); i++ {
		digit = digit || c.s[i] >= '0' && c.s[i] <= '9'
	}
	return digit && i-from >= 8
}

// authorization masks the credentials of an HTTP header, leaving the name of the scheme.
func (c *scanner) authorization(at, from int) (next int) {
	s := c.s
	from += c.quote(from)
	word := from
	for word < len(s) && inWord[s[word]] {
		word++
	}
	kind, whole := Token, false
	if word < len(s) && s[word] == ' ' {
		switch scheme := strings.ToLower(s[from:min(word, from+16)]); scheme {
		case "basic":
			kind, from = Password, word+1
		case "bearer", "token", "negotiate", "ntlm", "apikey":
			from = word + 1
		default:
			from, whole = word+1, true // Digest and those of clouds have several parts
		}
	}
	if kind == Password && !c.opts.Passwords || kind == Token && !c.opts.Tokens {
		return at
	}
	to := from
	for ; to < len(s); to++ {
		b := s[to]
		if b == '\n' || b == '\r' || !whole && (b == ' ' || b == ',' || b == '"' || b == '\'' || b == '\\') {
			break
		}
	}
	if to > from && c.found(from, to, kind) {
		return to
	}
	return at
}
