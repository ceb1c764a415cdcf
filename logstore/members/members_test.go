package members

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/triward/triward/logstore/words"
)

func fields(text string) string {
	var r Reader
	var out []string
	for _, f := range r.All([]byte(text)) {
		out = append(out, fmt.Sprintf("%s=%s", f.Name, f.Value))
	}
	return strings.Join(out, "|")
}

func TestWhatTextsHold(t *testing.T) {
	long := strings.Repeat("v", MaxValue)
	name := strings.Repeat("n", MaxName)
	for _, c := range []struct{ text, want string }{
		{`{"level":"error","status":503,"ok":true,"no":false,"nil":null,"took":1.50e3}`, "level=error|status=503|ok=true|no=false|took=1.50e3"},
		{" \t{ \"a\" : { \"b\" : { \"c\" : -0 } , \"d\" : \"x\" } } \n", "a.b.c=-0|a.d=x"},
		{`{"a":[1,{"b":2}],"c":{},"d":{"e":[]},"f":1}`, "f=1"},
		{`{"a":"q\"\\\/\n\u00e9\u78c1\ud83d\ude00"}`, "a=q\"\\/\né磁😀"},
		{`{"状态":500,"请求":{"路径":"/首页"}}`, "状态=500|请求.路径=/首页"},
		{`{"\u72b6":"\u003cb\u003e"}`, "状=<b>"},
		{`{"a":"","b":" "}`, "b= "},
		{`{"a":1,"a":2,"b":null,"b":3,"c":"","c":"4"}`, "a=1|b=3|c=4"},
		{`{"a.b":1,"a":{"b":2}}`, "a.b=1"},
		{`{"":1,"x":{"":2},"":{"y":3}}`, "x.=2|.y=3"},
		{`{"a":"\u0061","b":"\q","c":"\u12","d":1}`, "d=1"}, // what nobody escapes, and bad escapes
		{`{"\u0061":1,"\n":2,"\q":{"x":3},"d":4}`, "d=4"},   // in names
		{`{"a":"` + long + `","b":"` + long + `v"}`, "a=" + long},
		{`{"` + name + `":1,"` + name + `n":2,"` + name + `":{"x":3}}`, name + "=1"},
		{"{\"a\":\"\xff\",\"b\xff\":1,\"c\":2}", "c=2"},
		{`{"a":1`, ""},
		{`{"a":1} x`, ""},
		{`{"a":1}}`, ""},
		{`{"a":1,}`, ""},
		{`{"a":01}`, ""},
		{`{a=1 b=2}`, ""},
		{`[{"a":1}]`, ""},
		{strings.Repeat(`{"a":`, MaxDepth) + "1" + strings.Repeat("}", MaxDepth), strings.TrimSuffix(strings.Repeat("a.", MaxDepth), ".") + "=1"},
		{strings.Repeat(`{"a":`, MaxDepth+2) + "1" + strings.Repeat("}", MaxDepth+2), ""},

		{`level=error status=503 msg="disk \"a\" full" took=1.5ms`, `level=error|status=503|msg=disk "a" full|took=1.5ms`},
		{"sshd: failed; user=root, ip=10.0.0.1; why=\"no key\", n=3", "user=root|ip=10.0.0.1|why=no key|n=3"},
		{"url=http://a/?b=c&d=e f=g", "url=http://a/?b=c&d=e|f=g"},
		{"http://a/?b=c (x=1) 1a=2 a\"=3 =4 b= c=\"\" d=\"5\"6 e=7", "e=7"},
		{`a="\u00e9" b="\u0061" c="x\`, "a=é"},
		{"状态=500 app.kubernetes.io/name=web @x=1 _y=2", "状态=500|app.kubernetes.io/name=web|@x=1|_y=2"},
		{"a=1 a=2 b= b=3", "a=1|b=3"},
		{"a=\xff \xff=1 b=2", "b=2"},
		{"a=" + long + " b=" + long + "v", "a=" + long},
		{"plain text, 5 = 5 and more", ""},
		{"", ""},
		{" \n", ""},
	} {
		if got := fields(c.text); got != c.want {
			t.Errorf("%.120q: %q, want %q", c.text, got, c.want)
		}
	}
}

func TestTheFirstValuesCount(t *testing.T) {
	var object, pairs []string
	for i := range MaxFields + 5 {
		object = append(object, fmt.Sprintf(`"k%d":%d`, i, i))
		pairs = append(pairs, fmt.Sprintf("k%d=%d", i, i))
	}
	for _, text := range []string{"{" + strings.Join(object, ",") + "}", strings.Join(pairs, " ")} {
		var r Reader
		if n := len(r.All([]byte(text))); n != MaxFields {
			t.Errorf("%.30s: %d fields", text, n)
		}
		for i := range MaxFields + 5 {
			n := NewName(fmt.Sprint("k", i))
			if got := string(r.Get([]byte(text), &n)); (got != "") != (i < MaxFields) || got != "" && got != fmt.Sprint(i) {
				t.Errorf("%.30s: field %d is %q", text, i, got)
			}
		}
	}
}

// naive reads an object with encoding/json: the values of scalars by their paths, the first of each name.
func naive(text string) map[string]string {
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	out := map[string]string{}
	n := 0
	var object func(prefix string, top bool) bool
	var skip func(tok json.Token) bool
	skip = func(tok json.Token) bool {
		if d, ok := tok.(json.Delim); ok && (d == '{' || d == '[') {
			for dec.More() {
				next, err := dec.Token()
				if err != nil || !skip(next) {
					return false
				}
			}
			_, err := dec.Token()
			return err == nil
		}
		return true
	}
	object = func(prefix string, top bool) bool {
		for dec.More() {
			key, err := dec.Token()
			if err != nil {
				return false
			}
			name := key.(string)
			if !top {
				name = prefix + "." + name
			}
			v, err := dec.Token()
			if err != nil {
				return false
			}
			s := ""
			switch v := v.(type) {
			case json.Delim:
				if v == '{' {
					if !object(name, false) {
						return false
					}
				} else if !skip(v) {
					return false
				}
				continue
			case nil:
				continue
			default:
				s = fmt.Sprint(v)
			}
			if n++; n > MaxFields || s == "" || len(s) > MaxValue || name == "" || len(name) > MaxName || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
				continue
			}
			if _, ok := out[name]; !ok {
				out[name] = s
			}
		}
		_, err := dec.Token()
		return err == nil
	}
	first, err := dec.Token()
	if d, ok := first.(json.Delim); err != nil || !ok || d != '{' || !object("", true) {
		return map[string]string{}
	}
	return out
}

// FuzzReader compares the reader with encoding/json, one name with all, and the words of fields with those of the text.
func FuzzReader(f *testing.F) {
	for _, s := range []string{
		`{"level":"error","req":{"path":"/api/v1","n":[1,2]},"状态":"磁盘\n满","took":1.5e3,"x":null}`, `a=1 b="c d\n", e=f;`, `{"a":"\u003cb"}`,
		`{"a":1,"a":{"b":"\ud83d\ude00 x"}}`, "{", `a="`, `{"\u0061b":1}`, "x {\"a\":1} b=2", `{"a b":"c-d é"}`, "İ=K",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var r, one Reader
		all := r.All([]byte(text))
		got := map[string]string{}
		have := map[string]bool{}
		for s := (words.Scanner{Text: []byte(text)}); s.Next(); {
			have[string(words.AppendFold(nil, s.Text[s.Start:s.End]))] = true
		}
		for _, f := range all {
			name, value := string(f.Name), string(f.Value)
			if _, ok := got[name]; ok || len(value) == 0 || len(value) > MaxValue || len(name) > MaxName {
				t.Fatalf("%q: field %q=%q", text, name, value)
			}
			got[name] = value
			n := NewName(name)
			if !strings.Contains(text, n.Needle()) {
				t.Fatalf("%q: %q is not in it", text, n.Needle())
			}
			if v := string(one.Get([]byte(text), &n)); v != value {
				t.Fatalf("%q: %s is %q, and %q among all", text, name, v, value)
			}
			for _, w := range slices.Concat(Words(name, false), Words(value, false), Words(words.FoldString(value), false), Words(value[:len(value)/2], true)) {
				if !have[w] {
					t.Fatalf("%q: field %q=%q: the word %q is not in it", text, name, value, w)
				}
			}
		}
		if json.Valid([]byte(text)) && strings.HasPrefix(strings.TrimSpace(text), "{") && !bytes.Contains([]byte(text), []byte(`\u`)) && len(text) < 4096 {
			if want := naive(text); strings.Count(text, "{")+strings.Count(text, "[") < MaxDepth && !maps.Equal(got, want) && !strings.Contains(text, "\ufffd") {
				t.Fatalf("%q: %q, want %q", text, got, want)
			}
		}
		if n := NewName("never there"); one.Get([]byte(text), &n) != nil {
			if _, ok := got["never there"]; !ok {
				t.Fatalf("%q has it", text)
			}
		}
	})
}

func BenchmarkReader(b *testing.B) {
	object := []byte(`{"time":"2026-11-27T10:00:00.123Z","level":"info","msg":"request served","req":{"method":"GET","path":"/api/v1/users/123456","id":"4bf92f35-77b3-4da6"},"status":200,"took_ms":12.5,"remote":"10.0.3.17"}`)
	pairs := []byte(`time=2026-11-27T10:00:00.123Z level=info msg="request served" method=GET path=/api/v1/users/123456 id=4bf92f35-77b3-4da6 status=200 took_ms=12.5`)
	plain := []byte("Nov 27 10:00:00 web-1 sshd[31337]: Failed password for invalid user admin from 10.0.3.17 port 51234 ssh2")
	name := NewName("status")
	var r Reader
	for _, c := range []struct {
		name string
		text []byte
	}{{"json", object}, {"logfmt", pairs}, {"plain", plain}} {
		b.Run(c.name+"/one", func(b *testing.B) {
			b.SetBytes(int64(len(c.text)))
			for b.Loop() {
				r.Get(c.text, &name)
			}
		})
		b.Run(c.name+"/all", func(b *testing.B) {
			b.SetBytes(int64(len(c.text)))
			for b.Loop() {
				r.All(c.text)
			}
		})
	}
}
