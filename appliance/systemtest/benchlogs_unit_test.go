package systemtest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

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
