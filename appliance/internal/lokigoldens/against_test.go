package lokigoldens

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/api/lokiapi"
	"github.com/triward/triward/appliance/intake"
	"github.com/triward/triward/logstore"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/machine"
	"github.com/triward/triward/raftstate/meta"
	"github.com/triward/triward/ui"
)

// node is a log of one member from the push to the answer: intake, state machine, store and API.
type node struct {
	t     *testing.T
	m     *machine.Machine
	store *logstore.Store
	feed  *ui.LineFeed
	in    *intake.Intake
	api   *lokiapi.API
	index uint64
}

func newNode(t *testing.T) *node {
	t.Helper()
	now := func() time.Time { return time.Unix(Base, 0).Add(time.Hour) }
	coder, err := wire.NewCoder()
	must(t, err)
	state, err := meta.Open(filepath.Join(t.TempDir(), "meta.db"), slog.New(slog.DiscardHandler))
	must(t, err)
	t.Cleanup(func() { must(t, state.Close()) })
	store, err := logstore.New(logstore.Options{Log: slog.New(slog.DiscardHandler), Manual: true, CacheBytes: 1 << 20, MemTableBytes: 1 << 20, Now: now})
	must(t, err)
	must(t, store.Open(t.TempDir()))
	t.Cleanup(func() { must(t, store.Close()) })
	n := &node{t: t, m: machine.New(state, coder, machine.DefaultLimits()), store: store, feed: ui.NewLineFeed()}
	n.api = lokiapi.New(lokiapi.Options{Store: store, Feed: n.feed, Gate: anybody{}})
	n.in = intake.New(intake.Options{Cluster: n, Coder: coder, Metrics: prometheus.NewRegistry()})
	t.Cleanup(func() { must(t, n.api.Close()) })
	return n
}

// Propose implements intake.Cluster: what is proposed is applied at once.
func (n *node) Propose(_ context.Context, cmds ...command.Command) (uint64, []command.Result, error) {
	n.index++
	var g machine.Group
	results, err := n.m.Apply(n.index, 1, command.Entry{Stamp: (Base + 3600) * 1000, Commands: cmds}, &g)
	if err != nil {
		return 0, nil, err
	}
	n.m.Finish(&g)
	err = n.store.ApplyLogs(n.index, g.Logs)
	n.feed.Observe(n.index, g.Logs)
	return n.index, results, err
}

// anybody is a gate through which everybody may follow lines.
type anybody struct{}

func (anybody) Viewer(*http.Request) (ui.Viewer, bool) { return ui.Viewer{User: "u"}, true }
func (anybody) Recheck(v ui.Viewer) (ui.Viewer, bool)  { return v, true }
func (anybody) May(ui.Viewer, string) bool             { return true }
func (anybody) Origins() []string                      { return nil }

func (n *node) push(p *Push) {
	n.t.Helper()
	contentType, body, err := p.Request()
	must(n.t, err)
	r := httptest.NewRequest(http.MethodPost, Prefix+"push", bytes.NewReader(body))
	r.Header.Set("Content-Type", contentType)
	w := httptest.NewRecorder()
	must(n.t, n.in.LokiPush(w, r))
	if w.Code != http.StatusNoContent {
		n.t.Fatalf("push: %d %s", w.Code, w.Body)
	}
}

func (n *node) ask(q *Question, theirs *Answer) *Answer {
	n.t.Helper()
	if q.Path == Tail {
		return n.follow(q, theirs)
	}
	target, err := q.URL()
	must(n.t, err)
	w := httptest.NewRecorder()
	n.api.ServeHTTP(w, httptest.NewRequest(http.MethodGet, target, nil))
	if w.Code >= 500 {
		n.t.Errorf("%s: %d %s", q.Name, w.Code, w.Body)
	}
	a, err := q.Read(w.Code, w.Body.Bytes())
	must(n.t, err)
	return a
}

// follow waits for as many lines as Loki's tail began with.
func (n *node) follow(q *Question, theirs *Answer) *Answer {
	n.t.Helper()
	there := 0
	if data, ok := theirs.Data.(map[string]any); ok {
		there = len(data[Before].([]any))
	}
	srv := httptest.NewServer(n.api)
	n.t.Cleanup(srv.Close)
	ctx, cancel := context.WithTimeout(n.t.Context(), time.Minute)
	defer cancel()
	a, err := q.Follow(ctx, "ws"+strings.TrimPrefix(srv.URL, "http"), http.Header{"Authorization": {"Bearer x"}}, there, func(p *Push) error { n.push(p); return nil })
	must(n.t, err)
	return a
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// difference is a question that we answer otherwise than the Loki that was asked, with our answer.
type difference struct {
	Name    string `json:"name"`
	Class   string `json:"class"`
	Data    any    `json:"data,omitempty"`
	Refused string `json:"refused,omitempty"` // a piece of our message
}

type differences struct {
	Classes     map[string]string `json:"classes"` // why it is right
	Differences []difference      `json:"differences"`
}

// layouts are how often the store makes blocks while lines come: never, behind each push, and so that the last lines wait.
var layouts = map[string]func(nth, of int) bool{
	"inbox":  func(int, int) bool { return false },
	"blocks": func(int, int) bool { return true },
	"both":   func(nth, of int) bool { return nth%2 == 0 && nth < of-1 },
}

// What a real Loki answered is what we answer, but for what differences.json lists with a reason; and what it lists does differ.
func TestAgainstLoki(t *testing.T) {
	g, err := Load("testdata")
	must(t, err)
	var recorded Recorded
	must(t, ReadJSON("testdata/answers.json", &recorded))
	var listed differences
	must(t, ReadJSON("testdata/differences.json", &listed))
	if recorded.Loki != LokiVersion || len(g.Questions) < 180 || len(recorded.Answers) != len(g.Questions) {
		t.Fatalf("%d answers of Loki %s to %d questions: make loki-goldens records them again", len(recorded.Answers), recorded.Loki, len(g.Questions))
	}
	expected := map[string]*difference{}
	used := map[string]bool{}
	for i := range listed.Differences {
		d := &listed.Differences[i]
		if expected[d.Name] != nil || listed.Classes[d.Class] == "" || (d.Data == nil) == (d.Refused == "") {
			t.Errorf("difference %q: listed twice, without a class that says why, or not with one answer", d.Name)
		}
		expected[d.Name], used[d.Class] = d, true
	}
	for class := range listed.Classes {
		if !used[class] {
			t.Errorf("no difference is of the class %s", class)
		}
	}
	asked := map[string]bool{}
	for i := range g.Questions {
		q := &g.Questions[i]
		asked[q.Name] = true
		if !reflect.DeepEqual(recorded.Answers[i].Ask, *q) {
			t.Fatalf("the answer to %q is to another question: make loki-goldens", q.Name)
		}
	}
	for name := range expected {
		if !asked[name] {
			t.Errorf("difference %q: there is no such question", name)
		}
	}
	for layout, seal := range layouts {
		t.Run(layout, func(t *testing.T) {
			for corpus, pushes := range g.Corpora {
				n := newNode(t)
				for i := range pushes {
					n.push(&pushes[i])
					if seal(i, len(pushes)) {
						must(t, n.store.Work(t.Context(), true))
					}
				}
				for i := range g.Questions {
					if q := &g.Questions[i]; q.Corpus == corpus {
						compare(t, n.ask(q, &recorded.Answers[i]), &recorded.Answers[i], expected[q.Name])
					}
				}
			}
		})
	}
}

func compare(t *testing.T, ours, theirs *Answer, d *difference) {
	t.Helper()
	name := theirs.Ask.Name
	same := (ours.Refused != "") == (theirs.Refused != "") && Alike(ours.Data, theirs.Data)
	switch {
	case d == nil && !same:
		t.Errorf("%s: %s\n ours %s\ntheirs %s", name, theirs.Ask.Query, text(ours), text(theirs))
	case d != nil && same:
		t.Errorf("%s: is listed as a difference and is none", name)
	case d != nil && d.Refused != "" && !strings.Contains(ours.Refused, d.Refused),
		d != nil && d.Refused == "" && (ours.Refused != "" || !Alike(ours.Data, d.Data)):
		t.Errorf("%s: %s\n ours %s\nlisted %v %s", name, theirs.Ask.Query, text(ours), d.Data, d.Refused)
	}
}

func text(a *Answer) string {
	b, err := json.Marshal(struct {
		Data    any    `json:"data,omitempty"`
		Refused string `json:"refused,omitempty"`
	}{a.Data, a.Refused})
	if err != nil {
		return err.Error()
	}
	return string(b)
}
