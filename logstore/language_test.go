package logstore

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/triward/triward/logstore/query"
)

// naiveNear reports by trying everything whether at most edits make a into b, each letter being part of one of them.
func naiveNear(a, b []rune, edits int) bool {
	letter := func(w []rune, i int) bool { return i < len(w) && !unicode.IsNumber(w[i]) }
	switch {
	case len(a) == 0 && len(b) == 0:
		return true
	case len(a) > 0 && len(b) > 0 && a[0] == b[0] && naiveNear(a[1:], b[1:], edits):
		return true
	case edits == 0:
		return false
	}
	return letter(a, 0) && naiveNear(a[1:], b, edits-1) || letter(b, 0) && naiveNear(a, b[1:], edits-1) ||
		letter(a, 0) && letter(b, 0) && naiveNear(a[1:], b[1:], edits-1) ||
		letter(a, 0) && letter(b, 0) && letter(a, 1) && letter(b, 1) && a[0] == b[1] && a[1] == b[0] && naiveNear(a[2:], b[2:], edits-1)
}

// fuzzyQuestion asks for words near one of the model's.
func (m *model) fuzzyQuestion() (question, bool) {
	w := []rune(m.phraseOf(1)[0])
	for range 1 + m.rng.IntN(2) {
		if i := m.rng.IntN(len(w)); i > 0 && !unicode.IsNumber(w[i]) {
			w[i] = []rune("abcdexyz")[m.rng.IntN(8)]
		}
	}
	edits := 1 + m.rng.IntN(2)
	text := string(w) + "~" + strconv.Itoa(edits)
	if _, err := query.Parse(text); err != nil {
		return question{}, false
	}
	return question{text, func(r *Row) bool {
		return slices.ContainsFunc(naiveWords(r.Text), func(have string) bool {
			return []rune(have)[0] == w[0] && naiveNear([]rune(have), w, edits)
		})
	}}, true
}

// globQuestion asks for a word of the model with some of its characters replaced by stars.
func (m *model) globQuestion() (question, bool) {
	ws := m.phraseOf(1 + m.rng.IntN(2))
	k := m.rng.IntN(len(ws))
	r := []rune(ws[k])
	for range 1 + m.rng.IntN(2) {
		from := m.rng.IntN(len(r) + 1)
		to := from + m.rng.IntN(len(r)-from+1)
		r = slices.Concat(r[:from], []rune("*"), r[to:])
	}
	ws[k] = string(r)
	text := strings.Join(ws, "-")
	if _, err := query.Parse(text); err != nil || strings.HasPrefix(text, "/") || slices.ContainsFunc(ws, func(w string) bool { return strings.Trim(w, "*") == "" || len(naiveWords([]byte(w))) != 1 }) {
		return question{}, false
	}
	for _, w := range ws { // a star beside a character that is a word by itself has nothing to stand for
		if strings.Contains(w, "*") && slices.ContainsFunc([]rune(w), func(r rune) bool { return len(naiveWords([]byte("a"+string(r)))) == 2 && r != '*' }) {
			return question{}, false
		}
	}
	tests := make([]*regexp.Regexp, len(ws))
	for i, w := range ws {
		tests[i] = regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(w), `\*`, ".*") + "$")
	}
	return question{text, func(row *Row) bool {
		have := naiveWords(row.Text)
		for i := range have {
			ok := i+len(tests) <= len(have)
			for j := 0; ok && j < len(tests); j++ {
				ok = tests[j].MatchString(have[i+j])
			}
			if ok {
				return true
			}
		}
		return false
	}}, true
}

func (m *model) timeQuestion() question {
	at := testDay*DayNs + m.rng.Int64N(3*DayNs)
	to := at + 1 + m.rng.Int64N(DayNs)
	if len(m.rows) > 0 && m.rng.IntN(2) == 0 { // right at the times of lines
		at, to = m.rows[m.rng.IntN(len(m.rows))].T+m.rng.Int64N(2), m.rows[m.rng.IntN(len(m.rows))].T+m.rng.Int64N(2)
		if to <= at {
			to = at + 1
		}
	}
	form := func(ns int64) string { return time.Unix(0, ns).UTC().Format("2006-01-02T15:04:05.999999999") }
	return question{"@" + form(at) + ".." + form(to), func(r *Row) bool { return at <= r.T && r.T < to }}
}

// moreOfTheLanguage asks in the ways that words, fields and phrases do not cover.
func (m *model) moreOfTheLanguage() (question, bool) {
	switch m.rng.IntN(5) {
	case 0:
		return m.timeQuestion(), true
	case 1:
		n := m.rng.IntN(600)
		return question{"code:<" + strconv.Itoa(n), func(r *Row) bool {
			v, err := strconv.ParseFloat(fieldOf(r, "code"), 64)
			return err == nil && v < float64(n)
		}}, true
	case 2:
		return m.globQuestion()
	case 3:
		return m.patternQuestion(), true
	}
	return m.fuzzyQuestion()
}
