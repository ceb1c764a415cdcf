package block

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestPatternOfALine(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"", ""},
		{"no numbers here", "no numbers here"},
		{"took 15 ms", "took <*> ms"},
		{"took    15    ms", "took <*> ms"},
		{"a  b", "a  b"},
		{"   17 of 20", "<*> of <*>"},
		{"Accepted password for root from 10.0.3.4 port 55122 ssh2", "Accepted password for root from <*> port <*> <*>"},
		{"2026-11-27T10:00:00.123456+01:00 web-1 sshd[815]: closed", "<*> web-<*> sshd[<*>]: closed"},
		{"Nov 27 10:00:00 host cron[3]: x", "<*> <*> host cron[<*>]: x"},
		{"Nov  7 10:00:00 host cron[3]: x", "<*> <*> host cron[<*>]: x"},
		{"Fri Nov  7 10:00:00 2026 x", "<*> <*> <*> x"},
		{"[27/Nov/2026:10:00:00 +0000] GET /a", "[<*> <*>] GET /a"},
		{"Mon, 02 Jan 2006 15:04:05 GMT", "<*> <*> GMT"},
		{"at 10:15:01 PM done", "at <*> done"},
		{"10 PMX done", "<*> PMX done"},
		{"Simon 5, Decimal 6, Mayor 7", "Simon <*>, Decimal <*>, Mayor <*>"},
		{"delta -5 or +7 or 3, x=-2 foo-2 [-1]", "delta <*> or <*> or <*>, x=<*> foo-<*> [<*>]"},
		{"lists 1,2,3,4 and 1, 2", "lists <*> and <*>, <*>"},
		{"fe80::1ff:fe23:4567:890a up", "<*> up"},
		{"user=alice id=7", "user=<*> id=<*>"},
		{"deadbeef cafe be", "<*> <*> <*>"},
		{"1----2 1---2", "<*>----<*> <*>"},
		{"磁盘9号满", "磁盘<*>号满"},
		{"a 1\r\n\tat b.c(D.java:12)\n", "a <*>⏎\tat b.c(D.java:<*>)⏎"},
		{"\x1b[31mred\x1b[0m \xff\xfe1", "�[<*>�[<*> �<*>"},
		{"literal <*> and 5", "literal <*> and <*>"},
	} {
		if got := string(AppendPattern([]byte("x"), []byte(c.text))); got != "x"+c.want {
			t.Errorf("pattern of %q is %q, want %q", c.text, got[1:], c.want)
		}
	}
}

// However long a line is, its pattern is bounded, and text.
func TestPatternIsBounded(t *testing.T) {
	for _, text := range []string{
		strings.Repeat("word ", 50_000), strings.Repeat("1 ", 100_000), strings.Repeat("磁", 50_000), "ab" + strings.Repeat("磁", 50_000), strings.Repeat("\xff1", 1000),
	} {
		got := AppendPattern(nil, []byte(text))
		if len(got) > MaxPattern || len(got) < MaxPattern-3 || !utf8.Valid(got) {
			t.Errorf("pattern of %.20q is %d bytes long: …%q", text, len(got), got[len(got)-10:])
		}
	}
}

// A template has the pattern of each of its lines.
func TestPatternOfATemplate(t *testing.T) {
	c := codec(t)
	all := corpora(t, 3000)
	all["odd"] = oddLines()
	rng := rand.New(rand.NewPCG(3, 3))
	pieces := []string{
		"1", "22", "be", "word", "=x", "Nov", "Mon", "AM", " PM", " ", "  ", "-", ":", ".", ", ", "+", "\n", "\xff", "\x01", "磁", "é", "[", "<*>", "⏎",
		strings.Repeat("long ", 500), strings.Repeat("7 ", 150),
	}
	var torn []Line
	for range 1000 {
		var b bytes.Buffer
		for range rng.IntN(12) {
			b.WriteString(pieces[rng.IntN(len(pieces))])
		}
		for range 3 { // so that it becomes a template
			torn = append(torn, Line{T: int64(len(torn)), Text: b.Bytes()})
		}
	}
	for len(torn) > 0 {
		all["torn"+string(rune('a'+len(all)))] = torn[:min(1000, len(torn))]
		torn = torn[min(1000, len(torn)):]
	}
	var v View
	seen := 0
	for _, name := range sortedNames(all) {
		lines := all[name]
		out, err := c.Encode(lines, Version2, nil)
		if err != nil || out.Version != Version2 {
			t.Fatalf("%s: version %d, %v: %v", name, out.Version, out.Fallback, err)
		}
		if ok, err := c.View(&v, out.Text, len(lines)); !ok || err != nil {
			t.Fatalf("%s: view: %v", name, err)
		}
		for i := range v.Templates() {
			got := v.Template(i).AppendPattern(nil)
			for _, k := range v.Template(i).Lines() {
				seen++
				if want := AppendPattern(nil, lines[k].Text); !bytes.Equal(got, want) {
					t.Fatalf("%s: the template of line %q has pattern %q, the line %q", name, lines[k].Text, got, want)
				}
			}
		}
	}
	if seen < 10_000 {
		t.Fatalf("only %d lines have templates", seen)
	}
}

func BenchmarkPattern(b *testing.B) {
	lines := corpora(b, 3000)["service"]
	n := 0
	for i := range lines {
		n += len(lines[i].Text)
	}
	b.SetBytes(int64(n))
	var buf []byte
	for b.Loop() {
		for i := range lines {
			buf = AppendPattern(buf[:0], lines[i].Text)
		}
	}
}
