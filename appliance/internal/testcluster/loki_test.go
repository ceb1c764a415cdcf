package testcluster

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// asked is one request of a recorded session. In its texts $ns(N) and $s(N) stand for the time N seconds behind the first
// line, $name for what the test knows of the lines.
type asked struct {
	What       string              `json:"what"`
	Method     string              `json:"method"`
	Path       string              `json:"path"`
	Params     map[string][]string `json:"params"`
	Categorize bool                `json:"categorize"`
	Basic      bool                `json:"basic"` // the token is shown as the password of a user
	Code       int                 `json:"code"`  // 200 when absent
	Raw        bool                `json:"raw"`   // the answer has no status and data
	Want       json.RawMessage     `json:"want"`  // data of the answer without its stats
	Holds      []string            `json:"holds"` // pieces of the answer
}

// session replays what a client of Loki asks.
type session struct {
	c    *Cluster
	base time.Time
	know map[string]string
	list []asked
}

var placeholder = regexp.MustCompile(`"?\$(ns|s)\((-?[0-9]+)\)"?|"?\$([a-z0-9]+)`)

// fill puts values into a text. A quoted $s(N) of JSON becomes a number.
func (s *session) fill(text string) string {
	return placeholder.ReplaceAllStringFunc(text, func(m string) string {
		p := placeholder.FindStringSubmatch(m)
		quote := ""
		if strings.HasPrefix(m, `"`) {
			quote = `"`
		}
		if p[3] != "" {
			v, ok := s.know[p[3]]
			if !ok {
				return m
			}
			return quote + v
		}
		n, err := strconv.Atoi(p[2])
		if err != nil {
			return m
		}
		at := s.base.Add(time.Duration(n) * time.Second)
		end := ""
		if strings.HasSuffix(m, `"`) {
			end = `"`
		}
		if p[1] == "ns" {
			return quote + strconv.FormatInt(at.UnixNano(), 10) + end
		}
		return strconv.FormatInt(at.Unix(), 10)
	})
}

// ask sends one request to a node and compares the answer.
func (s *session) ask(n *Node, a *asked) error {
	form := url.Values{}
	for name, values := range a.Params {
		for _, v := range values {
			form.Add(name, s.fill(v))
		}
	}
	method, target, body := http.MethodGet, n.URL()+"/loki/api/v1/"+a.Path, io.Reader(nil)
	if a.Method == http.MethodPost {
		method, body = a.Method, strings.NewReader(form.Encode())
	} else {
		target += "?" + form.Encode()
	}
	req, err := http.NewRequest(method, target, body)
	if err != nil {
		return err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	req.Header.Set("Authorization", "Bearer "+s.c.Token)
	if a.Basic {
		req.SetBasicAuth("anybody", s.c.Token)
	}
	req.Header.Set("X-Scope-OrgID", "1")
	if a.Categorize {
		req.Header.Set("X-Loki-Response-Encoding-Flags", "categorize-labels")
	}
	resp, err := s.c.HTTP.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(io.LimitReader(resp.Body, 32<<20))
	if err != nil {
		return err
	}
	want := a.Code
	if want == 0 {
		want = http.StatusOK
	}
	if resp.StatusCode != want {
		return fmt.Errorf("%s: %s", resp.Status, said)
	}
	for _, piece := range a.Holds {
		if piece = s.fill(piece); !strings.Contains(string(said), piece) {
			return fmt.Errorf("no %s in %s", piece, said)
		}
	}
	if a.Raw {
		return nil
	}
	var answer struct {
		Status   string          `json:"status"`
		Data     json.RawMessage `json:"data"`
		Warnings []string        `json:"warnings"`
	}
	if err := json.Unmarshal(said, &answer); err != nil || answer.Status != "success" || len(answer.Warnings) > 0 {
		return fmt.Errorf("%w: %s", err, said)
	}
	if a.Want == nil {
		return nil
	}
	var got, wanted any
	if err := json.Unmarshal(answer.Data, &got); err != nil {
		return err
	}
	if data, ok := got.(map[string]any); ok {
		delete(data, "stats")
	}
	filled := s.fill(string(a.Want))
	if err := json.Unmarshal([]byte(filled), &wanted); err != nil {
		return fmt.Errorf("%s: %w", filled, err)
	}
	if !reflect.DeepEqual(got, wanted) {
		return fmt.Errorf("got %s\nwant %s", answer.Data, filled)
	}
	return nil
}

// replay asks a node everything. Nothing may fail: what is not there yet is waited for before.
func (s *session) replay(t *testing.T, n *Node) {
	t.Helper()
	for i := range s.list {
		if err := s.ask(n, &s.list[i]); err != nil {
			t.Errorf("%s, %s: %v", n.Config.NodeID, s.list[i].What, err)
		}
	}
}

// lines pushes lines with the numbers from..to, each by another running node, and counts them.
func (s *session) lines(t *testing.T, token string, from, to int) {
	t.Helper()
	push := &sender{c: &Cluster{HTTP: s.c.HTTP}, token: token}
	for _, n := range s.c.Nodes {
		if n.App != nil {
			push.c.Nodes = append(push.c.Nodes, n)
		}
	}
	for k := from; k < to; k++ {
		at := s.base.Add(time.Duration(k) * time.Second).UnixNano()
		level, status := "info", 200
		if k%4 == 0 {
			level, status = "error", 500
		}
		web := fmt.Sprintf(`{"stream":{"app":"web","host":"h%d","env":"prod"},"values":[["%d",%q,{"detected_level":%q}]]}`,
			k%2, at, fmt.Sprintf(`{"method":"GET","status":%d,"n":%d}`, status, k), level)
		db := ""
		if k < 10 {
			db = fmt.Sprintf(`,{"stream":{"app":"db","host":"h2","env":"prod"},"values":[["%d","slow query %d",{"trace_id":"t%d"}]]}`, at, k, k)
		}
		Until(t, "a push", func() error {
			return push.push("/loki/api/v1/push", "application/json", "", []byte(`{"streams":[`+web+db+`]}`))
		})
		s.count("web", 1)
		s.count(level+"s", 1)
		s.count(fmt.Sprintf("sum%d", k%2), status)
	}
}

func (s *session) count(name string, n int) {
	was, _ := strconv.Atoi(s.know[name])
	s.know[name] = strconv.Itoa(was + n)
}

// recorded reads a session, delivers so many rounds of the lines that it asks for, and has every node answer it. The token may deliver more.
func recorded(t *testing.T, c *Cluster, file string, rounds int) (s *session, token string) {
	t.Helper()
	raw, err := os.ReadFile(file)
	must(t, err)
	s = &session{c: c, base: time.Now().Add(-20 * time.Minute).Truncate(time.Minute), know: map[string]string{}}
	must(t, json.Unmarshal(raw, &s.list))
	if len(s.list) < 15 {
		t.Fatalf("only %d requests are recorded", len(s.list))
	}
	var made struct {
		Token string `json:"token"`
	}
	must(t, c.Post(c.Nodes[0], "/v1/tokens/api", map[string]string{"name": "alloy", "role": "ingest"}, &made))
	s.lines(t, made.Token, 0, rounds)
	c.WaitEqual(t)
	for _, n := range c.Nodes {
		s.replay(t, n)
	}
	return s, made.Token
}

// A session of Explore gets the same answers of every node, before and after the leader has gone and come back, and a live
// tail on a follower goes on meanwhile.
func TestExploreOverThreeNodes(t *testing.T) {
	t.Parallel()
	c := Start(t, 3)
	s, token := recorded(t, c, "testdata/explore.json", 40)
	leader := c.Leader(t)
	var follower *Node
	for _, n := range c.Nodes {
		if n != leader {
			follower = n
		}
	}
	live := s.follow(t, follower, "0")
	leader.Stop(t)
	s.lines(t, token, 40, 60)
	c.WaitEqual(t)
	for _, n := range c.Nodes {
		if n != leader {
			s.replay(t, n)
		}
	}
	onceEach(t, live, 60)
	leader.Start(t)
	leader.WaitReady(t)
	c.WaitEqual(t)
	s.replay(t, leader)
}

// follow opens a live tail of all lines of the application, which wait delay seconds for earlier ones.
func (s *session) follow(t *testing.T, n *Node, delay string) *websocket.Conn {
	t.Helper()
	conf := s.c.TLS.Clone()
	conf.NextProtos = []string{"http/1.1"}
	q := url.Values{"query": {`{app="web"}`}, "start": {s.fill("$ns(-60)")}, "limit": {"1000"}, "delay_for": {delay}}
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	dialer := websocket.Dialer{TLSClientConfig: conf}
	ws, resp, err := dialer.DialContext(ctx, "wss"+strings.TrimPrefix(n.URL(), "https")+"/loki/api/v1/tail?"+q.Encode(), http.Header{"Authorization": {"Bearer " + s.c.Token}})
	if err != nil {
		t.Fatalf("%v %v", resp, err)
	}
	t.Cleanup(func() { _ = ws.Close() })
	return ws
}

// onceEach reads a tail until n lines came, of which none may come twice.
func onceEach(t *testing.T, live *websocket.Conn, n int) {
	t.Helper()
	seen := map[string]int{}
	for len(seen) < n {
		var m struct {
			Streams []struct {
				Values [][]any `json:"values"`
			} `json:"streams"`
			Dropped []any `json:"dropped_entries"`
		}
		_ = live.SetReadDeadline(time.Now().Add(Patience))
		if err := live.ReadJSON(&m); err != nil || len(m.Dropped) > 0 {
			t.Fatalf("after %d lines: %v, dropped %v", len(seen), err, m.Dropped)
		}
		for _, st := range m.Streams {
			for _, v := range st.Values {
				seen[fmt.Sprint(v[1])]++
			}
		}
	}
	for text, n := range seen {
		if n != 1 {
			t.Errorf("the tail showed %s %d times", text, n)
		}
	}
}
