package query

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/regex"
	"github.com/triward/triward/logstore/words"
)

// Bounds of the text of a query.
const (
	MaxText  = 16 << 10 // bytes
	MaxRegex = 256      // bytes of one regular expression
	maxDepth = 64       // nested parentheses and negations
	maxNodes = 512      // conditions in one query
	maxSizes = 20_000   // regex.Size of all regular expressions of one query
)

// SyntaxError says what is wrong with the text of a query, and where.
type SyntaxError struct {
	Pos int // byte offset in the text
	Msg string
}

func (e *SyntaxError) Error() string { return fmt.Sprintf("query at byte %d: %s", e.Pos, e.Msg) }

// Parse reads the language of the search box. Errors are of type *SyntaxError.
//
//	word            a whole word of the text, whatever its case; 错误 is the two words 错 and 误 in a row, and so
//	                is disk-full: what separates words inside a condition separates them in the text
//	"some words"    the words in a row; \" and \\ inside
//	pre*  "a pre"*  the last word may go on
//	conn*ed  *out   * stands for any letters and digits of one word, and alone between separators for any word
//	word~           a word like it: up to one edit for words of up to five letters, else two (words.Near); word~1, word~2
//	*               every line
//	/re/            a regular expression (RE2, case counts, \/ for a slash)
//	field:value     the label, or else structured field, or else field in the text equals value (case does not count), host:web-1
//	"a field":value  the same with any name; "level":30 is the field and not the severity
//	field:pre*  field:*  field:"a b"  field:/re/  field:web-*-1
//	field>1.5       numbers, also >= < <=, and field:>1.5
//	@2026-11-27T10:00..11:00   times, in UTC or with a zone: from the first, to before the second or all of that day;
//	                either may be missing, and @2026-11-27 alone is all of the day (or hour, minute, second)
//	severity:error  severity>=warning    (also called level), kind:event  kind:log
//	@pattern:"user <*> logged in"        the lines of a pattern (Pattern)
//	a b   a AND b   both     a OR b   either     NOT a   -a   not     ( )
//
// Text without a letter or digit, such as "=>", is sought as it is.
func Parse(text string) (*Filter, error) {
	if len(text) > MaxText {
		return nil, &SyntaxError{Pos: MaxText, Msg: fmt.Sprintf("longer than %d bytes", MaxText)}
	}
	p := &parser{text: text}
	if p.space(); p.pos == len(text) {
		return All(), nil
	}
	f, err := p.or(0)
	if err != nil {
		return nil, err
	}
	if p.pos < len(text) {
		return nil, p.fail(p.pos, "this ) closes nothing")
	}
	return f, nil
}

type parser struct {
	text  string
	pos   int
	nodes int
	sizes int // of the regular expressions so far
}

func (p *parser) fail(pos int, format string, args ...any) error {
	return &SyntaxError{Pos: pos, Msg: fmt.Sprintf(format, args...)}
}

func (p *parser) space() {
	for p.pos < len(p.text) {
		r, n := utf8.DecodeRuneInString(p.text[p.pos:])
		if r != ' ' && r != '\t' && r != '\n' && r != '\r' && r != '\u3000' && r != '\u00a0' {
			return
		}
		p.pos += n
	}
}

// ends reports whether a condition ends at i.
func (p *parser) ends(i int) bool {
	return i >= len(p.text) || strings.IndexByte(" \t\r\n()", p.text[i]) >= 0 ||
		strings.HasPrefix(p.text[i:], "\u3000") || strings.HasPrefix(p.text[i:], "\u00a0")
}

// keyword takes the keyword if it stands here.
func (p *parser) keyword(k string) bool {
	if strings.HasPrefix(p.text[p.pos:], k) && p.ends(p.pos+len(k)) {
		p.pos += len(k)
		p.space()
		return true
	}
	return false
}

func (p *parser) or(depth int) (*Filter, error) {
	var kids []*Filter
	for {
		f, err := p.and(depth)
		if err != nil {
			return nil, err
		}
		kids = append(kids, f)
		if !p.keyword("OR") {
			return Or(kids...), nil
		}
	}
}

func (p *parser) and(depth int) (*Filter, error) {
	var kids []*Filter
	for {
		f, err := p.not(depth)
		if err != nil {
			return nil, err
		}
		kids = append(kids, f)
		if p.keyword("AND") {
			continue
		}
		if p.pos >= len(p.text) || p.text[p.pos] == ')' || (strings.HasPrefix(p.text[p.pos:], "OR") && p.ends(p.pos+2)) {
			return And(kids...), nil
		}
	}
}

func (p *parser) not(depth int) (*Filter, error) {
	if depth > maxDepth {
		return nil, p.fail(p.pos, "nested deeper than %d", maxDepth)
	}
	negated := p.keyword("NOT")
	if !negated && p.pos < len(p.text) && p.text[p.pos] == '-' && (!p.ends(p.pos+1) || strings.HasPrefix(p.text[p.pos+1:], "(")) {
		negated = true
		p.pos++
	}
	if negated {
		f, err := p.not(depth + 1)
		if err != nil {
			return nil, err
		}
		return Not(f), nil
	}
	return p.primary(depth)
}

func (p *parser) primary(depth int) (*Filter, error) {
	if p.nodes++; p.nodes > maxNodes {
		return nil, p.fail(p.pos, "more than %d conditions", maxNodes)
	}
	start := p.pos
	if start >= len(p.text) {
		return nil, p.fail(start, "a word, a phrase or a field is missing here")
	}
	switch c := p.text[start]; {
	case c == ')':
		return nil, p.fail(start, "a condition is missing before )")
	case c == '(':
		p.pos++
		p.space()
		f, err := p.or(depth + 1)
		if err != nil {
			return nil, err
		}
		if p.pos >= len(p.text) {
			return nil, p.fail(start, "this ( is never closed")
		}
		p.pos++
		p.space()
		return f, nil
	case p.text[start:] == "OR" || p.text[start:] == "AND" || p.keyword("OR") || p.keyword("AND"):
		return nil, p.fail(start, "AND and OR stand between two conditions; put the word in quotes to search for it")
	}
	f, err := p.condition()
	if err != nil {
		return nil, err
	}
	p.space()
	return f, nil
}

// condition reads one condition up to where it ends.
func (p *parser) condition() (*Filter, error) {
	start := p.pos
	if f, ok, err := p.timeRange(); err != nil || ok {
		return f, err
	}
	if name, cmp, n := p.fieldName(); n > 0 {
		p.pos += n
		return p.fieldValue(name, cmp, start)
	}
	if re, ok, err := p.regex(); err != nil {
		return nil, err
	} else if ok {
		return Regex(re), nil
	}
	v, err := p.value()
	switch {
	case err != nil:
		return nil, err
	case v.text == "" && (v.star || v.quoted):
		return All(), nil
	case v.stars, v.star && !v.quoted && !endsInWord(v.text):
		return p.wildcards(p.text[start:p.pos], start)
	case !v.quoted && !v.star:
		if f, ok, err := p.fuzzy(v.text, start); err != nil || ok {
			return f, err
		}
	}
	return Phrase(v.text, v.star), nil
}

// fieldName recognises name: and name>number at the current position, and returns how long it is.
func (p *parser) fieldName() (name, cmp string, n int) {
	rest := p.text[p.pos:]
	if rest != "" && rest[0] == '"' {
		return p.quotedName()
	}
	i := 0
	for i < len(rest) && (isNameByte(rest[i]) || i > 0 && (rest[i] == '.' || rest[i] == '-' || '0' <= rest[i] && rest[i] <= '9')) {
		i++
	}
	if i == 0 || i == len(rest) || i > wire.MaxLabelName {
		return "", "", 0
	}
	return p.afterName(rest[:i], i)
}

// quotedName is fieldName for a name in quotes.
func (p *parser) quotedName() (name, cmp string, n int) {
	at := *p
	v, err := at.quoted()
	if err != nil || v.star || v.text == "" || len(v.text) > wire.MaxLabelName || at.pos == len(p.text) {
		return "", "", 0
	}
	return p.afterName(v.text, at.pos-p.pos)
}

// afterName reads what stands behind a name of i bytes.
func (p *parser) afterName(name string, i int) (_, cmp string, n int) {
	rest := p.text[p.pos:]
	switch rest[i] {
	case ':':
		if cmp, at := compareSign(rest[i+1:]); cmp != "" && !p.ends(p.pos+i+1+at) {
			return name, cmp, i + 1 + at
		}
		if p.ends(p.pos+i+1) || strings.HasPrefix(rest[i+1:], "//") {
			return "", "", 0
		}
		return name, ":", i + 1
	case '<', '>':
		cmp, at := compareSign(rest[i:])
		i += at
		v := rest[i:]
		if end := strings.IndexAny(v, " \t\r\n()"); end >= 0 {
			v = v[:end]
		}
		if _, err := strconv.ParseFloat(v, 64); err != nil && (rest[0] == '"' || !isSeverity(name)) {
			return "", "", 0
		}
		return name, cmp, i
	}
	return "", "", 0
}

// compareSign returns the comparison that rest begins with, and its length.
func compareSign(rest string) (cmp string, n int) {
	if rest == "" || rest[0] != '<' && rest[0] != '>' {
		return "", 0
	}
	n = 1
	if len(rest) > 1 && rest[1] == '=' {
		n = 2
	}
	return rest[:n], n
}

func isNameByte(b byte) bool {
	return 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || b == '_' || b == '@'
}

func isSeverity(name string) bool { return name == "severity" || name == "level" }

func (p *parser) fieldValue(name, cmp string, start int) (*Filter, error) {
	at := p.pos
	named := p.text[start] == '"' // whatever the name means without quotes
	ofSeverity, ofKind := !named && isSeverity(name), !named && name == "kind"
	if cmp == ":" {
		re, ok, err := p.regex()
		switch {
		case err != nil:
			return nil, err
		case ok && (ofSeverity || ofKind):
			return nil, p.fail(at, "%s takes a name, not an expression", name)
		case ok && name == patternField:
			return nil, p.fail(at, "%s takes a pattern in quotes, as the answer about patterns has it", name)
		case ok:
			return FieldRegex(name, re), nil
		}
	}
	v, err := p.value()
	if err != nil {
		return nil, err
	}
	text, quoted, star := v.text, v.quoted, v.star
	switch {
	case name == patternField && (cmp != ":" || star || v.stars):
		return nil, p.fail(at, "%s takes a pattern in quotes, as the answer about patterns has it", name)
	case name == patternField:
		return Pattern(text), nil
	case v.stars && (ofSeverity || ofKind):
		return nil, p.fail(at, "%s takes a name, not a pattern", name)
	case ofSeverity:
		return p.severity(cmp, text, star, at)
	case ofKind:
		switch text {
		case "log", "logs":
			return KindIs(wire.StreamLog), nil
		case "event", "events":
			return KindIs(wire.StreamEvent), nil
		}
		return nil, p.fail(at, "kind is log or event")
	case cmp != ":":
		n, err := strconv.ParseFloat(text, 64)
		if err != nil || quoted || star || v.stars {
			return nil, p.fail(at, "%s takes a number; put the value in quotes to compare it as it is", cmp)
		}
		return FieldNumber(name, compares[cmp], n), nil
	case text == "" && star:
		return Field(name, Exists, ""), nil
	case text == "" && quoted:
		return Not(Field(name, Exists, "")), nil
	case v.stars:
		if err := p.stars(text, at); err != nil {
			return nil, err
		}
		return FieldLike(name, text), nil
	case star:
		return Field(name, HasPrefix, text), nil
	case text == "":
		return nil, p.fail(start, "field %s has no value", name)
	}
	return Field(name, Equal, text), nil
}

var compares = map[string]Compare{"<": Less, "<=": LessOrEqual, ">": Greater, ">=": GreaterOrEqual}

func (p *parser) severity(cmp, text string, star bool, at int) (*Filter, error) {
	if text == "" && star {
		return All(), nil
	}
	s, ok := severities(text)
	if !ok || star {
		return nil, p.fail(at, "unknown severity %q: debug, info, notice, warning, error, critical or unknown", text)
	}
	var mask uint16
	for v := wire.SeverityUnknown; v <= wire.SeverityCritical; v++ {
		if cmp == ":" && v == s || cmp[0] == '>' && v > s || cmp[0] == '<' && v < s || len(cmp) == 2 && v == s {
			mask |= 1 << v
		}
	}
	return SeverityIn(mask), nil
}

// regex reads /expression/ when one stands here: the first slash without a backslash must end the condition,
// so that paths such as /var/log are no expressions.
func (p *parser) regex() (*regexp.Regexp, bool, error) {
	rest := p.text[p.pos:]
	if rest == "" || rest[0] != '/' {
		return nil, false, nil
	}
	end := 1
	for end < len(rest) && rest[end] != '/' {
		if rest[end] == '\\' {
			end++
		}
		end++
	}
	if end == 1 || end >= len(rest) || !p.ends(p.pos+end+1) {
		return nil, false, nil
	}
	expr := strings.ReplaceAll(rest[1:end], `\/`, `/`)
	if len(expr) > MaxRegex {
		return nil, false, p.fail(p.pos, "regular expression of %d bytes, at most %d are allowed", len(expr), MaxRegex)
	}
	tree, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return nil, false, p.fail(p.pos+1, "%v", err)
	}
	if p.sizes += regex.Size(tree); p.sizes > maxSizes {
		return nil, false, p.fail(p.pos, "the regular expressions are %d steps long when their repetitions are written out, at most %d are allowed in a query: repeat less",
			p.sizes, maxSizes)
	}
	re, err := regexp.Compile(expr)
	if err != nil {
		return nil, false, p.fail(p.pos+1, "%v", err)
	}
	p.pos += end + 1
	return re, true, nil
}

// value is what a condition asks for.
type value struct {
	text   string
	quoted bool
	star   bool // a * stood behind it, which text does not hold
	stars  bool // it is bare and text holds * elsewhere
}

// value reads a quoted or a bare value and the * behind it.
func (p *parser) value() (v value, err error) {
	start := p.pos
	if start < len(p.text) && p.text[start] == '"' {
		return p.quoted()
	}
	i := start
	for !p.ends(i) && p.text[i] != '"' {
		i++
	}
	p.pos = i
	v.text = p.text[start:i]
	if i < len(p.text) && p.text[i] == '"' && strings.HasSuffix(v.text, "*") {
		return v, p.fail(i-1, "* does not stand before a quote: leave a space, or put all of it in quotes to search for it")
	}
	if text, ok := strings.CutSuffix(v.text, "*"); ok && !strings.Contains(text, "*") {
		v.text, v.star = text, true
		return v, nil
	}
	v.stars = strings.Contains(v.text, "*")
	return v, nil
}

func (p *parser) quoted() (v value, err error) {
	start := p.pos
	var b strings.Builder
	i := start + 1
	for ; i < len(p.text) && p.text[i] != '"'; i++ {
		if p.text[i] == '\\' && i+1 < len(p.text) && (p.text[i+1] == '"' || p.text[i+1] == '\\') {
			i++
		}
		b.WriteByte(p.text[i])
	}
	if i >= len(p.text) {
		return v, p.fail(start, "this quote is never closed")
	}
	p.pos = i + 1
	v.text, v.quoted = b.String(), true
	if strings.HasPrefix(p.text[p.pos:], "*") {
		v.star = true
		p.pos++
	}
	return v, nil
}

// endsInWord reports whether text ends with a character of a word.
func endsInWord(text string) bool {
	r, n := utf8.DecodeLastRuneInString(text)
	return !(r == utf8.RuneError && n <= 1) && len(words.Split(string(r))) > 0
}
