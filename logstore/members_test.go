package logstore

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/query"
)

func naiveMember(text []byte, name string) string {
	// Where nothing is escaped a name stands in the text as it is; to look at all of them takes a hundred times as long.
	if !bytes.Contains(text, []byte(name[strings.LastIndexByte(name, '.')+1:])) && !bytes.Contains(text, []byte(`\`)) {
		return ""
	}
	return naiveMembers(text)[name]
}

// naiveMembers returns the fields that a text holds by itself, by the definition and with nothing of package members.
func naiveMembers(text []byte) map[string]string {
	s := strings.Trim(string(text), " \t\r\n")
	n, found := 0, map[string]string{}
	take := func(key, value string, good bool) {
		if n++; n <= 64 && found[key] == "" && value != "" && good && len(value) <= 1024 && len(key) <= 128 && utf8.ValidString(key) && utf8.ValidString(value) {
			found[key] = value
		}
	}
	if strings.HasPrefix(s, "{") {
		if !json.Valid([]byte(s)) {
			return nil
		}
		naiveObject("", s, take)
		return found
	}
	naivePairs(s, take)
	return found
}

func naiveObject(prefix, s string, take func(key, value string, good bool)) {
	dec := json.NewDecoder(strings.NewReader(s))
	_, _ = dec.Token()
	for dec.More() {
		key, _ := dec.Token()
		var v json.RawMessage
		_ = dec.Decode(&v)
		name := prefix + key.(string)
		switch v[0] {
		case '{':
			naiveObject(name+".", string(v), take)
		case '[', 'n':
		case '"':
			var text string
			_ = json.Unmarshal(v, &text)
			take(name, text, true)
		default:
			take(name, string(v), true)
		}
	}
}

var (
	naiveQuoted = regexp.MustCompile(`(?s)^([^\x00-\x20="]+)="((?:[^"\\]|\\.)*)"[,;]?([^\x00-\x20]*)`)
	naiveOpen   = regexp.MustCompile(`^[^\x00-\x20="]+="`)
	naiveToken  = regexp.MustCompile(`^[^\x00-\x20]+`)
	naiveBare   = regexp.MustCompile(`^([^="]+)=([^"]*)$`)
	naiveName   = regexp.MustCompile(`^[a-zA-Z_@\x{80}-\x{10ffff}][a-zA-Z0-9_@./\x{80}-\x{10ffff}-]*$`)
)

func naivePairs(s string, take func(key, value string, good bool)) {
	for {
		if s = strings.TrimLeftFunc(s, func(r rune) bool { return r <= ' ' }); s == "" {
			return
		}
		if m := naiveQuoted.FindStringSubmatch(s); m != nil {
			s = s[len(m[0]):]
			var text string
			bad := json.Unmarshal([]byte(`"`+m[2]+`"`), &text) != nil
			if naiveName.MatchString(m[1]) && m[3] == "" {
				take(m[1], text, !bad)
			}
			continue
		}
		if naiveOpen.MatchString(s) {
			return // a quote that does not end
		}
		token := naiveToken.FindString(s)
		s = s[len(token):]
		if m := naiveBare.FindStringSubmatch(token); m != nil && naiveName.MatchString(m[1]) {
			value := m[2]
			if strings.HasSuffix(value, ",") || strings.HasSuffix(value, ";") {
				value = value[:len(value)-1]
			}
			take(m[1], value, true)
		}
	}
}

// memberText is a text that may hold fields by itself, or nearly so.
func (m *model) memberText() []byte {
	value := func() string {
		switch m.rng.IntN(5) {
		case 0:
			return strconv.Itoa(m.rng.IntN(600))
		case 1:
			return m.word() + " " + m.hex(3)
		case 2:
			return "/api/v" + strconv.Itoa(m.rng.IntN(3)) + "/" + m.word()
		}
		return m.word()
	}
	escaped := func(s string) string { // as Go, as Python or as nobody does it
		if m.rng.IntN(3) > 0 {
			b, _ := json.Marshal(s + []string{"", "", "<b>", "\n"}[m.rng.IntN(4)])
			return string(b)
		}
		return strconv.QuoteToASCII(s)
	}
	names := []string{"user", "code", "took", "level", "host", "状态", "path", "face"}
	name := func() string { return names[m.rng.IntN(len(names))] }
	var b []byte
	switch m.rng.IntN(4) {
	case 0:
		b = append(b, '{')
		for i := range m.rng.IntN(5) {
			if i > 0 {
				b = append(b, ',')
			}
			switch b = append(strconv.AppendQuote(b, name()), ':'); m.rng.IntN(8) {
			case 0:
				b = fmt.Appendf(b, `{"%s":%s,"x":[%d,{"user":"in"}]}`, name(), escaped(value()), m.rng.IntN(9))
			case 1:
				b = append(b, []string{"null", "true", "[1]", "-1.5e2", `""`, "{}"}[m.rng.IntN(6)]...)
			case 2, 3:
				b = strconv.AppendInt(b, m.rng.Int64N(600), 10)
			default:
				b = append(b, escaped(value())...)
			}
		}
		b = append(b, []string{"}", "}", "}", " }\n", "", "}}"}[m.rng.IntN(6)]...)
	case 1:
		for range 1 + m.rng.IntN(70) {
			b = fmt.Appendf(b, "%s%d=%d ", name(), m.rng.IntN(40), m.rng.IntN(9))
		}
		b = fmt.Appendf(b, "user=%s", m.word())
	default:
		for range m.rng.IntN(6) {
			switch m.rng.IntN(6) {
			case 0:
				b = fmt.Appendf(b, "%s=%s%s ", name(), escaped(value()), []string{"", ",", ";", "x"}[m.rng.IntN(4)])
			case 1:
				b = fmt.Appendf(b, "%s ", m.token())
			case 2:
				b = fmt.Appendf(b, "%s=%s, ", name(), m.word())
			case 3:
				b = fmt.Appendf(b, "(%s=%d) ", name(), m.rng.IntN(600))
			default:
				b = fmt.Appendf(b, "%s=%d ", name(), m.rng.IntN(600))
			}
		}
	}
	return b
}

// memberQuestion asks for a field that texts hold.
func (m *model) memberQuestion() question {
	name := []string{"user", "code", "path", "code.user", "user.x", "状态", "face", "host"}[m.rng.IntN(8)]
	field := name
	if strings.Contains(name, "状") {
		field = `"` + name + `"`
	}
	some := m.word()
	if len(m.rows) > 0 && m.rng.IntN(3) > 0 {
		for range 50 {
			if v := fieldOf(&m.rows[m.rng.IntN(len(m.rows))], name); v != "" {
				some = v
				break
			}
		}
	}
	same := func(v, want string) bool {
		a, b := naiveFold(v), naiveFold(want)
		return a == b
	}
	switch m.rng.IntN(5) {
	case 0:
		n := m.rng.IntN(600)
		return question{fmt.Sprintf("%s:>%d", field, n), func(r *Row) bool {
			v, err := strconv.ParseFloat(fieldOf(r, name), 64)
			return err == nil && v > float64(n)
		}}
	case 1:
		return question{field + ":*", func(r *Row) bool { return fieldOf(r, name) != "" }}
	case 2:
		k := []rune(some)
		start := string(k[:1+m.rng.IntN(len(k))])
		return question{field + ":" + quote(start) + "*", func(r *Row) bool {
			return strings.HasPrefix(naiveFold(fieldOf(r, name)), naiveFold(start))
		}}
	case 3:
		return question{field + ":/^[a-f]/", func(r *Row) bool {
			v := fieldOf(r, name)
			return v != "" && v[0] >= 'a' && v[0] <= 'f'
		}}
	}
	return question{field + ":" + quote(some), func(r *Row) bool {
		v := fieldOf(r, name)
		return v != "" && same(v, some)
	}}
}

// naiveFold folds what may be no UTF-8 byte by byte.
func naiveFold(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && n <= 1 {
			b.WriteByte(s[i])
		} else {
			for _, w := range naiveWords([]byte(string(r))) {
				b.WriteString(w)
			}
			if len(naiveWords([]byte(string(r)))) == 0 {
				b.WriteRune(r)
			}
		}
		i += n
	}
	return b.String()
}

// checkFacets compares the counts of a field with the model's.
func (m *model) checkFacets(t *testing.T, s *Store, req Request, q question, want []Row) {
	t.Helper()
	for _, name := range []string{"user", "code", "状态", "code.user", "host"}[m.rng.IntN(5):][:1] {
		counts, lines := map[string]int64{}, int64(0)
		for i := range want {
			if v := fieldOf(&want[i], name); v != "" {
				counts[v]++
				lines++
			}
		}
		req.Limit = MaxFacets
		got, err := s.Facets(t.Context(), req, name)
		if err != nil || got.Lines != lines || len(got.Values) != min(len(counts), MaxFacets) {
			t.Fatalf("facets of %s in %q: %+v %v, want %d values in %d lines", name, q.text, got, err, len(counts), lines)
		}
		for _, v := range got.Values {
			if counts[v.Value] != v.Count {
				t.Fatalf("facets of %s in %q: %q in %d lines, want %d", name, q.text, v.Value, v.Count, counts[v.Value])
			}
		}
	}
}

// A name that no field has, by its characters or its length, is that of no field in a block of templates either.
func TestNamesThatNoFieldHas(t *testing.T) {
	s := testStore(t, t.TempDir(), Options{templateLines: 1})
	names := []string{"x\ty", "x\x7f", "\xffx", "\xff", strings.Repeat("long", wire.MaxLabelName/4) + "er", "good"}
	var lines []wire.LogLine
	for i, name := range names {
		for k := range 4 {
			form := `{"%s":%d}`
			if k%2 == 1 {
				form = "%s=%d"
			}
			lines = append(lines, wire.LogLine{T: testDay*DayNs + int64(len(lines)), Text: fmt.Appendf(nil, form, name, i)})
		}
		for range 4 { // so that there is a template
			lines = append(lines, slices.Clone(lines[len(lines)-4:])...)
		}
	}
	b := wire.LogBatch{Streams: []wire.LogStream{{Kind: wire.StreamLog, Labels: wire.LabelsFromMap(map[string]string{"host": "web-1"}), Lines: lines}}}
	e := wire.LogEntry{Index: 1, Batches: []wire.AcceptedLogs{{Agent: "a", Body: wire.AppendLogs(nil, &b), Batch: &b}}}
	if err := s.ApplyLogs(1, []wire.LogEntry{e}); err != nil {
		t.Fatal(err)
	}
	for _, sealed := range []bool{false, true} {
		if sealed {
			if err := s.Work(t.Context(), true); err != nil {
				t.Fatal(err)
			}
		}
		for i, name := range names {
			want := 0
			if name == "good" {
				want = 20
			}
			for how, f := range map[string]*query.Filter{
				"exists": query.Field(name, query.Exists, ""), "is": query.Field(name, query.Equal, fmt.Sprint(i)), "more": query.FieldNumber(name, query.Greater, -1),
			} {
				a, err := s.Search(t.Context(), Request{Filter: f})
				if err != nil || len(a.Rows) != want {
					t.Errorf("%q %s, sealed %v: %d lines, want %d; %v", name, how, sealed, len(a.Rows), want, err)
				}
			}
		}
	}
}

// Fields that texts hold are found wherever lines are, by their names in all ways to ask.
func TestMembersAreFieldsWhereverLinesAre(t *testing.T) {
	s := testStore(t, t.TempDir(), Options{})
	line := func(text string, fields ...wire.Label) wire.LogLine {
		return wire.LogLine{T: testDay * DayNs, Text: []byte(text), Fields: fields}
	}
	lines := []wire.LogLine{
		line(`{"level":"error","status":503,"req":{"path":"/api/v1/users","id":7}}`),
		line(`level=warn status=200 req.path=/api/v2 msg="磁盘 full"`),
		line("plain text with status and 503"),
		line(`{"status":"none"}`, wire.Label{Name: "status", Value: "404"}),
		line(`{"host":"other","unit":"x"}`),
		line(`{"状态":"正常"}`),
	}
	b := wire.LogBatch{Streams: []wire.LogStream{{Kind: wire.StreamLog, Labels: wire.LabelsFromMap(map[string]string{"host": "web-1"}), Lines: lines}}}
	e := wire.LogEntry{Index: 1, Batches: []wire.AcceptedLogs{{Agent: "a", Body: wire.AppendLogs(nil, &b), Batch: &b}}}
	if err := s.ApplyLogs(1, []wire.LogEntry{e}); err != nil {
		t.Fatal(err)
	}
	for _, sealed := range []bool{false, true} {
		if sealed {
			if err := s.Work(t.Context(), true); err != nil {
				t.Fatal(err)
			}
		}
		for _, c := range []struct {
			query string
			want  []uint32
		}{
			{"status:>499", []uint32{0}},
			{"status>=200 status<503", []uint32{1, 3}},
			{"status:none", nil},
			{`status:""`, []uint32{2, 4, 5}},
			{"req.path:/api*", []uint32{0, 1}},
			{"req.path:*/users", []uint32{0}},
			{`req.path:/v\d$/`, []uint32{1}},
			{"req.id:7 req.path:*", []uint32{0}},
			{`msg:"磁盘 FULL"`, []uint32{1}},
			{"host:other", nil},
			{"unit:x -status:*", []uint32{4}},
			{`"状态":正常 OR "req.id":7`, []uint32{0, 5}},
			{`状态:正常`, []uint32{5}}, // words in a row
		} {
			f, err := query.Parse(c.query)
			if err != nil {
				t.Fatalf("%s: %v", c.query, err)
			}
			a, err := s.Search(t.Context(), Request{Filter: f, Direction: OldestFirst})
			if err != nil {
				t.Fatal(err)
			}
			var got []uint32
			for _, r := range a.Rows {
				got = append(got, r.Ord)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("%s, sealed %v: lines %v, want %v", c.query, sealed, got, c.want)
			}
		}
		got, err := s.Suggest(t.Context(), SuggestRequest{Kind: SuggestName, Prefix: "re"})
		if err != nil || len(got.Items) != 2 || got.Items[0].Text != "req.path" || got.Items[0].Lines != 2 || got.Items[1].Text != "req.id" {
			t.Errorf("sealed %v: names %+v %v", sealed, got, err)
		}
		got, err = s.Suggest(t.Context(), SuggestRequest{Kind: SuggestValue, Field: "status", Prefix: "5"})
		if err != nil || len(got.Items) != 1 || got.Items[0].Text != "503" {
			t.Errorf("sealed %v: values %+v %v", sealed, got, err)
		}
		hits, err := s.HitsBy(t.Context(), Request{Start: testDay * DayNs, End: testDay*DayNs + 1e9}, 1e9, "status", 5)
		if err != nil || hits.Total != 6 || len(hits.Groups) != 3 || hits.None[0] != 3 {
			t.Errorf("sealed %v: hits %+v %v", sealed, hits, err)
		}
	}
}
