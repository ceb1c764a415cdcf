package syntax

import (
	"errors"
	"slices"
	"strings"
)

// difference is where our parser and Grafana's grammar do not agree. docs/logql.md tells of those that people may meet.
type difference struct {
	what string
	// says are pieces of the messages with which we refuse what the grammar reads.
	says []string
	// ours reports whether the token k is why only we read the query.
	ours func(tokens []token, k int) bool
	// words: the grammar does not read our canonical form either. Of others it does, and reads the same in it.
	words bool
}

const orderOfOperators = "the order of operators"

// differences, those that are told from the words of a query in the order in which they are looked for.
var differences = []difference{
	// All of the grammar's operators of arithmetic stand on one level, and and binds tighter than or in its label filters. The documentation
	// has the levels of Prometheus, and label filters from left to right.
	{what: orderOfOperators},

	// The grammar asks for no meaning.
	{what: "a selector that may be empty", says: []string{"at least one label"}},
	{what: "texts that mean nothing", says: []string{
		"bad regular expression", "named group", "named capture", "is no label name", "bad template", "bad path", "no space, quote", "not an address", "between <", "only <_>",
		"the pattern is empty", "bad escape",
	}},
	{what: "names that come twice", says: []string{"only once", "extracted twice", "is there twice", "grouped twice", "must not be both"}},
	{what: "labels that are not for setting", says: []string{"not for setting"}},
	{what: "functions without what they need, or with what they do not take", says: []string{
		"add | unwrap label", "takes no unwrap", "takes no by or without", "takes no group", "a number is expected", "whole number", "a quantile", "goes with comparisons only", "ip goes with",
	}},
	{what: "lines where numbers are wanted, and the other way round", says: []string{"takes numbers", "is between numbers", "series on both sides"}},
	{what: "approx_count_distinct", says: []string{"there is no function"}},
	{what: "ranges out of bounds", says: []string{"a range is longer", "an offset is at most"}},

	{what: "a word right behind a number, a flag behind a flag", says: []string{"is no number, duration", "logfmt knows --strict"}},
	{what: "words of the language as names of labels", words: true, ours: func(tokens []token, k int) bool { return reservedName(tokens, k) }},
	{what: "signs, Inf and NaN where the grammar has plain numbers", words: true, ours: func(tokens []token, k int) bool {
		return tokens[k].word("inf") || tokens[k].word("nan") || signed(tokens, k)
	}},
	{what: "an offset behind a pipeline and unwrap", words: true, ours: func(tokens []token, k int) bool {
		return tokens[k].word("offset") && slices.ContainsFunc(tokens, func(t token) bool { return t.word("unwrap") })
	}},
	{what: "a comma behind the last matcher or name", ours: func(tokens []token, k int) bool {
		return tokens[k].is(",") && (tokens[k+1].is("}") || tokens[k+1].is(")"))
	}},
	{what: "numbers with a unit that begin with a point", ours: func(tokens []token, k int) bool {
		return tokens[k].kind == tokNumber && tokens[k].text[0] == '.' && strings.Trim(tokens[k].text, ".0123456789") != ""
	}, words: true},
	{what: "conditions with nothing between them", ours: func(tokens []token, k int) bool {
		next := k + 1
		if tokens[next].is("(") {
			next++
		}
		return endsCondition(tokens[k]) && tokens[next].kind == tokIdent && compared(tokens, next+1)
	}},
	{what: "by and without behind the name of a function over a range", ours: func(tokens []token, k int) bool {
		_, is := rangeOps[RangeOp(strings.ToLower(tokens[k].text))]
		return is && (tokens[k+1].word("by") || tokens[k+1].word("without"))
	}},
	{what: "names of functions in capitals", ours: func(tokens []token, k int) bool {
		low := strings.ToLower(tokens[k].text)
		_, is := rangeOps[RangeOp(low)]
		return tokens[k].kind == tokIdent && low != tokens[k].text && (is || low == "ip" || low == "bytes" || low == "duration")
	}},
	{what: "an operand in parentheses behind group_left or group_right", ours: func(tokens []token, k int) bool {
		return (tokens[k].word("group_left") || tokens[k].word("group_right")) && tokens[k+1].is("(")
	}},
	{what: "== before a text or ip", ours: func(tokens []token, k int) bool {
		return tokens[k].is("==") && (tokens[k+1].kind == tokString || tokens[k+1].word("ip"))
	}},
	{what: "sizes in units that are not the grammar's", words: true, ours: func(tokens []token, k int) bool {
		unit := strings.TrimLeft(tokens[k].text, "0123456789.")
		_, noDuration := ParseDuration(tokens[k].text)
		_, noSize := ParseBytes(tokens[k].text)
		return tokens[k].kind == tokNumber && unit != "" && noDuration != nil && noSize == nil && (!strings.HasSuffix(unit, "B") || strings.ToUpper(unit[:1]) != unit[:1])
	}},
	{what: "where an offset stands, and a space behind its sign", ours: func(tokens []token, k int) bool { return tokens[k].word("offset") }},
	{what: "several alternatives behind ip", words: true, ours: func(tokens []token, k int) bool {
		return tokens[k].word("ip") && tokens[k+1].is("(") && tokens[k+4].word("or")
	}},
}

// reserved are the words that the grammar takes for nothing but themselves.
var reserved = []string{
	"json", "logfmt", "unpack", "pattern", "regexp", "label_format", "line_format", "label_replace", "vector", "offset", "bool", "on", "ignoring", "group_left", "group_right",
	"unwrap", "decolorize", "drop", "keep",
}

// reservedName reports whether the token is a word of the language in the place of a label's name.
func reservedName(tokens []token, k int) bool {
	if tokens[k].kind != tokIdent || !slices.Contains(reserved, strings.ToLower(tokens[k].text)) || k == 0 {
		return false
	}
	before, behind := tokens[k-1], tokens[k+1]
	switch {
	case (before.is("(") || before.is(",")) && (behind.is(",") || behind.is(")")):
		return true
	case before.is("=") || before.kind == tokFlag || slices.ContainsFunc([]string{"json", "logfmt", "unwrap", "drop", "keep", "label_format"}, before.word):
		return true
	}
	return compared(tokens, k+1)
}

func compared(tokens []token, k int) bool {
	return k < len(tokens) && slices.ContainsFunc([]string{"=", "==", "!=", "=~", "!~", ">", ">=", "<", "<="}, tokens[k].is)
}

func endsCondition(t token) bool { return t.kind == tokString || t.kind == tokNumber || t.is(")") }

// signed reports whether the token is the sign of the number of a function, or one apart from the duration or size that is compared.
func signed(tokens []token, k int) bool {
	if k < 2 || !tokens[k].is("-") && !tokens[k].is("+") || tokens[k+1].kind != tokNumber {
		return false
	}
	if compared(tokens, k-1) {
		return !onlyNumber(tokens[k+1].text)
	}
	f := tokens[k-2].text
	return tokens[k-1].is("(") && (f == "vector" || f == "quantile_over_time" || takesParam(VectorOp(f)))
}

// onlyTheirs returns the difference by which we refuse what the grammar reads, nil when it is none that is known.
func onlyTheirs(err error) *difference {
	var se *Error
	if !errors.As(err, &se) {
		return nil
	}
	for i := range differences {
		if slices.ContainsFunc(differences[i].says, func(piece string) bool { return strings.Contains(se.Msg, piece) }) {
			return &differences[i]
		}
	}
	return nil
}

// onlyOurs returns the difference by which we read what the grammar refuses.
func onlyOurs(q string) *difference {
	tokens, err := lex(q)
	if err != nil {
		return nil
	}
	end := len(tokens)
	for range 4 { // so that what follows a token may be asked
		tokens = append(tokens, token{kind: tokEnd, pos: len(q)})
	}
	for i := range differences {
		for k := range end {
			if differences[i].ours != nil && differences[i].ours(tokens, k) {
				return &differences[i]
			}
		}
	}
	return nil
}
