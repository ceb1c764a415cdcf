package lokiapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore"
)

// follow opens a tail; the header may be nil for a token.
func (s *stand) follow(p url.Values, header http.Header) (*websocket.Conn, *http.Response, error) {
	s.t.Helper()
	srv := httptest.NewServer(s.api)
	s.t.Cleanup(srv.Close)
	if header == nil {
		header = http.Header{"Authorization": {"Bearer x"}}
	}
	ws, resp, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(srv.URL, "http")+Prefix+"tail?"+p.Encode(), header)
	if err == nil {
		s.t.Cleanup(func() { _ = ws.Close() })
	}
	return ws, resp, err
}

type tailed struct {
	Streams []struct {
		Stream map[string]string `json:"stream"`
		Values [][2]string       `json:"values"`
	} `json:"streams"`
	Dropped []struct {
		Labels    map[string]string `json:"labels"`
		Timestamp string            `json:"timestamp"`
	} `json:"dropped_entries"`
}

// lines reads messages until n lines came, and returns them with their stream.
func lines(t *testing.T, ws *websocket.Conn, n int) (out []string, dropped int) {
	t.Helper()
	_ = ws.SetReadDeadline(time.Now().Add(time.Minute))
	for len(out) < n {
		_, body, err := ws.ReadMessage()
		if err != nil {
			t.Fatalf("after %v: %v", out, err)
		}
		var m tailed
		if err := json.Unmarshal(body, &m); err != nil {
			t.Fatalf("%v: %s", err, body)
		}
		for _, s := range m.Streams {
			for _, v := range s.Values {
				out = append(out, s.Stream["host"]+" "+v[1])
			}
		}
		for _, d := range m.Dropped {
			k := 0
			if _, err := fmt.Sscan(d.Labels["dropped"], &k); err != nil || d.Timestamp == "" {
				t.Errorf("dropped: %s", body)
			}
			dropped += k
		}
	}
	return out, dropped
}

// A tail begins with the newest lines and goes on with those that come, each once.
func TestTail(t *testing.T) {
	s := newStand(t, nil)
	for i := range 30 {
		s.apply(stream(map[string]string{"host": "a"}, wire.SeverityInfo, fmt.Sprintf("error %02d", i), "fine"))
	}
	ws, _, err := s.follow(params("query", `{host=~"a|b"} |= "error" | line_format "<{{__line__}}>"`, "start", fmt.Sprint(t0), "limit", "3"), nil)
	if err != nil {
		t.Fatal(err)
	}
	got, _ := lines(t, ws, 3)
	for i := range 5 {
		s.apply(stream(map[string]string{"host": "b"}, wire.SeverityInfo, fmt.Sprintf("error %d", i), "fine"), stream(map[string]string{"host": "c"}, 0, "error"))
	}
	more, dropped := lines(t, ws, 5)
	want := "[a <error 27> a <error 28> a <error 29>] [b <error 0> b <error 1> b <error 2> b <error 3> b <error 4>] 0"
	if all := fmt.Sprint(got, more, dropped); all != want {
		t.Errorf("got %s\nwant %s", all, want)
	}
	close(s.gate.void)
	_ = ws.SetReadDeadline(time.Now().Add(time.Minute))
	if _, _, err := ws.ReadMessage(); !websocket.IsCloseError(err, websocket.ClosePolicyViolation) {
		t.Errorf("the session has ended: %v", err)
	}
}

// Lines that were never shown on this node are told as dropped, without a number.
func TestTailTellsWhatItMissed(t *testing.T) {
	s := newStand(t, nil)
	s.fill()
	ws, _, err := s.follow(params("query", `{app="db"}`, "start", fmt.Sprint(t0)), nil)
	if err != nil {
		t.Fatal(err)
	}
	lines(t, ws, 2)
	s.feed.Installed(99)
	_, body, err := ws.ReadMessage()
	if err != nil || !strings.Contains(string(body), `"dropped_entries":[{"labels":{"dropped":"unknown"},"timestamp":"`) {
		t.Errorf("%s %v", body, err)
	}
}

// With delay_for lines that come within the time are in the order of their times.
func TestDelayedLinesAreSorted(t *testing.T) {
	now := time.Now()
	x := &tail{asked: tailAsked{delay: 3 * time.Second}}
	for i, at := range []int64{5, 3, 9} {
		x.held = append(x.held, held{came: now.Add(time.Duration(i) * time.Second), t: at, text: "x", size: 1})
		x.heldBytes++
	}
	if got := x.due(now.Add(2 * time.Second)); len(got) != 0 {
		t.Errorf("too early: %v", got)
	}
	if got := x.due(now.Add(4 * time.Second)); len(got) != 2 || got[0].t != 3 || got[1].t != 5 || x.heldBytes != 1 {
		t.Errorf("%v, %d held", got, x.heldBytes)
	}
	if got := x.due(now.Add(time.Minute)); len(got) != 1 || len(x.held) != 0 || x.heldBytes != 0 {
		t.Errorf("%v", got)
	}
}

// Who may not follow is told so, and places are bounded.
func TestTailIsGuarded(t *testing.T) {
	s := newStand(t, func(o *Options) { o.Tails = 2 })
	ok := params("query", `{app="db"}`)
	for name, c := range map[string]struct {
		params url.Values
		header http.Header
		code   int
	}{
		"a foreign page with a cookie":  {ok, http.Header{"Cookie": {"s=1"}, "Origin": {"https://evil.example"}}, 403},
		"a cookie without a page":       {ok, http.Header{"Cookie": {"s=1"}}, 403},
		"a foreign page with both":      {ok, http.Header{"Cookie": {"s=1"}, "Authorization": {"Bearer x"}, "Origin": {"https://evil.example"}}, 403},
		"numbers":                       {params("query", `rate({a="b"}[1m])`), nil, 400},
		"no query":                      {params(), nil, 400},
		"a delay of a minute":           {params("query", `{a="b"}`, "delay_for", "60"), nil, 400},
		"a limit beyond what is served": {params("query", `{a="b"}`, "limit", "50000"), nil, 400},
	} {
		if _, resp, err := s.follow(c.params, c.header); err == nil || resp == nil || resp.StatusCode != c.code {
			t.Errorf("%s: %v %v, want %d", name, resp, err, c.code)
		}
	}
	for name, header := range map[string]http.Header{
		"our own page":         {"Cookie": {"s=1"}, "Origin": {s.gate.origin}},
		"Grafana with a token": {"Authorization": {"Bearer x"}, "Origin": {"https://grafana.example"}},
	} {
		ws, resp, err := s.follow(ok, header)
		if err != nil {
			t.Fatalf("%s: %v %v", name, resp, err)
		}
		if _, resp, err := s.follow(ok, nil); err == nil || resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") == "" {
			t.Errorf("a second one of a user who may have one: %v %v", resp, err)
		}
		_ = ws.Close()
		s.until("the place is free", func() bool {
			s.api.tails.mu.Lock()
			defer s.api.tails.mu.Unlock()
			return s.api.tails.n == 0
		})
	}
}

func (s *stand) until(what string, is func() bool) {
	s.t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-deadline.C:
			s.t.Fatal(what)
		case <-tick.C:
		}
	}
}

// Stopping the node ends tails, and waits for them.
func TestCloseEndsTails(t *testing.T) {
	s := newStand(t, nil)
	ws, _, err := s.follow(params("query", `{app="db"}`), nil)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.api.Close() }()
	_ = ws.SetReadDeadline(time.Now().Add(time.Minute))
	if _, _, err := ws.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseGoingAway) {
		t.Errorf("the node stops: %v", err)
	}
	_ = ws.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, resp, err := s.follow(params("query", `{app="db"}`), nil); err == nil || resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("after that: %v %v", resp, err)
	}
}

// Messages are bounded whatever the lines are.
func TestTailMessagesAreBounded(t *testing.T) {
	s := newStand(t, nil)
	var texts []string
	for i := range 1200 {
		texts = append(texts, fmt.Sprintf("%d %s", i, strings.Repeat("x", 3000)))
	}
	s.apply(stream(map[string]string{"app": "db"}, 0, texts...))
	ws, _, err := s.follow(params("query", `{app="db"}`, "start", fmt.Sprint(t0), "limit", "1200"), nil)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for n < 1200 {
		_ = ws.SetReadDeadline(time.Now().Add(time.Minute))
		_, body, err := ws.ReadMessage()
		if err != nil {
			t.Fatal(n, err)
		}
		var m tailed
		if err := json.Unmarshal(body, &m); err != nil {
			t.Fatal(err)
		}
		if len(body) > 2*tailBytes || len(m.Streams[0].Values) > tailMessage {
			t.Errorf("a message of %d bytes and %d lines", len(body), len(m.Streams[0].Values))
		}
		for _, v := range m.Streams[0].Values {
			if !strings.HasPrefix(v[1], fmt.Sprint(n, " ")) {
				t.Fatalf("line %d is %.20s", n, v[1])
			}
			n++
		}
	}
}

// So are the lines that are held for a client, whose labels count too: a query can make a line all labels.
func TestTailHoldsLabelsWithinItsBound(t *testing.T) {
	s := newStand(t, nil)
	const n, size = 60, 200 << 10
	batch := func() wire.LogStream {
		var texts []string
		for i := range n {
			texts = append(texts, fmt.Sprintf(`{"i":"%d","a":"%s"}`, i, strings.Repeat("x", size)))
		}
		return stream(map[string]string{"host": "a"}, 0, texts...)
	}
	s.apply(batch())
	ws, _, err := s.follow(params("query", `{host="a"} | json | line_format ""`, "start", fmt.Sprint(t0), "limit", "1000"), nil)
	if err != nil {
		t.Fatal(err)
	}
	read := func() (lines, dropped int) {
		t.Helper()
		_ = ws.SetReadDeadline(time.Now().Add(time.Minute))
		_, body, err := ws.ReadMessage()
		if err != nil {
			t.Fatal(err)
		}
		if len(body) > tailBytes+2*size {
			t.Errorf("a message of %d bytes", len(body))
		}
		var m tailed
		if err := json.Unmarshal(body, &m); err != nil {
			t.Fatal(err)
		}
		for _, d := range m.Dropped {
			k := 0
			if _, err := fmt.Sscan(d.Labels["dropped"], &k); err != nil {
				t.Error(err)
			}
			dropped += k
		}
		for _, st := range m.Streams {
			lines += len(st.Values)
			if i := st.Stream["i"]; i == "59" && len(st.Stream["a"]) != size {
				t.Errorf("line %s has %d bytes of labels", i, len(st.Stream["a"]))
			}
		}
		return lines, dropped
	}
	const most = tailHeld/size + 1 // the last one goes beyond the bound
	first := 0
	for first < most {
		k, _ := read()
		first += k
	}
	s.apply(batch())
	came, dropped := first-most, 0
	for came+dropped < n {
		k, d := read()
		came, dropped = came+k, dropped+d
	}
	if came >= most || dropped == 0 {
		t.Errorf("beyond the first lines %d were held, %d dropped", came, dropped)
	}
}

// Stopping the node does not wait until a tail has its first lines.
func TestCloseEndsTailsAtTheirBeginning(t *testing.T) {
	s := newStand(t, func(o *Options) { o.Timeout = time.Hour })
	for i := range 4 { // all places of the store: the tail waits for one
		_, leave, err := s.store.Admit(logstore.AskedBy(t.Context(), logstore.Asker{Key: fmt.Sprint(i)}), 1)
		if err != nil {
			t.Fatal(err)
		}
		defer leave()
	}
	answered := make(chan *http.Response, 1)
	go func() {
		_, resp, _ := s.follow(params("query", `{app="db"}`), nil)
		answered <- resp
	}()
	s.until("the tail has begun", func() bool {
		s.api.tails.mu.Lock()
		defer s.api.tails.mu.Unlock()
		return s.api.tails.n == 1
	})
	if err := s.api.Close(); err != nil {
		t.Error(err)
	}
	if resp := <-answered; resp == nil || resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
		t.Errorf("the tail is answered %v", resp)
	}
}

// A tail of a damaged node says that its first lines may lack some.
func TestTailOfADamagedNodeSaysSo(t *testing.T) {
	s := newStand(t, nil)
	s.fill()
	s.store.Report("", logstore.KindDay{Kind: wire.StreamLog, Day: t0 / int64(24*time.Hour)}, errors.New("planted"))
	ws, _, err := s.follow(params("query", `{app="db"}`, "start", fmt.Sprint(t0)), nil)
	if err != nil {
		t.Fatal(err)
	}
	_, body, err := ws.ReadMessage()
	if err != nil || !strings.Contains(string(body), `"dropped_entries":[{"labels":{"dropped":"unknown"}`) {
		t.Errorf("%s %v", body, err)
	}
}
