package testcluster

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// row is one line as a client of Loki shows it.
type row struct {
	t      int64
	stream string
	text   string
}

// pager reads lines as logcli is documented to: up to batch lines with one request until there are limit. The next request ends,
// or starts, at the time of the last line, since others of the same time may be missing; those that come twice are dropped.
type pager struct {
	c            *Cluster
	query        string
	start, end   int64
	limit, batch int
	forward      bool
}

// read asks another node for each page.
func (p *pager) read(nodes []*Node) (out []row, requests int, err error) {
	seen := map[row]bool{}
	start, end, again := p.start, p.end, 0
	for len(out) < p.limit {
		asked := min(p.batch, p.limit-len(out)) + again
		page, err := p.page(nodes[requests%len(nodes)], start, end, asked)
		if err != nil {
			return nil, 0, err
		}
		requests++
		fresh := 0
		for _, r := range page {
			if !seen[r] {
				seen[r] = true
				out = append(out, r)
				fresh++
			}
		}
		if len(page) < asked || fresh == 0 {
			break
		}
		last := page[len(page)-1].t
		if again = 0; p.forward {
			start = last
		} else {
			end = last + 1 // the end itself is not part of the time
		}
		for _, r := range page {
			if r.t == last {
				again++
			}
		}
	}
	return out, requests, nil
}

// page asks for some lines and returns them in the direction of the query.
func (p *pager) page(n *Node, start, end int64, limit int) ([]row, error) {
	direction := "BACKWARD"
	if p.forward {
		direction = "FORWARD"
	}
	form := url.Values{
		"query": {p.query}, "limit": {strconv.Itoa(limit)}, "direction": {direction},
		"start": {strconv.FormatInt(start, 10)}, "end": {strconv.FormatInt(end, 10)},
	}
	req, err := http.NewRequest(http.MethodGet, n.URL()+"/loki/api/v1/query_range?"+form.Encode(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+p.c.Token)
	resp, err := p.c.HTTP.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var a struct {
		Data struct {
			Result []struct {
				Stream map[string]string `json:"stream"`
				Values [][2]string       `json:"values"`
			} `json:"result"`
		} `json:"data"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&a); err != nil || resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %w", resp.Status, err)
	}
	var out []row
	for _, s := range a.Data.Result {
		for _, v := range s.Values {
			t, err := strconv.ParseInt(v[0], 10, 64)
			if err != nil {
				return nil, err
			}
			out = append(out, row{t, fmt.Sprint(s.Stream), v[1]})
		}
	}
	slices.SortStableFunc(out, func(a, b row) int {
		if p.forward {
			return cmp.Compare(a.t, b.t)
		}
		return cmp.Compare(b.t, a.t)
	})
	return out, nil
}

// pages checks that lines come whole whatever the size of a batch, when each page is another node's.
func (s *session) pages(t *testing.T, nodes []*Node, query string, total int) {
	t.Helper()
	p := &pager{c: s.c, query: query, start: s.base.Add(-time.Hour).UnixNano(), end: s.base.Add(time.Hour).UnixNano()}
	for _, p.forward = range []bool{false, true} {
		p.limit, p.batch = 5000, 5000
		whole, _, err := p.read(nodes)
		if err != nil || len(whole) != total {
			t.Fatalf("%s: %d lines of %d: %v", query, len(whole), total, err)
		}
		for _, p.batch = range []int{4, 7, 1000} {
			got, requests, err := p.read(nodes)
			if err != nil {
				t.Fatal(err)
			}
			if p.batch < total && requests < total/p.batch {
				t.Errorf("%s: %d lines by %d in %d requests", query, total, p.batch, requests)
			}
			if !sameRows(whole, got) {
				t.Errorf("%s (forward %v): pages of %d give %d lines, not the %d\n%v\n%v", query, p.forward, p.batch, len(got), len(whole), got, whole)
			}
		}
		// --parallel-duration: parts of the time, each by itself, are the whole.
		var parts []row
		for at := s.base.UnixNano(); at < p.end; at += int64(7 * time.Second) {
			part := *p
			part.start, part.end = at, at+int64(7*time.Second)
			if at > s.base.Add(time.Minute).UnixNano() { // behind the last line
				part.end = p.end
			}
			got, _, err := part.read(nodes)
			if err != nil {
				t.Fatal(err)
			}
			if p.forward {
				parts = append(parts, got...)
			} else {
				parts = append(got, parts...)
			}
			if part.end == p.end {
				break
			}
		}
		if !sameRows(whole, parts) {
			t.Errorf("%s (forward %v): parts of the time give %d lines, not the %d", query, p.forward, len(parts), len(whole))
		}
		p.limit, p.batch = total-3, 4
		got, _, err := p.read(nodes)
		if err != nil || len(got) != p.limit || got[len(got)-1].t != whole[len(got)-1].t {
			t.Errorf("%s (forward %v): %d lines of at most %d, %v", query, p.forward, len(got), p.limit, err)
		}
	}
}

// sameRows reports whether two answers have the same lines at the same times. Those of one time have no order among streams.
func sameRows(a, b []row) bool {
	sorted := func(list []row) []row {
		return slices.SortedFunc(slices.Values(list), func(x, y row) int {
			return cmp.Or(cmp.Compare(x.t, y.t), cmp.Compare(x.stream, y.stream), cmp.Compare(x.text, y.text))
		})
	}
	times := func(list []row) (out []int64) {
		for _, r := range list {
			out = append(out, r.t)
		}
		return out
	}
	return slices.Equal(sorted(a), sorted(b)) && slices.Equal(times(a), times(b))
}

// What logcli is documented to ask is answered alike by every node, also while the leader is away: queries, pages of lines
// that have equal times, and a tail that waits for late lines.
func TestLogcliOverThreeNodes(t *testing.T) {
	t.Parallel()
	c := Start(t, 3)
	s, token := recorded(t, c, "testdata/logcli.json", 20)
	// Times that lines of one stream and of several have in common.
	push := &sender{c: &Cluster{HTTP: c.HTTP, Nodes: c.Nodes}, token: token}
	for _, host := range []string{"a", "b"} {
		var values []string
		for k := range 12 {
			values = append(values, fmt.Sprintf(`["%d","crowd %d"]`, s.base.Add(time.Duration(k/3)*time.Second).UnixNano(), k))
		}
		body := fmt.Sprintf(`{"streams":[{"stream":{"app":"crowd","host":%q},"values":[%s]}]}`, host, strings.Join(values, ","))
		Until(t, "a push", func() error { return push.push("/loki/api/v1/push", "application/json", "", []byte(body)) })
	}
	c.WaitEqual(t)
	s.pages(t, c.Nodes, `{app="web"}`, 20)
	s.pages(t, c.Nodes, `{app="crowd", host="a"}`, 12)
	s.pages(t, c.Nodes, `{app="crowd", host="a"} | line_format "<{{__line__}}>"`, 12)
	s.pages(t, c.Nodes, `{host=~".+"} != "crowd"`, 30)

	leader := c.Leader(t)
	var others []*Node
	for _, n := range c.Nodes {
		if n != leader {
			others = append(others, n)
		}
	}
	live := s.follow(t, others[0], "2")
	leader.Stop(t)
	s.lines(t, token, 20, 30)
	c.WaitEqual(t)
	s.pages(t, others, `{app="web"}`, 30)
	onceEach(t, live, 30)
}
