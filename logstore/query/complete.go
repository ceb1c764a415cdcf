package query

import (
	"strings"
	"unicode/utf8"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/words"
)

// Spot is the piece of an unfinished query at which somebody types.
type Spot struct {
	From, To int    // bytes of the query that a completion stands in the place of
	Field    string // the value of this field is typed; "" for a word of the text
	Prefix   string // what is typed of it, without quotes
	Quoted   bool   // inside of quotes that begin before From
	// Name is what is typed of the name of a field that may stand here, from NameFrom to To; Named says that one may.
	Name     string
	NameFrom int
	Named    bool
}

// maxRun bounds the CJK characters of a word that is typed.
const maxRun = 8

// SpotAt returns what is typed at byte `at` of a query, which need not be right; ok is false where there is nothing to complete.
func SpotAt(text string, at int) (spot Spot, ok bool) {
	at = min(max(at, 0), len(text))
	for at > 0 && at < len(text) && !utf8.RuneStart(text[at]) {
		at--
	}
	if len(text) > MaxText {
		return Spot{}, false
	}
	p := &parser{text: text}
	for {
		for p.pos < at && (p.ends(p.pos) || p.text[p.pos] == '-') {
			_, n := utf8.DecodeRuneInString(text[p.pos:])
			p.pos += n
		}
		if p.pos >= at {
			to := at
			for !p.ends(to) {
				to++
			}
			return Spot{From: at, To: at, NameFrom: at, Named: to == at}, true
		}
		start := p.pos
		spot, ok, here := p.spot(at)
		if here {
			return spot, ok
		}
		if p.pos == start { // nothing was read
			p.pos++
		}
	}
}

// spot reads one condition; here tells that `at` is in it.
func (p *parser) spot(at int) (spot Spot, ok, here bool) {
	if rest := p.text[p.pos:]; len(rest) > 1 && rest[0] == '@' && (rest[1] == '.' || '0' <= rest[1] && rest[1] <= '9') {
		p.bare()
		return Spot{}, false, at <= p.pos
	}
	start := p.pos
	name, cmp, n := p.fieldName()
	if n == 0 && p.text[p.pos] != '"' { // a colon with nothing behind it is no name for the parser
		name, cmp, n = p.namedSoFar()
	}
	if n > 0 && at < start+n && p.text[start] == '"' {
		return p.quotedSpot("", at)
	}
	if p.pos += n; n > 0 && (cmp != ":" || at < p.pos) {
		if p.bare(); cmp == ":" {
			return p.word(start, start+n-1, at)
		}
		return Spot{}, false, at <= p.pos
	}
	if _, isRegex, err := p.regex(); isRegex || err != nil {
		if err != nil {
			p.bare()
		}
		return Spot{}, false, at <= p.pos
	}
	from := p.pos
	if p.pos < len(p.text) && p.text[p.pos] == '"' {
		return p.quotedSpot(name, at)
	}
	p.bare()
	if at > p.pos {
		return Spot{}, false, false
	}
	if n > 0 {
		return Spot{From: from, To: p.pos, Field: name, Prefix: p.text[from:at]}, !strings.Contains(p.text[from:at], "*"), true
	}
	return p.word(from, p.pos, at)
}

// namedSoFar is fieldName where the value is still to come.
func (p *parser) namedSoFar() (name, cmp string, n int) {
	rest := p.text[p.pos:]
	i := strings.IndexByte(rest, ':')
	if i <= 0 || !p.ends(p.pos+i+1) || !IsFieldName(rest[:i]) {
		return "", "", 0
	}
	return rest[:i], ":", i + 1
}

// IsFieldName reports whether a name can be written in front of a colon.
func IsFieldName(name string) bool {
	if name == "" || len(name) > wire.MaxLabelName || !isNameByte(name[0]) || name[0] == '@' && len(name) > 1 && '0' <= name[1] && name[1] <= '9' {
		return false
	}
	for i := range len(name) {
		if b := name[i]; !isNameByte(b) && b != '.' && b != '-' && (b < '0' || b > '9') {
			return false
		}
	}
	return true
}

func (p *parser) bare() {
	for !p.ends(p.pos) && p.text[p.pos] != '"' {
		p.pos++
	}
}

// word is the spot in a bare text from start to end.
func (p *parser) word(start, end, at int) (spot Spot, ok, here bool) {
	if at > max(end, p.pos) {
		return Spot{}, false, false
	}
	typed := p.text[start:at]
	spot = wordSpot(typed, start, at)
	for spot.To < end { // the rest of the word
		r, n := utf8.DecodeRuneInString(p.text[spot.To:end])
		if r == utf8.RuneError && n <= 1 || words.IsCJK(r) || len(words.Split(string(r))) == 0 {
			break
		}
		spot.To += n
	}
	if IsFieldName(typed) {
		spot.Name, spot.NameFrom, spot.Named = typed, start, true
	}
	if strings.ContainsAny(typed[len(typed)-len(spot.Prefix):], "*") || strings.HasSuffix(p.text[start:spot.From], "*") {
		return spot, spot.Named, true
	}
	return spot, spot.Named || spot.Prefix != "", true
}

// wordSpot is the word, or the CJK characters in a row, that typed ends with.
func wordSpot(typed string, start, at int) Spot {
	from := len(typed)
	var ends []int
	for s := (words.Scanner{Text: []byte(typed)}); s.Next(); {
		switch {
		case s.CJK && len(ends) > 0 && ends[len(ends)-1] == s.Start:
			ends = append(ends, s.End)
		case s.CJK:
			from, ends = s.Start, []int{s.End}
		default:
			from, ends = s.Start, nil
			if s.End < len(typed) {
				from = len(typed)
			}
		}
	}
	if len(ends) > 0 && ends[len(ends)-1] != len(typed) {
		from = len(typed)
	}
	if len(ends) > maxRun && from < len(typed) {
		from = ends[len(ends)-maxRun-1]
	}
	return Spot{From: start + from, To: at, Prefix: typed[from:]}
}

// quotedSpot reads what is in quotes.
func (p *parser) quotedSpot(name string, at int) (spot Spot, ok, here bool) {
	open := p.pos
	if _, err := p.quoted(); err != nil {
		p.pos = len(p.text) // not closed yet
	} else if at >= p.pos {
		return Spot{}, false, at == p.pos
	}
	if at <= open {
		return Spot{}, false, true
	}
	typed := p.text[open+1 : at]
	if name == "" {
		spot = wordSpot(typed, open+1, at)
		spot.Quoted = true
		return spot, spot.Prefix != "", true
	}
	return Spot{From: open, To: p.pos, Field: name, Prefix: unescape.Replace(typed)}, true, true
}

var (
	unescape = strings.NewReplacer(`\\`, `\`, `\"`, `"`)
	escape   = strings.NewReplacer(`\`, `\\`, `"`, `\"`)
)

// QuoteValue writes the value of a field as a query compares it: bare when that says the same.
func QuoteValue(value string) string {
	if value != "" && strings.IndexFunc(value, func(r rune) bool {
		return r <= ' ' || strings.ContainsRune("\"()*<>\u3000\u00a0\u007f", r)
	}) < 0 && value[0] != '/' && utf8.ValidString(value) {
		return value
	}
	return `"` + escape.Replace(value) + `"`
}
