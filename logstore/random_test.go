package logstore

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/query"
)

// model is a naive log store: all lines in a list, and the entries that brought them.
type model struct {
	rng     *rand.Rand
	entries []wire.LogEntry
	rows    []Row
	index   uint64
	words   []string
}

const testDay = int64(20000) // a day in 2024

func newModel(seed uint64) *model {
	m := &model{rng: rand.New(rand.NewPCG(seed, 7))}
	for range 30 {
		m.words = append(m.words, m.letters(2+m.rng.IntN(8)))
	}
	m.words = append(m.words, "Error", "TIMEOUT", "磁盘", "错误", "磁盘空间不足", "Ünïcode", "İstanbul", "ſtraße", "\u212Aelvin", "0x1F", "v2", "９９", "ー", "한글",
		strings.Repeat("long", 15), strings.Repeat("é", 30), "deadbeef", "beef")
	return m
}

func (m *model) letters(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = "abcdeXYZ"[m.rng.IntN(8)]
	}
	return string(b)
}

func (m *model) word() string { return m.words[m.rng.IntN(len(m.words))] }

func (m *model) hex(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = "0123456789abcdef"[m.rng.IntN(16)]
	}
	return string(b)
}

func (m *model) token() string {
	switch m.rng.IntN(14) {
	case 0:
		return m.hex(8) + "-" + m.hex(4) + "-" + m.hex(4) + "-" + m.hex(12)
	case 1:
		return "https://" + m.word() + ".example.com:8080/" + m.word() + "?q=" + m.hex(3)
	case 2:
		return "\tat " + m.word() + "." + m.word() + "(" + m.word() + ".java:" + strconv.Itoa(m.rng.IntN(300)) + ")\n"
	case 3:
		b := make([]byte, m.rng.IntN(12))
		for i := range b {
			b[i] = byte(m.rng.Uint32())
		}
		return string(b)
	case 4:
		return fmt.Sprintf("%d.%d.%d.%d", m.rng.IntN(256), m.rng.IntN(256), m.rng.IntN(3), m.rng.IntN(3))
	case 5:
		return m.word() + strconv.Itoa(m.rng.IntN(50))
	case 6:
		return m.word() + "=" + m.word()
	}
	return m.word()
}

func (m *model) text() []byte {
	var b bytes.Buffer
	if m.rng.IntN(4) == 0 {
		return m.memberText()
	}
	switch m.rng.IntN(6) { // lines of one form
	case 0:
		return fmt.Appendf(nil, "%s connection %d from 10.0.%d.%d: %s %s", []string{"INFO", "Error"}[m.rng.IntN(2)], m.index, m.rng.IntN(3), m.rng.IntN(256),
			m.words[m.rng.IntN(4)], m.hex(4))
	case 1:
		return fmt.Appendf(nil, "磁盘%d号 user=%s deadbeef=>%s blk_%d\xff%d", m.rng.IntN(5), m.word(), m.hex(8), m.rng.IntN(50), m.rng.IntN(50))
	case 2:
		return fmt.Appendf(nil, `{"code":%d,"user":"u%d","msg":"磁盘空间不足 %s"}`, m.rng.IntN(600), m.rng.IntN(9), m.hex(3))
	}
	for range m.rng.IntN(12) {
		b.WriteString(m.token())
		b.WriteString([]string{" ", ", ", "", "  ", "=>", "\xff"}[m.rng.IntN(6)])
	}
	return b.Bytes()
}

// entry makes the next entry of the log.
func (m *model) entry() wire.LogEntry {
	m.index += 1 + m.rng.Uint64N(3)
	e := wire.LogEntry{Index: m.index}
	ord := uint32(0)
	for range m.rng.IntN(4) {
		var b wire.LogBatch
		for range m.rng.IntN(4) {
			st := wire.LogStream{Kind: wire.StreamLog, Labels: wire.LabelsFromMap(map[string]string{
				"host": fmt.Sprintf("web-%d", m.rng.IntN(3)), "unit": m.words[m.rng.IntN(3)],
			})}
			if m.rng.IntN(5) == 0 {
				st.Kind = wire.StreamEvent
			}
			for range m.rng.IntN(20) {
				t := testDay*DayNs + m.rng.Int64N(3*DayNs)
				if m.rng.IntN(2) == 0 {
					t -= t % 3600e9 // many equal times
				}
				l := wire.LogLine{T: t, Severity: wire.Severity(m.rng.IntN(7)), Text: m.text()}
				f := map[string]string{}
				if m.rng.IntN(3) == 0 {
					f["code"] = strconv.Itoa(m.rng.IntN(600))
					if m.rng.IntN(2) == 0 {
						f["user"] = m.word()
					}
					if m.rng.IntN(3) > 0 { // blocks have few of them, near each other or strange
						f["took"] = strconv.FormatFloat(float64(m.index)+m.rng.Float64()*9, 'f', m.rng.IntN(3), 64)
						if m.rng.IntN(9) == 0 {
							f["took"] = []string{"NaN", "-1e3", "inf", "5ms", ""}[m.rng.IntN(5)]
						}
					}
					if m.rng.IntN(4) == 0 {
						f["host"] = "never seen: the label goes first"
					}
				}
				l.Fields = wire.LabelsFromMap(f)
				st.Lines = append(st.Lines, l)
				m.rows = append(m.rows, Row{T: t, Position: Position{m.index, ord}, Kind: st.Kind, Severity: l.Severity, Labels: st.Labels, Fields: l.Fields, Text: l.Text})
				ord++
			}
			b.Streams = append(b.Streams, st)
		}
		a := wire.AcceptedLogs{Agent: "a", Body: wire.AppendLogs(nil, &b), Batch: &b}
		if len(m.entries)%3 == 0 {
			a.Body = nil // the store makes the body itself
		}
		e.Batches = append(e.Batches, a)
	}
	m.entries = append(m.entries, e)
	return e
}

// question is a query in three forms: as text, as parsed, and as a naive decision.
type question struct {
	text string
	is   func(*Row) bool
}

// naive words: an implementation of the definition that shares no code with package words.
func naiveWords(text []byte) []string {
	var out []string
	var cur []rune
	flush := func() {
		if len(cur) > 0 {
			out = append(out, string(cur))
			cur = nil
		}
	}
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		bad := r == utf8.RuneError && n == 1
		text = text[n:]
		low := unicode.ToLower(r)
		if r >= 128 && low < 128 {
			low = r
		}
		switch {
		case !bad && (unicode.Is(unicode.Han, r) || unicode.Is(unicode.Hiragana, r) || unicode.Is(unicode.Katakana, r) || unicode.Is(unicode.Hangul, r)):
			flush()
			out = append(out, string(low))
		case !bad && (unicode.IsLetter(r) || unicode.IsNumber(r) || unicode.IsMark(r)):
			cur = append(cur, low)
		default:
			flush()
		}
	}
	flush()
	return out
}

func naivePhrase(ws []string, prefix bool) func(*Row) bool {
	return func(r *Row) bool {
		have := naiveWords(r.Text)
		for i := range have {
			ok := i+len(ws) <= len(have)
			for j := 0; ok && j < len(ws); j++ {
				ok = have[i+j] == ws[j] || prefix && j == len(ws)-1 && strings.HasPrefix(have[i+j], ws[j])
			}
			if ok {
				return true
			}
		}
		return false
	}
}

func fieldOf(r *Row, name string) string {
	if v := r.Labels.Get(name); v != "" {
		return v
	}
	if v := wire.Labels(r.Fields).Get(name); v != "" {
		return v
	}
	return naiveMember(r.Text, name)
}

func quote(s string) string {
	return `"` + strings.ReplaceAll(strings.ReplaceAll(s, `\`, `\\`), `"`, `\"`) + `"`
}

func (m *model) phraseOf(n int) []string {
	if len(m.rows) > 0 {
		ws := naiveWords(m.rows[m.rng.IntN(len(m.rows))].Text)
		if len(ws) >= n {
			i := m.rng.IntN(len(ws) - n + 1)
			return slices.Clone(ws[i : i+n])
		}
	}
	return []string{strings.ToLower(m.letters(3))}
}

func (m *model) ask(depth int) question {
	if depth > 0 {
		switch m.rng.IntN(5) {
		case 0:
			a, b := m.ask(depth-1), m.ask(depth-1)
			return question{"(" + a.text + " " + b.text + ")", func(r *Row) bool { return a.is(r) && b.is(r) }}
		case 1:
			a, b := m.ask(depth-1), m.ask(depth-1)
			return question{"(" + a.text + " OR " + b.text + ")", func(r *Row) bool { return a.is(r) || b.is(r) }}
		case 2:
			a := m.ask(depth - 1)
			return question{"-" + a.text, func(r *Row) bool { return !a.is(r) }}
		}
	}
	if m.rng.IntN(4) == 0 {
		return m.memberQuestion()
	}
	if m.rng.IntN(3) == 0 {
		if q, ok := m.moreOfTheLanguage(); ok {
			return q
		}
	}
	switch m.rng.IntN(12) {
	case 0:
		return question{"*", func(*Row) bool { return true }}
	case 1:
		ws := m.phraseOf(1)
		k := []rune(ws[0])
		ws[0] = string(k[:1+m.rng.IntN(len(k))])
		return question{quote(ws[0]) + "*", naivePhrase(ws, true)}
	case 2:
		ws := m.phraseOf(2 + m.rng.IntN(3))
		return question{quote(strings.Join(ws, " ")), naivePhrase(ws, false)}
	case 3:
		ws := m.phraseOf(2)
		k := []rune(ws[len(ws)-1])
		ws[len(ws)-1] = string(k[:1+m.rng.IntN(len(k))])
		return question{quote(strings.Join(ws, "/")) + "*", naivePhrase(ws, true)}
	case 4:
		re := []string{`[0-9a-f]{4}-`, `(?i)error`, `at .*\(`, `example\.com:8080/\w+`, `磁盘.*足`, `beef$`, `^$`, `(abc|X)Y`, ` deadbeef `}[m.rng.IntN(9)]
		c := regexp.MustCompile(re)
		return question{"/" + strings.ReplaceAll(re, "/", `\/`) + "/", func(r *Row) bool { return c.Match(r.Text) }}
	case 5:
		h := fmt.Sprintf("web-%d", m.rng.IntN(4))
		return question{"host:" + strings.ToUpper(h), func(r *Row) bool { return fieldOf(r, "host") == h }}
	case 6:
		return m.askNumber()
	case 7:
		s := wire.Severity(m.rng.IntN(7))
		if m.rng.IntN(2) == 0 {
			return question{"severity:" + s.String(), func(r *Row) bool { return r.Severity == s }}
		}
		return question{"severity>" + s.String(), func(r *Row) bool { return r.Severity > s }}
	case 8:
		return question{"kind:event", func(r *Row) bool { return r.Kind == wire.StreamEvent }}
	case 9:
		return question{`"=>"`, func(r *Row) bool { return bytes.Contains(r.Text, []byte("=>")) }}
	case 10:
		return question{"user:*", func(r *Row) bool { return fieldOf(r, "user") != "" }}
	}
	ws := m.phraseOf(1)
	return question{quote(strings.ToUpper(ws[0])), naivePhrase(naiveWords([]byte(strings.ToUpper(ws[0]))), false)}
}

// askNumber compares a field, which structured fields or texts hold, with a number.
func (m *model) askNumber() question {
	name, n := "code", float64(m.rng.IntN(600))
	if m.rng.IntN(3) > 0 {
		name, n = "took", float64(m.rng.IntN(int(m.index)+12))
	}
	cmp := []string{"<", "<=", ">", ">="}[m.rng.IntN(4)]
	return question{fmt.Sprintf("%s%s%v", name, cmp, n), func(r *Row) bool {
		v, err := strconv.ParseFloat(fieldOf(r, name), 64)
		if err != nil {
			return false
		}
		return map[string]bool{"<": v < n, "<=": v <= n, ">": v > n, ">=": v >= n}[cmp]
	}}
}

func (m *model) find(q question, start, end int64, newest bool) []Row {
	var out []Row
	for i := range m.rows {
		r := &m.rows[i]
		if r.T >= start && (end == 0 || r.T < end) && q.is(r) {
			out = append(out, *r)
		}
	}
	slices.SortFunc(out, func(a, b Row) int {
		less := a.T < b.T || a.T == b.T && a.Position.Compare(b.Position) < 0
		if less != newest {
			return -1
		}
		return 1
	})
	return out
}

func sameRow(a, b *Row) bool {
	return a.T == b.T && a.Position == b.Position && a.Kind == b.Kind && a.Severity == b.Severity &&
		slices.Equal(a.Labels, b.Labels) && slices.Equal(a.Fields, b.Fields) && bytes.Equal(a.Text, b.Text)
}

// check compares the store with the model on n random questions.
func (m *model) check(t *testing.T, s *Store, n int, floor int64) {
	t.Helper()
	for range rounds(n, min(n, 3)) {
		q := m.ask(2)
		f, err := query.Parse(q.text)
		if err != nil {
			t.Fatalf("parse %q: %v", q.text, err)
		}
		m.checkQuestion(t, s, f, q, floor)
	}
}

// checkQuestion compares the answers to a question, of which f is the filter, with the model: over a random time, in a random order.
func (m *model) checkQuestion(t *testing.T, s *Store, f *query.Filter, q question, floor int64) {
	t.Helper()
	start := testDay*DayNs + m.rng.Int64N(2*DayNs)
	end := start + 1 + m.rng.Int64N(2*DayNs)
	if m.rng.IntN(2) == 0 {
		start, end = minTime, 0
	}
	newest := m.rng.IntN(2) == 0
	want := m.find(q, max(start, floor), end, newest)
	req := Request{Filter: f, Start: start, End: end, Limit: MaxRows}
	if m.rng.IntN(3) == 0 {
		req.Limit = 1 + len(want)/4
	}
	if !newest {
		req.Direction = OldestFirst
	}
	var got []Row
	for {
		a, err := s.Search(t.Context(), req)
		if err != nil || a.Stats.Partial {
			t.Fatalf("search %q: %v %+v", q.text, err, a)
		}
		got = append(got, a.Rows...)
		if req.Cursor = a.Next; a.Next == "" {
			break
		}
		if len(a.Rows) != req.Limit {
			t.Fatalf("search %q: page of %d rows with a next", q.text, len(a.Rows))
		}
	}
	if len(got) != len(want) {
		t.Fatalf("search %q [%d %d): %d rows, want %d; %s", q.text, start, end, len(got), len(want), firstDifference(got, want))
	}
	for i := range got {
		if !sameRow(&got[i], &want[i]) {
			t.Fatalf("search %q: row %d is %+v, want %+v", q.text, i, got[i], want[i])
		}
	}
	req.Cursor = ""
	m.checkWalk(t, s, req, q, want)
	if m.rng.IntN(3) == 0 {
		m.checkPatterns(t, s, req, q, floor, want)
	}
	if end != 0 {
		m.checkHits(t, s, req, q, want)
		m.checkHitsBy(t, s, req, q, want)
		m.checkFacets(t, s, req, q, want)
	}
}

func firstDifference(got, want []Row) string {
	have := map[Position]bool{}
	for i := range got {
		have[got[i].Position] = true
	}
	for i := range want {
		if !have[want[i].Position] {
			return fmt.Sprintf("missing %v %q", want[i].Position, want[i].Text)
		}
	}
	return "too many"
}

func (m *model) checkHits(t *testing.T, s *Store, req Request, q question, want []Row) {
	t.Helper()
	step := []int64{3600e9, 6 * 3600e9, DayNs, 7e9 * 1000}[m.rng.IntN(4)]
	h, err := s.Hits(t.Context(), req, step)
	if err != nil {
		t.Fatalf("hits %q: %v", q.text, err)
	}
	counts := map[[2]int64]int64{}
	for i := range want {
		counts[[2]int64{int64(want[i].Severity), (want[i].T - h.T0) / step}]++
	}
	if h.Total != int64(len(want)) {
		t.Fatalf("hits %q: total %d, want %d", q.text, h.Total, len(want))
	}
	for sev, cs := range h.Counts {
		for b, n := range cs {
			if counts[[2]int64{int64(sev), int64(b)}] != n {
				t.Fatalf("hits %q: severity %d interval %d: %d", q.text, sev, b, n)
			}
		}
	}
}
