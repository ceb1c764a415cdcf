package query

import (
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/triward/triward/agent/wire"
)

func TestSpotAt(t *testing.T) {
	for text, want := range map[string]Spot{ // | is where somebody types
		"|":                    {Named: true},
		"err|":                 {To: 3, Prefix: "err", Name: "err", Named: true},
		"a -er|":               {From: 3, To: 5, NameFrom: 3, Prefix: "er", Name: "er", Named: true},
		"er|ror x":             {To: 5, Prefix: "er", Name: "er", Named: true},
		"disk-fu|":             {From: 5, To: 7, Prefix: "fu", Name: "disk-fu", Named: true},
		"/var/lo|":             {From: 5, To: 7, Prefix: "lo"},
		"(a OR b|":             {From: 6, To: 7, NameFrom: 6, Prefix: "b", Name: "b", Named: true},
		"磁盘空|":                 {To: 9, Prefix: "磁盘空"},
		"错 磁|盘":                {From: 4, To: 7, Prefix: "磁"},
		"abc磁|":                {From: 3, To: 6, Prefix: "磁"},
		"磁ab|":                 {From: 3, To: 5, Prefix: "ab"},
		`x "disk fu|`:          {From: 8, To: 10, Prefix: "fu", Quoted: true},
		`x "disk fu|ll" y`:     {From: 8, To: 10, Prefix: "fu", Quoted: true},
		"host:|":               {From: 5, To: 5, Field: "host"},
		"host:we|b-1 x":        {From: 5, To: 10, Field: "host", Prefix: "we"},
		`file:"/a b|`:          {From: 5, To: 10, Field: "file", Prefix: "/a b"},
		`file:"/a \"b|c" d`:    {From: 5, To: 14, Field: "file", Prefix: `/a "b`},
		"file:/var/l|":         {From: 5, To: 11, Field: "file", Prefix: "/var/l"},
		"ho|st:web":            {To: 4, Prefix: "ho", Name: "ho", Named: true},
		"a |":                  {From: 2, To: 2, NameFrom: 2, Named: true},
		"/x y/ er|":            {From: 6, To: 8, NameFrom: 6, Prefix: "er", Name: "er", Named: true},
		"@2026-11-27T10:00 e|": {From: 18, To: 19, NameFrom: 18, Prefix: "e", Name: "e", Named: true},
		"k8s.po|":              {From: 4, To: 6, Prefix: "po", Name: "k8s.po", Named: true},
		"code>5 e|":            {From: 7, To: 8, NameFrom: 7, Prefix: "e", Name: "e", Named: true},
		"severity:w|":          {From: 9, To: 10, Field: "severity", Prefix: "w"},
	} {
		before, after, _ := strings.Cut(text, "|")
		got, ok := SpotAt(before+after, len(before))
		if !ok || got != want {
			t.Errorf("%q: %+v %v, want %+v", text, got, ok, want)
		}
	}
	for _, text := range []string{"code>5|", "code:>5|", "@2026-1|", "/er|r/", `"done"|`, "conn*re|", "disk-|x"[:5] + "|", "host:*a|"} {
		before, after, _ := strings.Cut(text, "|")
		if got, ok := SpotAt(before+after, len(before)); ok && !got.Named && got.Prefix != "" {
			t.Errorf("%q: %+v", text, got)
		}
	}
}

// Whatever is typed, a spot is within the query and at whole characters, and a value that is put there is compared as it is.
func FuzzSpotAt(f *testing.F) {
	for _, s := range []string{"a b", `(a OR "b c"*) -host:x code>5 /r\/e/`, "磁盘 severity>=warning", `x:"\"`, "@2026 ..", "--", "a:>", "::"} {
		f.Add(s, 3, "va lue")
	}
	f.Fuzz(func(t *testing.T, text string, at int, value string) {
		s, ok := SpotAt(text, at)
		if !ok {
			return
		}
		if s.From < 0 || s.To < s.From || s.To > len(text) || s.Named && (s.NameFrom < 0 || s.NameFrom > s.From) {
			t.Fatalf("%q at %d: %+v", text, at, s)
		}
		if utf8.ValidString(text) && !utf8.ValidString(text[:s.From]+text[s.To:]) {
			t.Fatalf("%q at %d: %+v cuts a character", text, at, s)
		}
		if value == "" || !utf8.ValidString(value) || len(value) > 1000 {
			return
		}
		q, err := Parse("f:" + QuoteValue(value))
		if err != nil || !q.Match(&Line{Fields: []wire.Label{{Name: "f", Value: value}}}) {
			t.Fatalf("%q is written %s, which finds it not: %v", value, QuoteValue(value), err)
		}
	})
}

func TestValuesAreFoundAsWritten(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 9))
	for range 5000 {
		var b strings.Builder
		for range 1 + rng.IntN(5) {
			b.WriteString([]string{"a", "*", `"`, `\`, "/", " ", "(", ">", "磁", "\u3000", "~", "@", "-", "\n", ":"}[rng.IntN(15)])
		}
		q, err := Parse("f:" + QuoteValue(b.String()) + " f:*")
		if err != nil || !q.Match(&Line{Fields: []wire.Label{{Name: "f", Value: b.String()}}}) {
			t.Fatalf("%q is written %s, which finds it not: %v", b.String(), QuoteValue(b.String()), err)
		}
	}
}
