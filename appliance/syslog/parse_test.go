package syslog

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

var at = time.Date(2026, 11, 26, 17, 40, 30, 0, time.UTC)

func TestParse(t *testing.T) {
	p := NewParser(time.FixedZone("", 8*3600))
	for _, c := range []struct{ in, want string }{
		{`<165>1 2003-10-11T22:14:15.003Z mymachine.example.com evntslog 111 ID47 [exampleSDID@32473 iut="3" eventSource="App \"x\"" eventID="1011"][b a="]"] An event`, ""},
		{
			`<165>1 2003-10-11T22:14:15.003Z mymachine.example.com evntslog 111 ID47 [exampleSDID@32473 iut="3" eventSource="App \"x\\" eventID="1011"] An event`,
			`20.5 2003-10-11T22:14:15.003Z mymachine.example.com evntslog[111] ID47 [{exampleSDID@32473.iut 3} {exampleSDID@32473.eventSource App "x\} {exampleSDID@32473.eventID 1011}] "An event"`,
		},
		{"<34>1 - - - - - -", `4.2 - - -[-] - [] ""`},
		{"<34>1 - - - - - - x", `4.2 - - -[-] - [] "x"`},
		{"<34>1 2026-11-26T17:30:00.123456789+08:00 h app - - - \xef\xbb\xbfnano", `4.2 2026-11-26T09:30:00.123456789Z h app[-] - [] "nano"`},
		{"<34>1 - h a - - [x@1] t", `4.2 - h a[-] - [] "t"`},
		{"<34>1 - h a - - [x@1 a=b] t", `4.2 - h a[-] - [] "<34>1 - h a - - [x@1 a=b] t" !a parameter of structured data is not name="value"`},
		{"<34>1 - h a - - t", `4.2 - h a[-] - [] "<34>1 - h a - - t" !structured data is missing`},
		{"<34>1 yesterday h a - - - t", `4.2 - - -[-] - [] "<34>1 yesterday h a - - - t" !the time is not as RFC 3339 writes it`},
		{"<34>1 - h", `4.2 - - -[-] - [] "<34>1 - h" !the header ends early`},

		{"<34>Oct 11 22:14:15 mymachine su: 'su root' failed", `4.2 2026-10-11T14:14:15Z mymachine su[-] - [] "'su root' failed"`},
		{"<13>Nov  6 17:40:00 host app[123]: hello\n", `1.5 2026-11-06T09:40:00Z host app[123] - [] "hello"`},
		{"<13>Nov 26 17:40:00.25 host app: hello", `1.5 2026-11-26T09:40:00.25Z host app[-] - [] "hello"`},
		{"<13>Nov 26 2025 17:40:00 host app: hello", `1.5 2025-11-26T09:40:00Z host app[-] - [] "hello"`},
		{"<13>Dec 31 23:59:59 host app: last year", `1.5 2025-12-31T15:59:59Z host app[-] - [] "last year"`},
		{"<13>2026-11-26T17:40:00.123456+00:00 host app[123]: hello", `1.5 2026-11-26T17:40:00.123456Z host app[123] - [] "hello"`},
		{"<13>Nov 26 17:40:00 app[123]: no host", `1.5 2026-11-26T09:40:00Z - app[123] - [] "no host"`},
		{"<13>Nov 26 17:40:00 app: no host", `1.5 2026-11-26T09:40:00Z - app[-] - [] "no host"`},
		{"<13>Nov 26 17:40:00 host a message without a tag", `1.5 2026-11-26T09:40:00Z host -[-] - [] "a message without a tag"`},
		{"<13>Nov 26 17:40:00 host key:value pairs", `1.5 2026-11-26T09:40:00Z host -[-] - [] "key:value pairs"`},
		{"<30>Nov 26 17:40:00 host CRON[99]: (root) CMD (x)", `3.6 2026-11-26T09:40:00Z host CRON[99] - [] "(root) CMD (x)"`},
		{"<189>123: *Mar  1 18:46:11: %SYS-5-CONFIG_I: Configured", `23.5 2026-03-01T10:46:11Z - SYS[-] - [] "%SYS-5-CONFIG_I: Configured"`},
		{"<189>123: Mar  1 18:46:11.123 UTC: %SYS-5-CONFIG_I: Configured", `23.5 2026-03-01T18:46:11.123Z - SYS[-] - [] "%SYS-5-CONFIG_I: Configured"`},
		{"<13>hello world", `1.5 - - -[-] - [] "hello world"`},
		{"<13>app[7]: hello", `1.5 - - app[7] - [] "hello"`},
		{"<13>", `1.5 - - -[-] - [] ""`},
		{"hello", `-1.-1 - - -[-] - [] "hello" !no priority`},
		{"<192>x", `-1.-1 - - -[-] - [] "<192>x" !no priority`},
		{"<1a>x", `-1.-1 - - -[-] - [] "<1a>x" !no priority`},
		{"", `-1.-1 - - -[-] - [] "" !no priority`},
	} {
		if c.want == "" {
			p.Parse([]byte(c.in), at)
			continue
		}
		if got := written(p.Parse([]byte(c.in), at)); got != c.want {
			t.Errorf("%q\n is   %s\n want %s", c.in, got, c.want)
		}
	}
}

func written(m Message) string {
	or := func(s string) string {
		if s == "" {
			return "-"
		}
		return s
	}
	when := "-"
	if m.HasTime {
		when = time.Unix(0, m.Time).UTC().Format(time.RFC3339Nano)
	}
	s := fmt.Sprintf("%d.%d %s %s %s[%s] %s %v %q", m.Facility, m.Severity, when, or(m.Host), or(m.App), or(m.PID), or(m.ID), m.Data, m.Text)
	if m.Malformed != "" {
		s += " !" + m.Malformed
	}
	return s
}

func FuzzParse(f *testing.F) {
	f.Add(`<165>1 2003-10-11T22:14:15.003Z h a 111 ID47 [x@1 a="\]"] t`)
	f.Add("<34>Oct 11 22:14:15 mymachine su[1]: x")
	f.Add("<34>1: *Oct 11 2024 22:14:15.1 UTC: %A-1-B: x")
	p := NewParser(time.UTC)
	f.Fuzz(func(t *testing.T, s string) {
		m := p.Parse([]byte(s), at)
		if m.Malformed != "" && string(m.Text) != strings.TrimRight(s, "\r\n\x00") {
			t.Errorf("%q is malformed (%s) and kept as %q", s, m.Malformed, m.Text)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	p := NewParser(time.UTC)
	for name, in := range map[string]string{
		"5424": `<165>1 2003-10-11T22:14:15.003Z mymachine.example.com evntslog 111 ID47 [exampleSDID@32473 iut="3" eventSource="Application" eventID="1011"] An application event`,
		"3164": "<13>Nov 26 17:40:00 host app[123]: hello",
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				p.Parse([]byte(in), at)
			}
		})
	}
}
