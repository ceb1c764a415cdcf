package testcluster

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/api"
)

// exported returns the body of an export and whether it ended as one that is whole.
func (c *Cluster) exported(t *testing.T, n *Node, q url.Values) (body []byte, lines string) {
	t.Helper()
	resp, err := c.do(http.MethodGet, n.URL()+"/v1/logs/export?"+q.Encode(), nil, nil)
	must(t, err)
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	must(t, err)
	return body, resp.Trailer.Get(api.ExportLinesTrailer)
}

// Questions about lines are answered the same by every node, before and after lines are sealed into blocks, and an export
// goes on at another node.
func TestLinesAreCountedAndExportedTheSameEverywhere(t *testing.T) {
	t.Parallel()
	c := Start(t, 3)
	start := time.Now().Add(-time.Minute)
	const perHost = 120
	texts := map[string]bool{}
	hosts := []string{"host-a", "host-b", "host-c"}
	for h, host := range hosts {
		a := c.NewAgent(t, host)
		for i := range perHost {
			text := fmt.Sprintf("walrus %s line %d 错误", host, i)
			if i%10 == 0 {
				text += " \xff\xfe"
			}
			texts[text] = true
			must(t, sendAgain(a, c.Nodes[(h+i)%3], []wire.Batch{a.Lines(start.UnixNano()+int64(i*3+h)*1e6, text)}))
		}
	}
	c.WaitEqual(t)
	span := url.Values{"start": {fmt.Sprint(start.UnixNano())}, "end": {"now"}, "query": {"walrus"}, "consistency": {"linearizable"}}
	check := func() {
		t.Helper()
		first := map[string][]byte{}
		for i, n := range c.Nodes {
			var hits api.LogHits
			must(t, c.Get(n, "/v1/logs/hits?"+span.Encode()+"&step=1h&field=host&top=2", &hits))
			if hits.Total != 3*perHost || len(hits.Series) != 2 || hits.Series[0].Value != "host-a" || len(hits.Other) == 0 || hits.Stats.Partial {
				t.Errorf("node %d: hits by host %+v", i, hits)
			}
			var top api.Facet
			must(t, c.Get(n, "/v1/logs/facets?"+span.Encode()+"&field=host", &top))
			if len(top.Values) != 3 || top.Values[0].Count != perHost || top.Lines != 3*perHost {
				t.Errorf("node %d: top hosts %+v", i, top)
			}
			var found api.LogPatterns
			must(t, c.Get(n, "/v1/logs/patterns?"+span.Encode()+"&step=1h&since="+fmt.Sprint(start.UnixNano()), &found))
			if len(found.Patterns) != 6 || found.Lines != 3*perHost || found.Other != 0 || found.New != 6 || found.Patterns[0].Query != `@pattern:"walrus host-a line <*> 错误"` ||
				found.Patterns[0].Lines != perHost-perHost/10 || found.Patterns[0].Share == 0 || found.Stats.Partial {
				t.Errorf("node %d: patterns %+v", i, found)
			}
			var series api.LogStreams
			must(t, c.Get(n, "/v1/logs/series?query="+url.QueryEscape("host:host-b file:/var/log/test.log"), &series))
			if len(series.Streams) != 1 || series.Streams[0].Labels["host"] != "host-b" || series.More {
				t.Errorf("node %d: series %+v", i, series)
			}
			var page api.LogPage
			must(t, c.Get(n, "/v1/logs/query?"+span.Encode()+"&order=oldest&limit=5", &page))
			if len(page.Rows) != 5 || string(page.Rows[0].Raw()) != "walrus host-a line 0 错误 \xff\xfe" || page.Rows[0].TextB64 == "" || page.Stats.Lines == 0 {
				t.Errorf("node %d: oldest first %+v", i, page)
			}
			var around api.LogAround
			must(t, c.Get(n, "/v1/logs/context?before=1&after=2&pos="+page.Rows[3].Pos+"&t="+page.Rows[3].T, &around))
			if len(around.Rows) != 4 || around.At != 1 || around.Rows[1].Pos != page.Rows[3].Pos || around.Rows[2].Labels["host"] != "host-a" {
				t.Errorf("node %d: context %+v", i, around)
			}
			for _, form := range api.LogForms {
				q := url.Values{"format": {form}, "columns": {"time,host,text,text_b64"}}
				for k, v := range span {
					q[k] = v
				}
				body, lines := c.exported(t, n, q)
				if lines != fmt.Sprint(3*perHost) {
					t.Errorf("node %d: %s export ends with %q lines", i, form, lines)
				}
				if first[form] == nil {
					first[form] = body
				} else if !bytes.Equal(first[form], body) {
					t.Errorf("node %d: its %s export is another one", i, form)
				}
			}
		}
		c.checkExport(t, first[api.FormJSONL], first[api.FormRaw], texts, span)
	}
	check()
	for _, n := range c.Nodes {
		must(t, n.App.Logs().Work(t.Context(), true))
	}
	check()
	var none struct{ Labels []string }
	must(t, c.Get(c.Nodes[0], "/v1/logs/labels?start=1000&end=2000", &none))
	if len(none.Labels) != 0 {
		t.Errorf("labels of January 1970: %v", none.Labels)
	}
}

// checkExport compares an export with what was sent, and with one that begins in its middle at another node.
func (c *Cluster) checkExport(t *testing.T, jsonl, raw []byte, texts map[string]bool, span url.Values) {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(string(jsonl), "\n"), "\n")
	seen := map[string]bool{}
	var middle string
	for i, line := range lines {
		var r api.LogRow
		must(t, json.Unmarshal([]byte(line), &r))
		seen[string(r.Raw())] = true
		if i == len(lines)/2 {
			middle = r.Cursor()
		}
	}
	for text := range texts {
		if !seen[text] || !bytes.Contains(raw, append([]byte(text), '\n')) {
			t.Errorf("%q is not exported as it came", text)
		}
	}
	q := url.Values{"cursor": {middle}}
	for k, v := range span {
		q[k] = v
	}
	rest, _ := c.exported(t, c.Nodes[1], q)
	if want := strings.Join(lines[len(lines)/2+1:], "\n") + "\n"; string(rest) != want {
		t.Errorf("behind %s:\n%s\nwant\n%s", middle, rest, want)
	}
}
