package wire

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// MatchOp is how a Matcher compares. Numbers are part of the format.
type MatchOp uint8

// Ways to compare. A regular expression must match the whole value.
const (
	MatchEqual    MatchOp = 1
	MatchNotEqual MatchOp = 2
	MatchRegex    MatchOp = 3
	MatchNotRegex MatchOp = 4
)

var matchOps = [...]string{MatchEqual: "=", MatchNotEqual: "!=", MatchRegex: "=~", MatchNotRegex: "!~"}

// String returns the operator as it is written.
func (o MatchOp) String() string {
	if o < MatchEqual || o > MatchNotRegex {
		return fmt.Sprintf("operator %d", uint8(o))
	}
	return matchOps[o]
}

// Matcher compares one label of a stream. A label that is absent has the value "".
type Matcher struct {
	Name  string
	Op    MatchOp
	Value string
}

// Selector picks the streams that all of its matchers agree with; one without matchers picks all.
type Selector []Matcher

// Bounds of a selector, in bytes unless said otherwise.
const (
	MaxSelectorMatchers = 16
	MaxSelectorValue    = 512 // value or expression of a matcher
	MaxSelectorText     = 1024
)

// CutSelector hides lines of the streams that it picks: those of entries of the log up to Through.
type CutSelector struct {
	Selector Selector
	Through  uint64
}

// LogCut says which lines of a kind and a UTC day retention has removed before the whole day goes.
type LogCut struct {
	Kind StreamKind
	Day  int64 // since 1970
	// Index is the entry of the log that made the cut, or that changed it last.
	Index     uint64
	Selectors []CutSelector
}

// Sorted returns the selector in the one order that equal ones have.
func (s Selector) Sorted() Selector {
	out := slices.Clone(s)
	slices.SortFunc(out, func(a, b Matcher) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), cmp.Compare(a.Op, b.Op), strings.Compare(a.Value, b.Value))
	})
	return slices.Compact(out)
}

// Check reports what keeps s from being a selector. It does not look into regular expressions: what is one depends on the
// version of a library, and must not decide what Apply does.
func (s Selector) Check() error {
	if len(s) > MaxSelectorMatchers {
		return fmt.Errorf("%d matchers, at most %d are allowed", len(s), MaxSelectorMatchers)
	}
	for i := range s {
		m := &s[i]
		switch {
		case m.Name == "" || len(m.Name) > MaxLabelName || !utf8.ValidString(m.Name):
			return fmt.Errorf("matcher %d has no valid name of a label", i)
		case m.Op < MatchEqual || m.Op > MatchNotRegex:
			return fmt.Errorf("matcher of %s has the unknown %s", m.Name, m.Op)
		case len(m.Value) > MaxSelectorValue:
			return fmt.Errorf("matcher of %s has a value of %d bytes, at most %d are allowed", m.Name, len(m.Value), MaxSelectorValue)
		case !utf8.ValidString(m.Value):
			return fmt.Errorf("matcher of %s has a value that is not valid UTF-8", m.Name)
		}
	}
	n := 0
	for i := range s {
		n += len(s[i].Name) + len(s[i].Value) + 6
	}
	if n > MaxSelectorText {
		return fmt.Errorf("about %d bytes, at most %d are allowed", n, MaxSelectorText)
	}
	return nil
}

// String writes the selector as ParseSelector reads it.
func (s Selector) String() string {
	var b strings.Builder
	b.WriteByte('{')
	for i := range s {
		if i > 0 {
			b.WriteString(", ")
		}
		if plainName(s[i].Name) == len(s[i].Name) {
			b.WriteString(s[i].Name)
		} else {
			b.WriteString(strconv.Quote(s[i].Name))
		}
		b.WriteString(s[i].Op.String())
		b.WriteString(strconv.Quote(s[i].Value))
	}
	b.WriteByte('}')
	return b.String()
}

// plainName is how many bytes at the beginning of text make a name that needs no quotes.
func plainName(text string) int {
	for i := range len(text) {
		c := text[i]
		if c == '_' || c == '.' && i > 0 || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' && i > 0 {
			continue
		}
		return i
	}
	return len(text)
}

// ParseSelector reads a selector as LogQL writes them: {unit="nginx", host=~"web.*", env!="prod"}. Values are in double
// quotes or in backticks, which take everything as it is; a name with other than letters, digits, _ and . is in double
// quotes too. Expressions are those of RE2. The error names the place. The result is Sorted and has passed Check.
func ParseSelector(text string) (Selector, error) {
	p := selectorParser{text: text}
	if len(text) > 4*MaxSelectorText {
		return nil, fmt.Errorf("selector of %d bytes: at most %d are allowed", len(text), MaxSelectorText)
	}
	s, err := p.selector()
	if err != nil {
		return nil, fmt.Errorf("selector, at character %d: %w", 1+utf8.RuneCountInString(text[:p.at]), err)
	}
	s = s.Sorted()
	if err := s.Check(); err != nil {
		return nil, fmt.Errorf("selector: %w", err)
	}
	return s, nil
}

type selectorParser struct {
	text string
	at   int // the byte that is next, or what an error is about
}

func (p *selectorParser) space() {
	p.at += len(p.text[p.at:]) - len(strings.TrimLeft(p.text[p.at:], " \t\r\n"))
}

// token goes behind tok, if it is next, and the space before it.
func (p *selectorParser) token(tok string) bool {
	p.space()
	if !strings.HasPrefix(p.text[p.at:], tok) {
		return false
	}
	p.at += len(tok)
	return true
}

func (p *selectorParser) selector() (s Selector, err error) {
	if !p.token("{") {
		return nil, fmt.Errorf(`a selector begins with {, as in {unit="nginx"}`)
	}
	for !p.token("}") {
		if len(s) > 0 && !p.token(",") {
			return nil, fmt.Errorf(`want , or }`)
		}
		if len(s) > 0 && p.token("}") { // a comma behind the last
			break
		}
		m, err := p.matcher()
		if err != nil {
			return nil, err
		}
		if s = append(s, m); len(s) > 4*MaxSelectorMatchers {
			return nil, fmt.Errorf("more than %d matchers", MaxSelectorMatchers)
		}
	}
	if p.space(); p.at < len(p.text) {
		return nil, fmt.Errorf("nothing may follow the selector")
	}
	return s, nil
}

func (p *selectorParser) matcher() (m Matcher, err error) {
	p.space()
	if n := plainName(p.text[p.at:]); n > 0 {
		m.Name = p.text[p.at : p.at+n]
		p.at += n
	} else if m.Name, err = p.quoted("the name of a label"); err != nil {
		return m, err
	}
	for _, op := range []MatchOp{MatchRegex, MatchNotRegex, MatchNotEqual, MatchEqual} {
		if p.token(op.String()) {
			m.Op = op
			break
		}
	}
	if m.Op == 0 {
		return m, fmt.Errorf("want =, !=, =~ or !~ behind the label %.40q", m.Name)
	}
	p.space()
	at := p.at
	if m.Value, err = p.quoted(`a value in quotes, as in ` + m.Name + `="nginx"`); err != nil {
		return m, err
	}
	if m.Op == MatchRegex || m.Op == MatchNotRegex {
		if _, err := m.Regexp(); err != nil {
			p.at = at
			return m, err
		}
	}
	return m, nil
}

func (p *selectorParser) quoted(want string) (string, error) {
	rest := p.text[p.at:]
	if rest == "" || rest[0] != '"' && rest[0] != '`' {
		return "", fmt.Errorf("want %s", want)
	}
	q, err := strconv.QuotedPrefix(rest)
	if err != nil {
		return "", fmt.Errorf("want %s: the text in quotes has no end, or a backslash in it means nothing", want)
	}
	out, err := strconv.Unquote(q)
	if err != nil {
		return "", fmt.Errorf("want %s: %w", want, err)
	}
	p.at += len(q)
	return out, nil
}

// Regexp returns the expression of a matcher that has one, which matches whole values only.
func (m *Matcher) Regexp() (*regexp.Regexp, error) {
	if _, err := regexp.Compile(m.Value); err != nil { // one that closes a group it did not open must not escape ours
		return nil, fmt.Errorf("matcher of %s: %w", m.Name, err)
	}
	re, err := regexp.Compile("^(?s:" + m.Value + ")$")
	if err != nil {
		return nil, fmt.Errorf("matcher of %s: %w", m.Name, err)
	}
	return re, nil
}

// Picker is a Selector that is ready to be asked; the zero value picks everything.
type Picker struct {
	Selector
	res []*regexp.Regexp // of the matchers that have one
}

// NewPicker compiles a selector, which belongs to the picker from then on. It fails for an expression that RE2 does not take.
func NewPicker(s Selector) (*Picker, error) {
	out := &Picker{Selector: s, res: make([]*regexp.Regexp, len(s))}
	for i := range s {
		if m := &s[i]; m.Op == MatchRegex || m.Op == MatchNotRegex {
			re, err := m.Regexp()
			if err != nil {
				return nil, err
			}
			out.res[i] = re
		}
	}
	return out, nil
}

// Picks reports whether a stream is picked, of which label tells the value of a label, "" when there is none.
func (p *Picker) Picks(label func(name string) string) bool {
	for i := range p.Selector {
		m := &p.Selector[i]
		v := label(m.Name)
		ok := false
		switch m.Op {
		case MatchEqual:
			ok = v == m.Value
		case MatchNotEqual:
			ok = v != m.Value
		case MatchRegex:
			ok = p.res[i].MatchString(v)
		case MatchNotRegex:
			ok = !p.res[i].MatchString(v)
		}
		if !ok {
			return false
		}
	}
	return true
}

// AppendSelector appends the binary form: the count, then of each matcher name, operator byte and value.
func AppendSelector(dst []byte, s Selector) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	for i := range s {
		dst = AppendString(dst, s[i].Name)
		dst = append(dst, byte(s[i].Op))
		dst = AppendString(dst, s[i].Value)
	}
	return dst
}

// ReadSelector is the inverse of AppendSelector; whether it is sorted and passes Check is looked at too.
func ReadSelector(r *Reader) Selector {
	n := r.Count("count of matchers", MaxSelectorMatchers, 3)
	if n == 0 {
		return nil
	}
	s := make(Selector, n)
	for i := range s {
		s[i].Name = r.Text(MaxLabelName, "name of a matcher")
		s[i].Op = MatchOp(r.Byte("operator"))
		s[i].Value = r.Text(MaxSelectorValue, "value of a matcher")
	}
	if r.Err() != nil {
		return nil
	}
	if err := s.Check(); err != nil {
		r.Fail("selector: " + err.Error())
	} else if !slices.Equal(s, s.Sorted()) {
		r.Fail("selector out of order")
	}
	return s
}
