package cli

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/triward/triward/appliance/api"
)

// exportNode sends rows [from cursor, to cut) and breaks the connection at `cut`, in the middle of a line; 0 for none.
type exportNode struct {
	rows  []api.LogRow
	cut   int
	asked []string
	stats api.LogStats
}

func (n *exportNode) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n.asked = append(n.asked, r.URL.Query().Get("cursor")+" "+r.URL.Query().Get("limit")+" "+r.URL.Query().Get("min_index"))
	at := 0
	for i := range n.rows {
		if n.rows[i].Cursor() == r.URL.Query().Get("cursor") {
			at = i + 1
		}
	}
	w.Header().Set("X-Triward-Index", "42")
	w.WriteHeader(http.StatusOK)
	lines := api.NewLogWriter(w, api.FormJSONL, nil)
	sent := 0
	for i := at; i < len(n.rows); i++ {
		if n.cut > 0 && sent == n.cut {
			line, _ := json.Marshal(n.rows[i])
			_, _ = w.Write(line[:len(line)/2])
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
		if limit, err := strconv.Atoi(r.URL.Query().Get("limit")); err == nil && sent == limit {
			break
		}
		_ = lines.Line(&n.rows[i])
		sent++
	}
	_ = lines.End(&api.ExportEnd{Lines: int64(sent), Stats: n.stats})
}

func exportNodes(t *testing.T, nodes ...http.Handler) {
	t.Helper()
	alone(t)
	c := Context{Token: "secret"}
	for i, n := range nodes {
		s := httptest.NewServer(n)
		t.Cleanup(s.Close)
		c.Nodes = append(c.Nodes, ContextNode{fmt.Sprint("n", i), s.URL})
	}
	if err := c.write(); err != nil {
		t.Fatal(err)
	}
}

func someRows(n int) (rows []api.LogRow) {
	for i := range n {
		r := api.LogRow{T: strconv.Itoa(1700000000000000000 + i), Pos: fmt.Sprintf("%d.1", i), Severity: "info", Labels: map[string]string{"host": "h"}}
		r.SetText(fmt.Appendf(nil, "line %d \xff", i))
		rows = append(rows, r)
	}
	return rows
}

// A connection that is lost costs no line and doubles none, and what is not whole never ends with 0.
func TestExportGoesOnAtAnotherNode(t *testing.T) {
	rows := someRows(20)
	first, second := &exportNode{rows: rows, cut: 7}, &exportNode{rows: rows, cut: 5}
	exportNodes(t, first, second)
	code, out, errs := run(t, "logs", "export", "line", "--format", "raw")
	want := ""
	for i := range rows {
		want += string(rows[i].Raw()) + "\n"
	}
	if code != ExitOK || out != want {
		t.Errorf("code %d\n%q\n%s", code, out, errs)
	}
	if len(first.asked) < 2 || second.asked[0] != "1700000000000000006.6.1  42" {
		t.Errorf("asked %q and %q", first.asked, second.asked)
	}
	first.asked, second.asked = nil, nil
	code, out, errs = run(t, "logs", "export", "--limit", "9", "--format", "csv", "--columns", "pos,text")
	if lines := strings.Split(strings.TrimSpace(out), "\n"); code != ExitOK || len(lines) != 10 || lines[0] != "pos,text" || lines[9] != "8.1,line 8 \uFFFD" {
		t.Errorf("code %d\n%q\n%s", code, out, errs)
	}
}

// silent ends as if all was well, and does not say so.
type silent struct {
	n     exportNode
	again bool // the same line, whatever is asked
}

func (s *silent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !s.again && r.URL.Query().Get("cursor") != "" {
		return
	}
	_ = api.NewLogWriter(w, api.FormJSONL, nil).Line(&s.n.rows[0])
}

func TestExportThatIsNotWholeFails(t *testing.T) {
	rows := someRows(3)
	exportNodes(t, &silent{exportNode{rows: rows}, true})
	if code, out, errs := run(t, "logs", "export"); code != ExitFailed || !strings.Contains(errs, "sends lines twice") || strings.Count(out, "\n") != 1 {
		t.Errorf("a node that begins anew: code %d\n%q\n%s", code, out, errs)
	}
	exportNodes(t, &silent{exportNode{rows: rows}, false})
	code, out, errs := run(t, "logs", "export")
	if code != ExitFailed || !strings.Contains(errs, "--cursor 1700000000000000000.0.1") {
		t.Errorf("an answer that ends early: code %d\n%q\n%s", code, out, errs)
	}
	exportNodes(t, &exportNode{rows: rows, stats: api.LogStats{Partial: true, Damaged: []string{"block 7"}}})
	code, out, errs = run(t, "logs", "export", "--stats")
	if code != ExitFailed || strings.Count(out, "\n") != 3 || !strings.Contains(errs, "block 7") || !strings.Contains(errs, "lines are missing") {
		t.Errorf("a node with damage: code %d\n%q\n%s", code, out, errs)
	}
	refuse := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(w, `{"title":"Bad Request","status":400,"detail":"query at byte 3","pos":3}`)
	})
	exportNodes(t, refuse)
	if code, _, errs := run(t, "logs", "export", "a ("); code != ExitFailed || !strings.Contains(errs, "at byte 3") || !strings.Contains(errs, "\n  a (\n     ^\n") || strings.Contains(errs, "connection lost") {
		t.Errorf("a bad query: code %d\n%s", code, errs)
	}
	for _, args := range [][]string{{"--format", "xml"}, {"--order", "up"}, {"--columns", "a,a"}, {"--limit", "-1"}, {"--start", "now", "--end", "now-1h"}} {
		if code, _, errs := run(t, append([]string{"logs", "export"}, args...)...); code != ExitFailed || errs == "" {
			t.Errorf("%v: code %d %s", args, code, errs)
		}
	}
}

func TestLogCountsArePrinted(t *testing.T) {
	alone(t)
	s := node(t, "secret", map[string]string{
		"/v1/logs/hits":   `{"t0":1700000000000,"step":60000,"total":6,"field":"host","series":[{"value":"web\u001b","counts":[1,0]}],"other":[2,0],"without":[0,3],"capped":true,"stats":{"considered":9,"partial":true,"damaged":["x"]}}`,
		"/v1/logs/facets": `{"field":"host","lines":3,"values":[{"value":"web","count":3}],"stats":{"considered":4,"blocks":1,"skipped_index":3,"pending_index":1}}`,
		"/v1/logs/labels": `{"labels":["host","unit"]}`, "/v1/logs/labels/host/values": `{"values":["web","db"]}`,
		"/v1/logs/series":  `{"streams":[{"kind":"log","labels":{"host":"web"}}],"more":true}`,
		"/v1/logs/context": `{"rows":[{"t":"1","pos":"1.1","severity":"info","text":"a","labels":{}},{"t":"2","pos":"1.2","severity":"info","text":"b","labels":{}}],"at":1,"stats":{}}`,
		"/v1/logs/query":   `{"rows":[{"t":"1700000000000000000","pos":"1.1","severity":"info","text":"a","labels":{}}],"stats":{"considered":2,"blocks":2,"scanned_lines":77,"ms":1.5}}`,
	})
	t.Setenv("TRIWARD_ADDR", s.URL)
	t.Setenv("TRIWARD_TOKEN", "secret")
	for _, c := range []struct {
		args      []string
		out, errs []string
	}{
		{[]string{"hits", "--field", "host"}, []string{"WEB\uFFFD", "(OTHER)", "(WITHOUT)"}, []string{"more frequent", "warning: lines are missing", ": x"}},
		{[]string{"top", "host", "error", "--stats"}, []string{"web", "3"}, []string{"of 4 blocks 1 opened", "3 by word index", "1 are not in the word index yet"}},
		{[]string{"labels"}, []string{"host\nunit\n"}, nil},
		{[]string{"labels", "host"}, []string{"web\ndb\n"}, nil},
		{[]string{"series"}, []string{`{host="web"}`}, []string{"there are more"}},
		{[]string{"context", "2.1.2"}, []string{"\n> "}, nil},
		{[]string{"query", "a", "--ids", "--stats"}, []string{"1700000000000000000.1.1 "}, []string{"77 lines"}},
	} {
		code, out, errs := run(t, append([]string{"logs"}, c.args...)...)
		if want := c.args[0] == "hits"; (code == ExitWarnings) != want || !want && code != ExitOK { // its answer is partial
			t.Errorf("%v: code %d %s", c.args, code, errs)
		}
		for _, want := range c.out {
			if !strings.Contains(out, want) {
				t.Errorf("%v: %q has no %q", c.args, out, want)
			}
		}
		for _, want := range c.errs {
			if !strings.Contains(errs, want) {
				t.Errorf("%v: %q has no %q", c.args, errs, want)
			}
		}
	}
	if code, _, errs := run(t, "logs", "context", "abc"); code != ExitFailed || !strings.Contains(errs, "--ids") {
		t.Errorf("a bad id: %d %s", code, errs)
	}
}

// Answers that lack what is damaged are warned of and exit with 3, whatever is asked and in whichever form. Whole ones are not, and
// the node that gave one in place of another is named.
func TestPartialAnswersAreWarnings(t *testing.T) {
	var stats api.LogStats
	exportNodes(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"stats": stats})
	}))
	for _, args := range [][]string{
		{"logs", "query", "x"},
		{"logs", "hits"},
		{"logs", "top", "host"},
		{"logs", "labels"},
		{"logs", "series"},
		{"logs", "patterns"},
		{"logs", "context", "1.2.3"},
		{"events", "query"},
	} {
		for _, c := range []struct {
			stats api.LogStats
			code  int
			says  string
		}{
			{api.LogStats{}, ExitOK, ""},
			{api.LogStats{Node: "n3"}, ExitOK, "node n3 answered"},
			{api.LogStats{Partial: true, Damaged: []string{"day 3"}}, ExitWarnings, "day 3, and the other nodes that answered lack parts too"},
			{api.LogStats{Partial: true, Unasked: true}, ExitWarnings, "no other node could be asked"},
		} {
			for _, form := range []string{"table", "json"} {
				stats = c.stats
				code, _, errs := run(t, append(args, "-o", form)...)
				if code != c.code || !strings.Contains(errs, c.says) || c.says == "" && errs != "" {
					t.Errorf("%v as %s with %+v: %d %s", args, form, c.stats, code, errs)
				}
			}
		}
	}
}
