package systemtest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/triward/triward/agent/wire"
)

// shapedLines leaves files with lines that begin as real ones do.
func shapedLines(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	at := time.Date(2020, 1, 2, 3, 4, 5, 678e6, time.UTC)
	for _, f := range realFormats() {
		var b strings.Builder
		for i := range 1200 {
			b.WriteString(strings.Replace(at.Format(f.layout), "\x00", map[bool]string{true: "nova-api.log"}[f.name == "OpenStack"], 1))
			switch i % 4 {
			case 0:
				fmt.Fprintf(&b, "sshd[%d]: Failed password for root from 10.2.3.4 port %d ssh2\r\n", 10000+i, 20000+i)
			case 1:
				fmt.Fprintf(&b, "authentication failure; rhost=10.0.0.%d user=root\r\n", i%255)
			case 2:
				fmt.Fprintf(&b, "[instance: b9000564-fe1a-409b-b8cc-1e88b294cd1d] took %d s\r\n", i)
			case 3:
				fmt.Fprintf(&b, "block blk_%d terminating\r\n", 1e15+i)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, f.name+".log"), []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// The bench of logs gives every system the same lines, and each of its questions finds some of them and not all, but for the
// questions for all.
func TestCorpusIsTheSame(t *testing.T) {
	day := time.Date(2026, 11, 26, 0, 0, 0, 0, time.UTC)
	c, err := newCorpus(shapedLines(t), 6000, day)
	if err != nil {
		t.Fatal(err)
	}
	var first []corpusLine
	last := day.UnixNano() - 1
	err = c.each(func(_ int, l *corpusLine) error {
		if l.t <= last || l.t >= day.Add(24*time.Hour).UnixNano() {
			t.Errorf("time %d after %d", l.t, last)
		}
		last = l.t
		first = append(first, *l)
		return nil
	})
	if err != nil || len(first) != 6000 {
		t.Fatalf("%d lines, %v", len(first), err)
	}
	err = c.each(func(i int, l *corpusLine) error {
		if !reflect.DeepEqual(first[i], *l) {
			return fmt.Errorf("line %d is %q, was %q", i, l.text, first[i].text)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	ref, err := c.newReference()
	if err != nil {
		t.Fatal(err)
	}
	for i := range ref.queries {
		q, n := &ref.queries[i], ref.want[i].count
		if n == 0 || n == 6000 && q.ours != "" {
			t.Errorf("%s finds %d of 6000 lines", q.name, n)
		}
	}
}

// Without the real lines the bench says so.
func TestCorpusIsMissing(t *testing.T) {
	_, err := newCorpus(filepath.Join(t.TempDir(), "none"), 10, time.Now())
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "LOGS=") {
		t.Error(err)
	}
}

func TestDigitsAreFresh(t *testing.T) {
	rng := rngOf(1, "digits")
	for _, line := range []string{
		"sshd[24200]: from 173.234.31.186 port 38926 ssh2", "req-38101a0b-2096-447d-96ea-a692162415ae status: 200", "blk_-6952295868487656571 of 3",
	} {
		got := string(freshDigits(nil, []byte(line), rng))
		if got == line || len(got) > len(line)+8 {
			t.Errorf("%q became %q", line, got)
		}
		for _, keep := range []string{"sshd[", "port ", "ssh2", "status: 200", " of 3"} {
			if strings.Contains(line, keep) && !strings.Contains(got, keep) {
				t.Errorf("%q became %q", line, got)
			}
		}
	}
}

// A wrong answer is called wrong.
func TestAnswersAreCompared(t *testing.T) {
	right := benchAnswer{rows: []benchRow{{7, "b"}, {5, "a"}}, count: 2, bars: map[int64]int64{60: 1, 120: 1}}
	for _, kind := range []askKind{askRows, askCount, askBars} {
		q := &benchQuery{kind: kind}
		if why := q.difference(&right, &right); why != "" {
			t.Errorf("the right answer: %s", why)
		}
		wrong := benchAnswer{rows: []benchRow{{7, "b"}, {5, "c"}}, count: 3, bars: map[int64]int64{60: 1, 120: 1, 180: 1}}
		if q.difference(&wrong, &right) == "" {
			t.Errorf("kind %d: a wrong answer passes", kind)
		}
		if q.difference(&benchAnswer{}, &right) == "" {
			t.Errorf("kind %d: an empty answer passes", kind)
		}
	}
}

// Words end where no letter or digit goes on, whatever stands there.
func TestReferenceKnowsWords(t *testing.T) {
	for text, want := range map[string]bool{
		"for root from": true, "root": true, "(user:root:x)": true, "user_root=1": true, "chroot": false, "rooted": false, "root1": false, "chroot root": true,
	} {
		v := &lineView{corpusLine: &corpusLine{}, lower: []byte(text)}
		if hasWord("root")(v) != want {
			t.Errorf("%q: not %t", text, want)
		}
	}
}

// Lines of a host go into the streams of their files, none is lost.
func TestStreamsOfLines(t *testing.T) {
	streams := streamsOf([]corpusLine{{file: "a", text: []byte("1")}, {file: "b", text: []byte("2")}, {file: "a", text: []byte("3")}}, nil)
	if len(streams) != 2 || len(streams[0].Lines) != 2 || string(streams[0].Lines[1].Text) != "3" || streams[1].Labels.Get("file") != "b" {
		t.Errorf("%+v", streams)
	}
	if i := slices.IndexFunc(streams, func(s wire.LogStream) bool { return s.Kind != wire.StreamLog }); i >= 0 {
		t.Errorf("%+v", streams[i])
	}
}

// A cut is inside a pass when that had begun and not ended at the moment of the cut, whatever the node said later.
func TestCutsInsidePasses(t *testing.T) {
	at := func(ms int) time.Time { return time.Date(2026, 11, 27, 10, 0, 0, ms*1e6, time.UTC) }
	said := func(ms int, what, kind string) string {
		return fmt.Sprintf("time=%s level=DEBUG msg=\"log store: pass %s\" node_id=n1 part=logstore pass=%s\n", at(ms).Format("2006-01-02T15:04:05.000Z07:00"), what, kind)
	}
	var handedOn strings.Builder
	w := newPassWatch(&handedOn)
	text := said(10, "begins", "seal") + said(20, "is done", "seal") + "time=x level=INFO msg=hello\n" + said(30, "begins", "merge") +
		"time=x level=DEBUG msg=noise\n" + said(40, "begins", "index") + said(50, "has failed", "index")
	for half := range slices.Chunk([]byte(text), 37) { // as pipes cut it
		if _, err := w.Write(half); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		kind string
		ms   int
		want bool
	}{{"seal", 15, true}, {"seal", 25, false}, {"seal", 5, false}, {"merge", 45, true}, {"index", 45, true}, {"index", 60, false}, {"index", 35, false}} {
		if got := w.inside(c.kind, at(c.ms)); got != c.want {
			t.Errorf("%s at %d ms: %t", c.kind, c.ms, got)
		}
	}
	if got := handedOn.String(); got != "time=x level=INFO msg=hello\n" {
		t.Errorf("handed on: %q", got)
	}
}

// Lines are pushed into Loki with their time, in a stream for each file, in their order.
func TestLokiPush(t *testing.T) {
	push := appendLokiPush(nil, []corpusLine{
		{t: 1_700_000_000_000_000_005, host: 3, file: "/a", text: []byte("one")},
		{t: 1_700_000_001_999_999_999, host: 3, file: "/b", text: []byte("超时")},
		{t: 1_700_000_002_000_000_000, host: 3, file: "/a", text: []byte("three")},
	})
	// fields returns what is in the fields of a message, those of a kind in their order.
	fields := func(b []byte) map[protowire.Number][]string {
		all := map[protowire.Number][]string{}
		for len(b) > 0 {
			num, kind, n := protowire.ConsumeTag(b)
			if n < 0 {
				t.Fatalf("%x: %v", b, protowire.ParseError(n))
			}
			b = b[n:]
			if kind == protowire.VarintType {
				v, n := protowire.ConsumeVarint(b)
				all[num], b = append(all[num], fmt.Sprint(v)), b[n:]
				continue
			}
			v, n := protowire.ConsumeBytes(b)
			if n < 0 {
				t.Fatalf("field %d of %x: %v", num, b, protowire.ParseError(n))
			}
			all[num], b = append(all[num], string(v)), b[n:]
		}
		return all
	}
	var got []string
	for _, stream := range fields(push)[1] {
		s := fields([]byte(stream))
		for _, entry := range s[2] {
			e := fields([]byte(entry))
			at := fields([]byte(e[1][0]))
			got = append(got, fmt.Sprint(s[1], at[1], at[2], e[2]))
		}
	}
	want := []string{
		`[{file="/a",host="sender3"}] [1700000000] [5] [one]`, `[{file="/a",host="sender3"}] [1700000002] [0] [three]`,
		`[{file="/b",host="sender3"}] [1700000001] [999999999] [超时]`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q\nnot\n%q", got, want)
	}
}

// Answers of Loki are read, minutes by when they begin.
func TestLokiAnswers(t *testing.T) {
	l := &lokiLogs{}
	for kind, body := range map[askKind]string{
		askRows:  `{"data":{"resultType":"streams","result":[{"stream":{},"values":[["5","a"]]},{"stream":{},"values":[["7","b"]]}]}}`,
		askCount: `{"data":{"resultType":"vector","result":[{"metric":{},"value":[1795825844.77,"2"]}]}}`,
		askBars:  `{"data":{"resultType":"matrix","result":[{"metric":{},"values":[[120,"1"],[180,"1"]]}]}}`,
	} {
		q := &benchQuery{kind: kind}
		got, err := l.parse(q, []byte(body))
		if err != nil {
			t.Fatal(err)
		}
		right := benchAnswer{rows: []benchRow{{7, "b"}, {5, "a"}}, count: 2, bars: map[int64]int64{60: 1, 120: 1}}
		if why := q.difference(&got, &right); why != "" {
			t.Errorf("kind %d: %s", kind, why)
		}
	}
	if _, err := l.request(t.Context(), &benchQuery{}); !errors.Is(err, errNotAsked) {
		t.Errorf("a question without LogQL: %v", err)
	}
}

// slowSystem answers its only question after a time.
type slowSystem struct {
	logSystem
	after time.Duration
	asked int
}

func (s *slowSystem) name() string { return "slow" }
func (s *slowSystem) pid() int     { return os.Getpid() }
func (s *slowSystem) client() *http.Client {
	return &http.Client{Timeout: time.Minute, Transport: s}
}

func (s *slowSystem) request(ctx context.Context, q *benchQuery) (*http.Request, error) {
	if q.logql == "" {
		return nil, errNotAsked
	}
	return http.NewRequestWithContext(ctx, http.MethodGet, "http://slow", nil)
}

func (s *slowSystem) parse(*benchQuery, []byte) (benchAnswer, error) {
	return benchAnswer{count: 1}, nil
}

func (s *slowSystem) RoundTrip(r *http.Request) (*http.Response, error) {
	s.asked++
	if err := pause(r.Context(), s.after); err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody, Request: r}, nil
}

// A system that is slow is not asked for long, one that is too slow or does not know a question has no times; ours must answer.
func TestSlowSystems(t *testing.T) {
	for _, c := range []struct {
		after time.Duration
		logql string
		asked int
		cell  string
	}{
		{100 * time.Millisecond, "x", 3 + 20, "100.0 / 100.0"},
		{time.Second, "x", 3 + 10, "1000.0 / 1000.0"},
		{3 * time.Second, "x", 4, "3000.0 / 3000.0"},
		{13 * time.Second, "x", 1, "13000.0 / 13000.0"},
		{2 * time.Minute, "x", 1, "> 60 s"},
		{time.Second, "", 0, "—"},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := &benchLogs{t: t, ref: &reference{queries: []benchQuery{{kind: askCount, logql: c.logql}}, want: []benchAnswer{{count: 1}}}}
			s := &slowSystem{after: c.after}
			got, err := b.warmly(t.Context(), s, false)
			if err != nil {
				t.Fatal(err)
			}
			if cell := pair(got, 0, 0.99); s.asked != c.asked || cell != c.cell {
				t.Errorf("after %v: asked %d times, not %d: %q, not %q", c.after, s.asked, c.asked, cell, c.cell)
			}
			if got[0].none == "" {
				return
			}
			if _, err := b.warmly(t.Context(), s, true); err == nil {
				t.Errorf("after %v: an answer that must be was not there, and nothing failed", c.after)
			}
		})
	}
}
