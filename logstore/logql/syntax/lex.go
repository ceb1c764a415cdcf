package syntax

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Error says what is wrong with the text of a query, and where.
type Error struct {
	Pos  int // byte offset in the text
	Line int // from 1
	Col  int // in bytes, from 1
	Msg  string
}

func (e *Error) Error() string {
	return fmt.Sprintf("parse error at line %d, col %d: %s", e.Line, e.Col, e.Msg)
}

func errorAt(text string, pos int, msg string) *Error {
	pos = min(max(pos, 0), len(text))
	line := 1 + strings.Count(text[:pos], "\n")
	return &Error{Pos: pos, Line: line, Col: pos - strings.LastIndexByte(text[:pos], '\n'), Msg: msg}
}

type tokenKind uint8

const (
	tokEnd tokenKind = iota
	tokIdent
	tokString
	tokNumber // also durations and sizes: what begins with a digit
	tokFlag   // --name
	tokOp
)

// token is a piece of the text. text is the name, the operator, the number as written, or the string without quotes.
type token struct {
	kind tokenKind
	pos  int
	text string
}

func (t token) is(op string) bool { return t.kind == tokOp && t.text == op }

func (t token) word(name string) bool { return t.kind == tokIdent && strings.EqualFold(t.text, name) }

// String names the token in messages.
func (t token) String() string {
	switch t.kind {
	case tokEnd:
		return "the end of the query"
	case tokString:
		return "string " + quoteShort(t.text)
	}
	return quoteShort(t.text)
}

func quoteShort(s string) string {
	if len(s) > 40 {
		n := 40
		for n > 0 && !utf8.RuneStart(s[n]) {
			n--
		}
		s = s[:n] + "…"
	}
	return strconv.Quote(s)
}

// operators, the longer ones before those that they begin with.
var operators = []string{
	"|=", "|~", "|>", "!=", "!~", "!>", "=~", "==", ">=", "<=",
	"|", "{", "}", "(", ")", "[", "]", ",", "=", ">", "<", "+", "-", "*", "/", "%", "^",
}

// lex cuts the text into tokens; the last one is tokEnd.
func lex(text string) ([]token, error) {
	var out []token
	for i := 0; ; {
		i = skipSpace(text, i)
		if i >= len(text) {
			return append(out, token{kind: tokEnd, pos: len(text)}), nil
		}
		if len(out) >= maxTokens {
			return nil, errorAt(text, i, fmt.Sprintf("more than %d words and signs", maxTokens))
		}
		t, next, err := lexOne(text, i)
		if err != nil {
			return nil, err
		}
		out = append(out, t)
		i = next
	}
}

func skipSpace(text string, i int) int {
	for i < len(text) {
		switch text[i] {
		case ' ', '\t', '\n', '\r':
			i++
		case '#': // a comment goes to the end of its line
			if n := strings.IndexByte(text[i:], '\n'); n >= 0 {
				i += n
			} else {
				i = len(text)
			}
		default:
			return i
		}
	}
	return i
}

func lexOne(text string, i int) (token, int, error) {
	c := text[i]
	switch {
	case isNameStart(c):
		j := i + 1
		for j < len(text) && isName(text[j]) {
			j++
		}
		return token{tokIdent, i, text[i:j]}, j, nil
	case isDigit(c) || c == '.' && i+1 < len(text) && isDigit(text[i+1]):
		j := lexNumber(text, i)
		return token{tokNumber, i, text[i:j]}, j, nil
	case c == '"' || c == '`':
		s, j, err := lexString(text, i)
		return token{tokString, i, s}, j, err
	case strings.HasPrefix(text[i:], "--") && i+2 < len(text) && isNameStart(text[i+2]):
		j := i + 2
		for j < len(text) && (isName(text[j]) || text[j] == '-') {
			j++
		}
		return token{tokFlag, i, text[i:j]}, j, nil
	}
	for _, op := range operators {
		if strings.HasPrefix(text[i:], op) {
			return token{tokOp, i, op}, i + len(op), nil
		}
	}
	r, _ := utf8.DecodeRuneInString(text[i:])
	if c == '\'' {
		return token{}, 0, errorAt(text, i, "strings stand in \"double quotes\" or `back quotes`")
	}
	return token{}, 0, errorAt(text, i, fmt.Sprintf("unexpected character %q", r))
}

func isNameStart(c byte) bool { return c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }
func isDigit(c byte) bool     { return c >= '0' && c <= '9' }
func isName(c byte) bool      { return isNameStart(c) || isDigit(c) }

// lexNumber takes 1, 1.5, 1e-3, 0x1f, 1h30m, 1.5GiB, 250µs.
func lexNumber(text string, i int) int {
	j := i
	for j < len(text) {
		c := text[j]
		switch {
		case isName(c) || c == '.':
			j++
		case strings.HasPrefix(text[j:], "µ"), strings.HasPrefix(text[j:], "μ"):
			j += 2
		case (c == '+' || c == '-') && (text[j-1] == 'e' || text[j-1] == 'E') && j+1 < len(text) && isDigit(text[j+1]) && onlyNumber(text[i:j-1]):
			j++
		default:
			return j
		}
	}
	return j
}

func onlyNumber(s string) bool {
	return strings.Trim(s, "0123456789.") == "" && s != ""
}

func lexString(text string, i int) (string, int, error) {
	q := text[i]
	for j := i + 1; j < len(text); j++ {
		switch {
		case text[j] == q && q == '`':
			return text[i+1 : j], j + 1, nil
		case text[j] == q:
			s, err := strconv.Unquote(text[i : j+1])
			if err != nil {
				return "", 0, errorAt(text, i, "bad escape in this string; a string in `back quotes` needs none")
			}
			return s, j + 1, nil
		case q == '"' && text[j] == '\\':
			j++
		case q == '"' && text[j] == '\n':
			return "", 0, errorAt(text, i, "this string does not end on its line")
		}
	}
	return "", 0, errorAt(text, i, "this string does not end")
}
