package systemtest

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/triward/triward/agent/wire"
)

// askKind is what is asked for.
type askKind int

const (
	askRows  askKind = iota // the newest rows
	askCount                // how many lines
	askBars                 // how many lines in each minute
)

const askedRows = 100

// benchQuery is one question in the languages of all systems.
type benchQuery struct {
	name, ours, peer string
	logql            string // for Loki 1.6; "": it cannot be asked
	kind             askKind
	// match is what the question means, decided by the bench itself.
	match func(v *lineView) bool
	goal  float64 // of the design, as a share of the peer's time
	// recorded is the peer's time as a share of Loki 3.8's, as the design recorded it; 0: it did not.
	recorded float64
	note     string
}

// lineView is a line as the bench looks at it.
type lineView struct {
	*corpusLine
	lower []byte
	id    []byte // of the line that one question looks for
}

func benchQueries(id string) []benchQuery {
	const everything = `{host=~"sender.+"}` // LogQL wants a label
	port := regexp.MustCompile(`port [0-9]+ ssh2`)
	return []benchQuery{
		{name: "rare word", logql: everything + ` |= "` + rareWord + `"`, ours: rareWord, peer: rareWord, goal: 0.7, recorded: 0.0024, match: hasWord(rareWord)},
		{name: "id", logql: everything + ` |= "` + id + `"`, ours: id, peer: strconv.Quote(id), goal: 0.7, match: hasWord(id)},
		{name: "common word, newest 100", logql: everything + ` |= "root"`, ours: "root", peer: "root", goal: 0.7, match: hasWord("root")},
		{name: "word, of one host", logql: `{host="sender3"} |= "root"`, ours: "host:sender3 root", peer: `{host="sender3"} root`, goal: 0.7, match: func(v *lineView) bool {
			return v.host == 3 && hasWord("root")(v)
		}},
		{name: "AND, count", logql: everything + ` |= "root" |~ "(?i)authentication"`, kind: askCount, ours: "authentication root", peer: "authentication root", goal: 0.7, recorded: 0.019, match: func(v *lineView) bool {
			return hasWord("root")(v) && hasWord("authentication")(v)
		}},
		{name: "phrase, count", logql: everything + ` |= "authentication failure" |~ "authentication failure([^0-9A-Za-z]|$)"`, kind: askCount, ours: `"authentication failure"`, peer: `"authentication failure"`, goal: 0.7, recorded: 0.016, match: hasWord("authentication failure")},
		{name: "prefix, count", logql: everything + ` |= "instan"`, kind: askCount, ours: "instan*", peer: "instan*", goal: 0.7, recorded: 0.023, match: func(v *lineView) bool { return hasPrefix(v.lower, "instan") }},
		{name: "regex, count", logql: everything + ` |~ "port [0-9]+ ssh2"`, kind: askCount, ours: `/port [0-9]+ ssh2/`, peer: `~"port [0-9]+ ssh2"`, goal: 1.2, recorded: 0.016, match: func(v *lineView) bool {
			return bytes.Contains(v.text, []byte(" ssh2")) && port.Match(v.text)
		}},
		{name: "field, newest 100", ours: "http_status:500", peer: `http_status:="500"`, goal: 0.7, match: func(v *lineView) bool { return field(v, "http_status") == "500" }},
		{name: "field > number, count", kind: askCount, ours: "elapsed_ms>100", peer: "elapsed_ms:>100", goal: 0.7, match: func(v *lineView) bool {
			n, err := strconv.ParseFloat(field(v, "elapsed_ms"), 64)
			return err == nil && n > 100
		}},
		{name: "a word per minute", logql: everything + ` |= "root"`, kind: askBars, ours: "root", peer: "root", goal: 0.7, recorded: 0.032, match: hasWord("root")},
		{name: "all per minute", logql: everything, kind: askBars, ours: "", peer: "*", goal: 1, match: func(*lineView) bool { return true }},
		{name: "all, newest 100", logql: everything, ours: "", peer: "*", goal: 0.7, match: func(*lineView) bool { return true }},
		{
			name: "Chinese word, count", logql: everything + ` |= "超时"`, kind: askCount, ours: "超时", peer: "*超时*", goal: 0.7, match: func(v *lineView) bool { return bytes.Contains(v.text, []byte("超时")) },
			note: "VictoriaLogs takes a run of Chinese for one word: it is asked for the piece of text",
		},
	}
}

func field(v *lineView, name string) string { return wire.Labels(v.fields).Get(name) }

// hasWord finds a word, or some in a row with one space between, that no letter or digit goes on.
func hasWord(word string) func(v *lineView) bool {
	return func(v *lineView) bool {
		for from := 0; ; {
			i := bytes.Index(v.lower[from:], []byte(word))
			if i < 0 {
				return false
			}
			i += from
			end := i + len(word)
			if (i == 0 || !isAlnum(v.lower[i-1])) && (end == len(v.lower) || !isAlnum(v.lower[end])) {
				return true
			}
			from = i + 1
		}
	}
}

func hasPrefix(lower []byte, prefix string) bool {
	for from := 0; ; {
		i := bytes.Index(lower[from:], []byte(prefix))
		if i < 0 {
			return false
		}
		i += from
		if i == 0 || !isAlnum(lower[i-1]) {
			return true
		}
		from = i + 1
	}
}

// benchAnswer is an answer of a system, or what it should be.
type benchAnswer struct {
	rows  []benchRow // newest first
	count int64
	bars  map[int64]int64 // by the first second of a minute; without those that are 0
}

type benchRow struct {
	t    int64
	text string
}

// reference is what a walk through all lines finds.
type reference struct {
	queries []benchQuery
	want    []benchAnswer
	bytes   int64 // of the texts
}

// newReference answers all questions by looking at each line.
func (c *corpus) newReference() (*reference, error) {
	id, err := c.someID()
	if err != nil {
		return nil, err
	}
	ref := &reference{queries: benchQueries(id)}
	ref.want = make([]benchAnswer, len(ref.queries))
	for i := range ref.want {
		ref.want[i].bars = map[int64]int64{}
	}
	err = c.each(func(_ int, l *corpusLine) error {
		ref.bytes += int64(len(l.text))
		v := lineView{corpusLine: l, lower: bytes.ToLower(l.text)}
		for i := range ref.queries {
			if !ref.queries[i].match(&v) {
				continue
			}
			a := &ref.want[i]
			a.count++
			switch ref.queries[i].kind {
			case askRows:
				a.rows = append(a.rows, benchRow{l.t, string(l.text)})
				if len(a.rows) > 100*askedRows {
					a.rows = slices.Clone(a.rows[len(a.rows)-askedRows:])
				}
			case askBars:
				a.bars[l.t/1e9/60*60]++
			}
		}
		return nil
	})
	for i := range ref.want {
		a := &ref.want[i]
		slices.Reverse(a.rows)
		a.rows = a.rows[:min(len(a.rows), askedRows)]
	}
	return ref, err
}

// someID is the id of a trace that one line has.
func (c *corpus) someID() (id string, err error) {
	find := regexp.MustCompile(`trace_id[^0-9a-f]+([0-9a-f]{32})`)
	err = c.each(func(i int, l *corpusLine) error {
		if i >= c.n*37/100 {
			if m := find.FindSubmatch(l.text); m != nil {
				id = string(m[1])
				return errStopWalk
			}
		}
		return nil
	})
	if err == errStopWalk { //nolint:errorlint // our own, not wrapped
		err = nil
	}
	if err == nil && id == "" {
		err = fmt.Errorf("no line has an id: LINES=%d is too few", c.n)
	}
	return id, err
}

var errStopWalk = fmt.Errorf("the walk ends here")

// difference says how an answer differs from what it should be, "" when it does not.
func (q *benchQuery) difference(got, want *benchAnswer) string {
	switch q.kind {
	case askCount:
		if got.count != want.count {
			return fmt.Sprintf("%d lines, %d are right", got.count, want.count)
		}
	case askBars:
		var gotSum, wantSum int64
		for _, n := range got.bars {
			gotSum += n
		}
		for at, n := range want.bars {
			if wantSum += n; got.bars[at] != n {
				return fmt.Sprintf("%d lines in the minute of %s, %d are right", got.bars[at], time.Unix(at, 0).UTC().Format("15:04"), n)
			}
		}
		if gotSum != wantSum {
			return fmt.Sprintf("%d lines in all minutes, %d are right", gotSum, wantSum)
		}
	case askRows:
		if len(got.rows) != len(want.rows) {
			return fmt.Sprintf("%d rows, %d are right", len(got.rows), len(want.rows))
		}
		for i := range want.rows {
			if got.rows[i] != want.rows[i] {
				return fmt.Sprintf("row %d is %d %q, %d %q is right", i, got.rows[i].t, got.rows[i].text, want.rows[i].t, want.rows[i].text)
			}
		}
	}
	return ""
}

// logSystem is one that is asked.
type logSystem interface {
	name() string
	// request is the question; parse reads the answer to it.
	request(ctx context.Context, q *benchQuery) (*http.Request, error)
	parse(q *benchQuery, body []byte) (benchAnswer, error)
	client() *http.Client
	pid() int
	// restart ends the process and starts it again with what it has stored.
	restart(ctx context.Context) error
}

// sortRows puts the newest first.
func sortRows(rows []benchRow) {
	slices.SortFunc(rows, func(a, b benchRow) int { return cmp.Compare(b.t, a.t) })
}
