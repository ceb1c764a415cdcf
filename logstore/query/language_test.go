package query

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/triward/triward/agent/wire"
)

// decides checks what Match, the filter reduced to the stream and Select say of a line.
func decides(t *testing.T, text string, line *Line, want bool) {
	t.Helper()
	f, err := Parse(text)
	if err != nil {
		t.Errorf("%q: %v", text, err)
		return
	}
	if got := f.Match(line); got != want {
		t.Errorf("%q on %q: %v, want %v", text, line.Text, got, want)
	}
	r := f.Reducer()
	s := r.Block(r.Stream(line.Kind, line.Labels.Get), headerOf(line.Severity, true))
	b := &Lines{
		N: 1, Severities: []byte{byte(line.Severity)}, Times: []int64{line.T}, Text: line.Text, Ends: []uint32{uint32(len(line.Text))},
		Fields: [][]wire.Label{line.Fields},
	}
	if got := s.Select(b, Range(1, 0, 1)).Has(0); got != want {
		t.Errorf("%q on %q: Select says %v, want %v", text, line.Text, got, want)
	}
	rest, from, to := f.Timed()
	if got := from <= line.T && line.T <= to && rest.Match(line); got != want {
		t.Errorf("%q on %q: within %d to %d %v, want %v", text, line.Text, from, to, got, want)
	}
}

func TestFuzzyAndWildcards(t *testing.T) {
	line := &Line{
		Text:   []byte("Upstream Conection refused: connect=ECONNREFUSED web01 node12x file /var/log/nginx/access.log 磁盘空间不足abc ÜBER"),
		Labels: wire.Labels{{Name: "file", Value: "/var/log/nginx/access.log"}, {Name: "host", Value: "Web-12-Prod"}},
		Fields: []wire.Label{{Name: "code", Value: "503"}, {Name: "odd", Value: ">5"}},
	}
	for text, want := range map[string]bool{
		// ~: OSA distance, first letter and numbers as they are
		"connection~": true, "connection~1": true, "conenntion~1": false, "conenntion~2": true, "upstraem~1": true, "upstrea~1": true,
		"onection~2": false, "refusd~": true, "wbe01~1": true, "wep01~1": true, "web02~": false, "web1~": false, "nodde12x~1": true,
		"node12y~1": true, "node13x~2": false, "überr~1": true, "ÜBR~1": true, "-connection~": false, "upstream~ refusedd~1": true,
		"config~x": false, "~/var": true, "=~": false, "nginx~1 OR nothing": true,
		// stars
		"conn*": true, "conn*refused": false, "*conn*refused": true, "econn*refused": true, "*refused": true, "*stream": true, "*strea": false,
		"e*n*n*d": true, "up*am": true, "UP*AM": true, "w*01": true, "w*02": false, "node*x": true, "no*12*": true, "a*s.log": true, "/var/*/nginx": true,
		"/var/*/access": false, "var/*/*/access": true, "*.log": true, "upstream=*": true, "足*c": true, "足abc*": true, "足*x": false,
		"*磁盘": true, "磁盘*": true, "über*": true, "*ber": true, "**": true, "ref*ed:con*": true, "-conn*t": false, `"conn*t"`: false,
		// stars in values
		"file:*access*": true, "file:/var/*/access.log": true, "file:/var/*/error.log": false, "host:web-*-prod": true, "host:web-*-PROD": true,
		"host:*12*": true, "host:web*x": false, "file:*.log": true, "file:*.log.*": false, "nothing:*a*": false,
		// comparisons behind a colon
		"code:>500": true, "code:>=503": true, "code:<503": false, "code:<=503.0": true, "severity:>=unknown": true, "severity:>debug": false,
		`odd:">5"`: true,
	} {
		decides(t, text, line, want)
	}
}

func TestTimesInTheText(t *testing.T) {
	at := func(s string) int64 {
		v, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			t.Fatal(err)
		}
		return v.UnixNano()
	}
	for _, k := range []struct{ text, in, out string }{
		{"@2026-11-27", "2026-11-27T00:00:00Z 2026-11-27T23:59:59.999999999Z", "2026-11-26T23:59:59.999999999Z 2026-11-28T00:00:00Z"},
		{"@2026-11-27T10", "2026-11-27T10:59:59Z", "2026-11-27T11:00:00Z 2026-11-27T09:59:59Z"},
		{"@2026-11-27T10:07", "2026-11-27T10:07:59Z", "2026-11-27T10:08:00Z"},
		{"@2026-11-27T10:07:05", "2026-11-27T10:07:05.9Z", "2026-11-27T10:07:06Z"},
		{"@2026-11-27T10:07:05.25", "2026-11-27T10:07:05.259Z", "2026-11-27T10:07:05.26Z"},
		{"@2026-11-27T10:00..11:00", "2026-11-27T10:00:00Z 2026-11-27T10:59:59.9Z", "2026-11-27T11:00:00Z 2026-11-27T09:59:59Z"},
		{"@2026-11-27T10:00..11:00:30.5", "2026-11-27T11:00:30.4Z", "2026-11-27T11:00:30.5Z"},
		{"@2026-11-25..2026-11-27", "2026-11-25T00:00:00Z 2026-11-27T23:59:59Z", "2026-11-28T00:00:00Z"},
		{"@2026-11-27T10:00+08:00..11:00", "2026-11-27T02:00:00Z", "2026-11-27T03:00:00Z 2026-11-27T10:30:00Z"},
		{"@2026-11-27T10:00Z..2026-11-27T19:00+08:00", "2026-11-27T10:59:59Z", "2026-11-27T11:00:00Z"},
		{"@2026-11-27T10:00..", "2026-11-27T10:00:00Z 2200-01-01T00:00:00Z", "2026-11-27T09:59:59Z"},
		{"@..2026-11-27T10:00", "1970-01-01T00:00:00Z 2026-11-27T09:59:59Z", "2026-11-27T10:00:00Z"},
		{"NOT @2026-11-27", "2026-11-26T00:00:00Z", "2026-11-27T10:00:00Z"},
		{"(@2026-11-27 OR @2026-11-29) -@2026-11-27T10", "2026-11-27T11:00:00Z 2026-11-29T10:00:00Z", "2026-11-28T00:00:00Z 2026-11-27T10:10:00Z"},
		{"@2026-11-27 text", "2026-11-27T11:00:00Z", "2026-11-28T11:00:00Z"},
	} {
		for _, s := range strings.Fields(k.in) {
			decides(t, k.text, &Line{T: at(s), Text: []byte("text")}, true)
		}
		for _, s := range strings.Fields(k.out) {
			decides(t, k.text, &Line{T: at(s), Text: []byte("text")}, false)
		}
	}
	for text, want := range map[string]bool{`"@2026"`: true, "@version:1": false, "a@2026": false, "@": true} {
		decides(t, text, &Line{Text: []byte("x @2026")}, want)
	}
	f, err := Parse("@2026-11-27 a (b OR @2026-11-20) @2026-11-26..2026-11-27T12:00")
	if err != nil {
		t.Fatal(err)
	}
	if _, from, to := f.Timed(); from != at("2026-11-27T00:00:00Z") || to != at("2026-11-27T12:00:00Z")-1 {
		t.Errorf("the lines are from %d to %d", from, to)
	}
}

func TestErrorsOfTheLanguageNameThePlace(t *testing.T) {
	for text, want := range map[string]struct {
		pos int
		say string
	}{
		"a fo~":                         {2, "any word"},
		"foo~3":                         {4, "1 or 2 edits"},
		"foo~2":                         {0, "~2 needs 4 letters"},
		"404~":                          {0, "numbers are never guessed"},
		"disk-full~":                    {9, "one word"},
		"磁盘~":                           {6, "one word"},
		"x (=foo~":                      {7, "directly behind a word"},
		"foo.~":                         {4, "directly behind a word"},
		strings.Repeat("a", 99) + "~":   {0, "too long"},
		"错*误":                           {3, "误 is a word by itself"},
		"a =*=":                         {2, "no letter or number"},
		strings.Repeat("a*", 20):        {0, "at most 16"},
		"f:" + strings.Repeat("a*", 20): {2, "at most 16"},
		`ab*"c"`:                        {2, "before a quote"},
		"severity:e*r":                  {9, "not a pattern"},
		"kind:*o*":                      {5, "not a pattern"},
		"code:>x":                       {6, "takes a number"},
		`code:>"5"`:                     {6, "takes a number"},
		"a @2026-13-01":                 {3, "is no time"},
		"@2026-11-27..x":                {13, "is no time"},
		"@10:00..11:00":                 {1, "is no time"},
		"@2026-11-27T11:00..10:00":      {19, "behind the beginning"},
		"@2026-11-27..2026-11-26":       {13, "behind the beginning"},
		"@2026-11-2*":                   {10, "takes no *"},
		"@9999-01-01":                   {1, "out of range"},
		"@0001-01-01..":                 {1, "out of range"},
	} {
		_, err := Parse(text)
		var se *SyntaxError
		if !errors.As(err, &se) || se.Pos != want.pos || !strings.Contains(se.Msg, want.say) {
			t.Errorf("%.60q: %v, want %q at %d", text, err, want.say, want.pos)
		}
	}
}

// Random words, patterns and near words: a block of many lines decides as each line alone does.
func TestSelectIsMatchForPatterns(t *testing.T) {
	rng := rand.New(rand.NewPCG(6, 6))
	pick := func(from ...string) string { return from[rng.IntN(len(from))] }
	text := func(n int) string {
		var b strings.Builder
		for range rng.IntN(n) {
			b.WriteString(pick("ab", "Ab", "b", "c", "é", "É", "1", "磁", "盘", " ", "-", "\xff", "abcabc", "k", "\u212A"))
		}
		return b.String()
	}
	hits := 0
	for range 3000 {
		var q string
		for range 1 + rng.IntN(6) {
			q += pick("ab", "b", "c", "é", "1", "磁", "*", "*", "-", "k")
		}
		if rng.IntN(4) == 0 {
			q = text(4) + pick("abc", "bcab", "cabé") + pick("~", "~1", "~2")
		}
		f, err := Parse(q)
		if err != nil {
			continue
		}
		b := &Lines{}
		for range 1 + rng.IntN(30) {
			b.Text = append(b.Text, text(10)...)
			b.Ends = append(b.Ends, uint32(len(b.Text)))
			b.N++
			b.Severities = append(b.Severities, 0)
		}
		got := f.Select(b, Range(b.N, 0, b.N))
		for i := range b.N {
			if want := f.Match(&Line{Text: b.Line(i)}); got.Has(i) != want {
				t.Fatalf("%q on %q: Select %v, Match %v", q, b.Line(i), got.Has(i), want)
			} else if want {
				hits++
			}
		}
	}
	if hits < 1000 {
		t.Errorf("only %d lines matched", hits)
	}
}
