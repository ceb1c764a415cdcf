package pipeline

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/triward/triward/agent/wire"
)

var everything = Options{Cards: true, Passwords: true, Tokens: true}

func newRedactor(t testing.TB, o Options) *Redactor {
	t.Helper()
	r, err := NewRedactor(o, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func redacted(r *Redactor, text string) string {
	l := wire.LogLine{T: 1, Text: []byte(text)}
	r.Line(&l)
	return string(l.Text)
}

const jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"

func TestWhatIsMasked(t *testing.T) {
	for _, c := range [][2]string{
		// cards
		{"paid with 4111111111111111.", "paid with [redacted]."},
		{"pan=4111-1111-1111-1111, ok", "pan=[redacted], ok"},
		{"card 4111 1111 1111 1111 exp 12 29", "card [redacted] exp 12 29"},
		{"card 4111 1111 1111 1111", "card [redacted]"},
		{"amex 3782 822463 10005;", "amex [redacted];"},
		{`{"pan":"5555555555554444"}`, `{"pan":"[redacted]"}`},
		{"卡号：6222021234567894已支付", "卡号：" + map[bool]string{true: "[redacted]", false: "6222021234567894"}[luhn(digits("6222021234567894"))] + "已支付"},
		// passwords
		{"user=bob password=hunter2 ok", "user=bob password=*** ok"},
		{"user=bob password=correct-horse-battery ok", "user=bob password=[redacted] ok"},
		{"pwd: s3cr3t!", "pwd: ***"},
		{`{"user":"bob","password":"a \"quoted\" one","x":1}`, `{"user":"bob","password":"[redacted]","x":1}`},
		{`{"password" : "tr0ub4dor&3", "x":1}`, `{"password" : "[redacted]", "x":1}`},
		{`msg="{\"password\":\"hunter22222\",\"x\":1}"`, `msg="{\"password\":\"[redacted]\",\"x\":1}"`},
		{`{"m":"{\"log\":\"{\\\"password\\\":\\\"hunter22222\\\",\\\"x\\\":1}\"}"}`, `{"m":"{\"log\":\"{\\\"password\\\":\\\"[redacted]\\\",\\\"x\\\":1}\"}"}`},
		{`msg="{\"password\":\"hunter\\\"22222\",\"x\":1}"`, `msg="{\"password\":\"[redacted]\",\"x\":1}"`},
		{`"password":"ends with a backslash\\","x":"y"`, `"password":"[redacted]","x":"y"`},
		{"db.password           = hunter2hunter2", "db.password           = [redacted]"},
		{"password:                 hunter2hunter2", "password:                 [redacted]"},
		{"password\t=\thunter2hunter2", "password\t=\t[redacted]"},
		{`{"passwd":12345678}`, `{"passwd":***}`},
		{"spring.datasource.password=Zx9,yy;zz.33 next", "spring.datasource.password=[redacted] next"},
		{"Server=db;User Id=sa;Password=abc123;Encrypt=true", "Server=db;User Id=sa;Password=***;Encrypt=true"},
		{"mysqldump --password hunter2hunter2 db", "mysqldump --password [redacted] db"},
		{"mysqldump --password=hunter2hunter2 db", "mysqldump --password=[redacted] db"},
		{"GET /login?user=a&passwd=abcdefghijkl&x=1", "GET /login?user=a&passwd=[redacted]&x=1"},
		{"postgres://app:s3cr3t-pass@db:5432/x", "postgres://app:[redacted]@db:5432/x"},
		{"redis://:abcdefghijk@cache", "redis://:[redacted]@cache"},
		{"<password>hunter2hunter2</password>", "<password>[redacted]</password>"},
		{"'password' => 'hunter2hunter2',", "'password' => '[redacted]',"},
		{"params[password]=hunter2hunter2&a=b", "params[password]=[redacted]&a=b"},
		{"DB_PASS=hunter2hunter2", "DB_PASS=[redacted]"},
		{"userPwd=hunter2hunter2", "userPwd=[redacted]"},
		{"用户登录 密码：hunter2hunter2", "用户登录 密码：[redacted]"},
		{"用户登录 密码: hunter2hunter2", "用户登录 密码: [redacted]"},
		{`password="cut off by the en`, `password="[redacted]`},
		// headers
		{"Authorization: Basic dXNlcjpwYXNz", "Authorization: Basic [redacted]"},
		{"curl -H 'Authorization: Bearer abcdef123456' https://x", "curl -H 'Authorization: Bearer [redacted]' https://x"},
		{`{"authorization":"Bearer abcdef123456","x":1}`, `{"authorization":"Bearer [redacted]","x":1}`},
		{`Authorization: Digest username="x", response="abc"`, "Authorization: Digest [redacted]"},
		{"sent bearer abcdefghij0123456789 to it", "sent bearer [redacted] to it"},
		{"sent Bearer ab+cd/ef0123456789ghij== to it", "sent Bearer [redacted] to it"},
		{"BEARER 0123/456+789abcdef", "BEARER [redacted]"},
		{"X-Api-Key: abcdef0123456789", "X-Api-Key: [redacted]"},
		// tokens
		{"token=abcdef123456 x", "token=[redacted] x"},
		{"client_secret=abcdefghijklmn&x=y", "client_secret=[redacted]&x=y"},
		{"apiKey: 'abcdefghijkl'", "apiKey: '[redacted]'"},
		{"jwt " + jwt + " seen", "jwt [redacted] seen"},
		{"key AKIAIOSFODNN7EXAMPLE used", "key [redacted] used"},
		{"push with ghp_0123456789abcdefghijABCDEFGHIJ0123456789", "push with [redacted]"},
		{"-----BEGIN RSA PRIVATE KEY-----\nMIIEabc\n-----END RSA PRIVATE KEY-----", "-----BEGIN RSA PRIVATE KEY-----***-----END RSA PRIVATE KEY-----"},
		{`"-----BEGIN PRIVATE KEY-----\nMIIEabc`, `"-----BEGIN PRIVATE KEY-----***`},
		{"https://0123456789abcdef0123@git.example/x", "https://[redacted]@git.example/x"},
	} {
		if got := redacted(newRedactor(t, everything), c[0]); got != c[1] {
			t.Errorf("%q\n became %q\n want   %q", c[0], got, c[1])
		}
		if got := redacted(newRedactor(t, everything), c[1]); got != c[1] {
			t.Errorf("%q, masked already, became %q", c[1], got)
		}
		if got := redacted(newRedactor(t, Options{}), c[0]); got != c[0] {
			t.Errorf("%q became %q with everything off", c[0], got)
		}
	}
}

func digits(s string) []byte {
	d := []byte(s)
	for i := range d {
		d[i] -= '0'
	}
	return d
}

func TestWhatIsLeft(t *testing.T) {
	for _, s := range []string{
		"",
		"Failed password for root from 1.2.3.4 port 22 ssh2",
		"sudo: ada : TTY=pts/0 ; PWD=/home/ada ; USER=root ; COMMAND=/bin/ls",
		"(using password: YES)",
		"Unexpected token: something in line 3",
		"tokens=500 max_tokens=4096 bypass=on compass: north",
		"the bearer /var/lib/something/long waits, the bearer of news",
		"blk_-1608999687919862906 terminating",
		"blk_4111111111111111 terminating",
		"4111111111111112 fails the check digit",
		"ns 1700000000000000000 ms 1700000000000 id 20170516000000008",
		"4111 2222 3333 apples",
		"2024 11 26 17 30 59",
		"http://10.0.0.1:8080/path user@example.com:25",
		"npm_package_version_of_something_else",
		"secret: kubernetes",
		"password= next=1",
		`"password":null,"token":""`,
		"-----BEGIN CERTIFICATE-----\nMIIE",
		"eyJust a word", "a=b:c=>d<e>f", "====", "::::", "password", "password:", "--password", "密码", "密码：", "://@", "token=[", "\\\"", "Authorization:", "authorization= ",
	} {
		if got := redacted(newRedactor(t, everything), s); got != s {
			t.Errorf("%q became %q", s, got)
		}
	}
}

func TestKindsAndPatterns(t *testing.T) {
	const line = "4111111111111111 password=hunter2hunter2 token=abcdefghijk order 77-8812"
	for _, c := range []struct {
		o    Options
		want string
	}{
		{Options{Cards: true}, "[redacted] password=hunter2hunter2 token=abcdefghijk order 77-8812"},
		{Options{Passwords: true}, "4111111111111111 password=[redacted] token=abcdefghijk order 77-8812"},
		{Options{Tokens: true}, "4111111111111111 password=hunter2hunter2 token=[redacted] order 77-8812"},
		{Options{Patterns: []string{`order (\d+)-\d+`, `abc\w+`}}, "4111111111111111 password=hunter2hunter2 token=[redacted] order **-8812"},
	} {
		r := newRedactor(t, c.o)
		if got := redacted(r, line); got != c.want {
			t.Errorf("%+v: %q, want %q", c.o, got, c.want)
		}
		if r.Version() == 0 || r.Version() == newRedactor(t, Options{}).Version() {
			t.Errorf("%+v has no version of its own", c.o)
		}
	}
	for _, bad := range []string{"(", "a*", "", strings.Repeat("a", 257), "((a{100}){10}){10}"} {
		if err := CheckPattern(bad); err == nil {
			t.Errorf("pattern %.20q was taken", bad)
		}
	}
	if _, err := NewRedactor(Options{Patterns: make([]string, 17)}, nil); err == nil {
		t.Error("17 patterns were taken")
	}
}

func TestFieldsAndLabels(t *testing.T) {
	r := newRedactor(t, everything)
	s := wire.LogStream{
		Kind:   wire.StreamEvent,
		Labels: wire.LabelsFromMap(map[string]string{"agent": "a", "unit": "x --password=hunter2hunter2"}),
		Lines: []wire.LogLine{{Text: []byte("nothing"), Fields: []wire.Label{
			{Name: "db.password", Value: "hunter2hunter2"}, {Name: "msg", Value: "token=abcdefghijkl"}, {Name: "password_reset", Value: "done"}, {Name: "token", Value: "none"},
		}}},
	}
	if !r.Stream(&s) {
		t.Error("nothing changed")
	}
	got := s.Labels.Get("unit")
	for _, f := range s.Lines[0].Fields {
		got += "|" + f.Value
	}
	if want := "x --password=[redacted]|[redacted]|token=[redacted]|done|none"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if r.Stream(&s) {
		t.Error("masked twice")
	}
	var none *Redactor
	if none.Stream(&s) || none.Version() != 0 {
		t.Error("no redactor masks")
	}
}

// Texts that make a scan look far ahead from many places take no longer than others of their length: were one quadratic,
// this would not end.
func TestHostileLinesAreLinear(t *testing.T) {
	r := newRedactor(t, everything)
	parts := []string{
		"token", "password", "pwd", ":", "=", "\"", "'", "\\", "\\\"", "[", "]", " ", "--", "-", "4111", "41111111", "://", "@", "a", "x1", "<", ">",
		"authorization", "bearer ", "-----BEGIN ", "PRIVATE KEY", "密码", "：", "&", ",", ";", "eyJ", ".",
	}
	rng := rand.New(rand.NewPCG(1, 1))
	for range 500 {
		unit := ""
		for range 1 + rng.IntN(6) {
			unit += parts[rng.IntN(len(parts))]
		}
		redacted(r, strings.Repeat(unit, wire.MaxLine/len(unit)))
	}
}

// So they do when one kind of secrets is not masked: what is not masked is not passed over either.
func TestHostileLinesAreLinearWithKindsOff(t *testing.T) {
	for _, o := range []Options{{}, {Cards: true}, {Passwords: true}, {Tokens: true}} {
		r := newRedactor(t, o)
		for _, unit := range []string{
			"password=", "token=", "authorization: x ", "authorization: basic", "-----BEGIN PRIVATE KEY----- ", "--token x--", `password=\"`, "<secret>a",
			"bearer a", "4111 ", "a://b:c",
		} {
			redacted(r, strings.Repeat(unit, 16*wire.MaxLine/len(unit)))
		}
	}
}

func FuzzRedact(f *testing.F) {
	f.Add("password=\"x\" token: 'y' 4111 1111 1111 1111 Authorization: Basic x ://a:b@c")
	f.Add("--password -----BEGIN PRIVATE KEY----- \\\" 密码： <token>a</token>")
	f.Fuzz(func(t *testing.T, s string) {
		r := newRedactor(t, everything)
		once := redacted(r, s)
		if len(once) > len(s) {
			t.Errorf("%q grew to %q", s, once)
		}
		at := 0
		for _, sp := range scan(s, &everything) {
			if sp.from < at || sp.to <= sp.from || sp.to > len(s) {
				t.Fatalf("%q: span %v behind %d", s, sp, at)
			}
			at = sp.to
		}
	})
}

// realLines are the lines of the files in the folder that TRIWARD_LOGS names, else some like them.
func realLines(tb testing.TB) (lines [][]byte) {
	dir := os.Getenv("TRIWARD_LOGS")
	if dir == "" {
		for _, l := range []string{
			"Nov 26 06:55:46 LabSZ sshd[24200]: Failed password for invalid user webmaster from 173.234.31.186 port 38926 ssh2",
			"nova-api.log 2026-05-16 00:00:00.008 25746 INFO nova.osapi_compute.wsgi.server [req-38101a0b-2096-447d-96ea-a692162415ae 113d3a99 - - -] 10.11.10.1 \"GET /v2/54fadb/servers/detail HTTP/1.1\" status: 200 len: 1893 time: 0.2477829",
			"081109 203615 148 INFO dfs.DataNode$PacketResponder: PacketResponder 1 for block blk_38865049064139660 terminating",
			`{"time":"2026-11-26T17:30:00.123456789Z","level":"info","msg":"served","method":"GET","path":"/v1/things/8811","status":200,"request_id":"9f1d6c0e-5d4f-4f0e-9e0f-2f1a1b1c1d1e"}`,
		} {
			lines = append(lines, []byte(l))
		}
		return lines
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil || len(files) == 0 {
		tb.Fatalf("no logs in %s: %v", dir, err)
	}
	for _, f := range files {
		body, err := os.ReadFile(f)
		if err != nil {
			tb.Fatal(err)
		}
		lines = append(lines, bytes.Split(bytes.TrimRight(body, "\n"), []byte("\n"))...)
	}
	return lines
}

// Real logs of systems that keep no secrets in them stay as they are.
func TestRealLogs(t *testing.T) {
	r := newRedactor(t, everything)
	lines, hits := realLines(t), 0
	for _, l := range lines {
		if out, changed := r.bytes(l); changed {
			hits++
			t.Errorf("%s\n -> %s", l, out)
		}
	}
	t.Logf("%d of %d lines", hits, len(lines))
}

func BenchmarkRealLines(b *testing.B) {
	r := newRedactor(b, everything)
	lines := realLines(b)
	n, before := 0, cpuTime(b)
	for b.Loop() {
		for _, l := range lines {
			r.bytes(l)
		}
		n += len(lines)
	}
	b.ReportMetric((cpuTime(b)-before).Seconds()/float64(n)*1e6, "CPU-s/M-lines")
}

func BenchmarkJSONLine(b *testing.B) {
	r := newRedactor(b, everything)
	line := []byte(`{"time":"2026-11-26T17:30:00.123456789Z","level":"info","msg":"request served","method":"GET","path":"/v1/things/8811","status":200,"duration_ms":12.5,"request_id":"9f1d6c0e-5d4f-4f0e-9e0f-2f1a1b1c1d1e"}`)
	for b.Loop() {
		r.bytes(line)
	}
}

// cpuTime is what the process has used, so that a busy machine does not count.
func cpuTime(tb testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// What needs a look of its own is looked for whenever it may be there, whatever stands before it.
func TestNothingIsPassedOverForBeingRare(t *testing.T) {
	pieces := []string{
		"bearer ", "Bearer ", "BEARER ", "bearer", "earer ", "EARER ", "Earer ", "r ", "R ", "-", "--", "---", " --password ", "--token", "-----BEGIN RSA PRIVATE KEY-----", "-----END",
		"abcdefgh12345678", "a/b+c~d=e/f+g~h=", "4111 1111 1111 1111", "4111-1111-1111-1111", " ", "password=", "password: ", "<secret>", "://", "user:pw@", ":", "=", ">", "：", "x", "1234567890123456789012345678901234567890",
	}
	opts := everything
	rng := rand.New(rand.NewPCG(3, 9))
	n, looked := 0, 0
	for range 20_000 {
		text := ""
		for range 1 + rng.IntN(8) {
			text += pieces[rng.IntN(len(pieces))]
		}
		always := scanner{s: text, opts: &opts}
		hyphens, bearer := always.walk()
		always.rest(true, true)
		if got := scan(text, &opts); !slices.Equal(got, always.spans) {
			t.Fatalf("%q: %v, want %v", text, got, always.spans)
		}
		if n += len(always.spans); hyphens || bearer {
			looked++
		}
	}
	if n == 0 || looked == 0 || looked == 20_000 {
		t.Errorf("%d secrets, %d texts were looked at again", n, looked)
	}
}
