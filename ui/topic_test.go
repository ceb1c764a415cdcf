package ui

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"
)

// inBubble runs a hub in virtual time, without sockets: connections are made by hand and streams asked directly.
func inBubble(t *testing.T, run func(t *testing.T, b *bench)) {
	synctest.Test(t, func(t *testing.T) {
		b := &bench{
			t: t, gate: newGate(), hosts: &hostList{rows: map[string]string{"h1": "1"}},
			ramp: &ramp{calls: map[string]int{}, series: []string{"a"}}, lines: &lines{}, feed: NewLineFeed(),
		}
		b.hub = NewHub(Config{
			Gate: b.gate, Hosts: b.hosts, Ranges: b.ramp, Cluster: &clusterState{}, Tail: b.lines, Events: b.lines,
			Alerts: noAlerts{}, Agents: noAlerts{}, Lines: b.feed, Node: "node1",
		})
		run(t, b)
		if err := b.hub.Close(); err != nil {
			t.Error(err)
		}
	})
}

// noAlerts is a cluster where all is well.
type noAlerts struct{}

func (noAlerts) Alerts(context.Context) ([]Host, error) { return nil, nil }
func (noAlerts) Agents(context.Context) ([]Host, error) { return nil, nil }

// sub subscribes a connection made by hand.
func (b *bench) sub(kind, params, cursor string) stream {
	b.t.Helper()
	c := newConn(b.t.Context(), b.hub, Viewer{User: "ada", Role: "viewer", Key: "ada"})
	b.t.Cleanup(c.cancel)
	st, err := b.hub.starters()[kind](b.t.Context(), c, &request{ID: "s", Kind: kind, Params: json.RawMessage(params), Cursor: cursor})
	if err != nil {
		b.t.Fatal(err)
	}
	return st
}

// due returns what the stream has for the client now.
func due(t *testing.T, st stream) []got {
	t.Helper()
	var out []got
	for _, f := range st.next() {
		var text strings.Builder
		for _, part := range f {
			text.Write(part)
		}
		var m got
		data := strings.Replace(text.String(), `"series":`+string(hostColumns), `"series":[]`, 1)
		if err := json.Unmarshal([]byte(data), &m); err != nil {
			t.Fatalf("%s: %v", data, err)
		}
		out = append(out, m)
	}
	return out
}

func ops(list []got) string {
	var out []string
	for _, m := range list {
		out = append(out, m.Op)
	}
	return strings.Join(out, " ")
}

const upEverySecond = `{"query":"up","step":1000,"window":60000}`

func TestEqualQueriesAreEvaluatedOnceATick(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		var all []stream
		for range 50 {
			all = append(all, b.sub(KindPromQL, upEverySecond, ""))
		}
		for range 10 {
			time.Sleep(time.Second)
			synctest.Wait()
			for _, st := range all {
				if got := due(t, st); len(got) == 0 || got[len(got)-1].Op != "delta" {
					t.Fatalf("%s", ops(got))
				}
			}
		}
		if snaps, ticks := b.ramp.calls["up60000"], b.ramp.calls["up0"]; snaps != 1 || ticks != 10 {
			t.Fatalf("%d snapshots, %d ticks for 50 clients in 10 s", snaps, ticks)
		}
	})
}

func TestSlowPromReaderGetsTheNewestTick(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		st := b.sub(KindPromQL, upEverySecond, "")
		first := due(t, st)
		end := first[0].T0 + 60_000
		time.Sleep(time.Second)
		synctest.Wait()
		due(t, st)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		m := due(t, st)
		if ops(m) != "gap delta" || m[0].Dropped != 4 || m[0].From != fmt.Sprint(end+2000) || m[0].To != fmt.Sprint(end+5000) || m[1].T != end+6000 {
			t.Fatalf("%+v", m)
		}
	})
}

func TestPromResumesFromTheRingOnly(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		st := b.sub(KindPromQL, upEverySecond, "")
		due(t, st)
		time.Sleep(3 * time.Second)
		synctest.Wait()
		last := due(t, st)
		cursor := last[len(last)-1].Cursor
		st.detach()
		time.Sleep(30 * time.Second)
		synctest.Wait()
		st = b.sub(KindPromQL, upEverySecond, cursor)
		m := due(t, st)
		if len(m) != 30 || m[0].Op != "delta" || len(m[0].Series) != 1 {
			t.Fatalf("%s", ops(m))
		}
		for i := range m {
			if m[i].T != last[len(last)-1].T+int64(i+1)*1000 {
				t.Fatalf("tick %d is at %d", i, m[i].T)
			}
		}
		// Beyond the ring there is a new snapshot.
		time.Sleep((ringTicks + 5) * time.Second)
		synctest.Wait()
		if m := due(t, b.sub(KindPromQL, upEverySecond, cursor)); ops(m) != "snap" {
			t.Fatalf("%s", ops(m))
		}
		st.detach()
	})
}

func TestTopicsEndWhenNobodyIsLeft(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		var all []stream
		for _, kind := range Kinds() {
			params := `{"query":"up","step":1000,"window":1000,"backlog":1}`
			all = append(all, b.sub(kind, params, ""))
		}
		for _, st := range all {
			st.detach()
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		b.hub.mu.Lock()
		defer b.hub.mu.Unlock()
		if len(b.hub.topics) != 0 || len(b.feed.readers) != 0 {
			t.Fatalf("%d topics, %d readers of lines", len(b.hub.topics), len(b.feed.readers))
		}
	})
}

func TestBadAndHourlyQueriesDoNotLinger(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		c := newConn(t.Context(), b.hub, Viewer{User: "ada"})
		defer c.cancel()
		if _, err := b.hub.startProm(t.Context(), c, &request{ID: "x", Params: json.RawMessage(`{"query":"bad","step":1000,"window":1000}`)}); err == nil {
			t.Fatal("a bad query was taken")
		}
		b.sub(KindPromQL, `{"query":"up","step":3600000,"window":3600000}`, "").detach()
		topics := func() int {
			synctest.Wait()
			b.hub.mu.Lock()
			defer b.hub.mu.Unlock()
			return len(b.hub.topics)
		}
		time.Sleep(2 * time.Second)
		if n := topics(); n != 1 {
			t.Fatalf("%d topics after 2 s", n)
		}
		time.Sleep(2 * time.Minute)
		if n := topics(); n != 0 {
			t.Fatalf("%d topics after 2 minutes", n)
		}
	})
}

func TestTopicsAreBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.hub.cfg.MaxTopics = 10
		c := newConn(t.Context(), b.hub, Viewer{User: "ada"})
		defer c.cancel()
		refused := 0
		for i := range 20 {
			params := fmt.Sprintf(`{"query":"q%d","step":1000,"window":1000}`, i)
			if _, err := b.hub.startProm(t.Context(), c, &request{ID: "x", Params: json.RawMessage(params)}); err == errTopics {
				refused++
			}
		}
		if refused != 10 {
			t.Fatalf("%d refused", refused)
		}
	})
}

func TestFailingQueryIsReportedOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		c := newConn(t.Context(), b.hub, Viewer{User: "ada"})
		defer c.cancel()
		failing := &flaky{ramp: b.ramp}
		b.hub.cfg.Ranges = failing
		st, err := b.hub.startProm(t.Context(), c, &request{ID: "x", Params: json.RawMessage(upEverySecond)})
		if err != nil {
			t.Fatal(err)
		}
		due(t, st)
		failing.down.Store(true)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if len(c.control) != 1 || !strings.Contains(string(c.control[0][0]), codeUnavailable) {
			t.Fatalf("%s", c.control)
		}
		failing.down.Store(false)
		time.Sleep(time.Second)
		synctest.Wait()
		if m := due(t, st); ops(m) != "delta" {
			t.Fatalf("%s", ops(m))
		}
	})
}

type flaky struct {
	*ramp
	down atomic.Bool
}

func (f *flaky) QueryRange(ctx context.Context, query string, start, end, step int64) ([]Series, error) {
	if f.down.Load() {
		query = "down"
	}
	return f.ramp.QueryRange(ctx, query, start, end, step)
}

func TestSlowHostsReaderGetsTheUnion(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.hosts.set("h2", "1")
		b.hosts.set("h3", "1")
		st := b.sub(KindHosts, `{}`, "")
		if m := due(t, st); ops(m) != "snap" {
			t.Fatalf("%s", ops(m))
		}
		step := func() {
			time.Sleep(5 * time.Second)
			synctest.Wait()
		}
		step()
		due(t, st)
		b.hosts.set("h1", "2")
		step()
		b.hosts.set("h2", "2")
		step()
		b.hosts.set("h3", "")
		step()
		m := due(t, st)
		if ops(m) != "delta" || string(m[0].V) != `[{"id":"h1","v":2,"full":false},{"id":"h2","v":2,"full":false}]` || fmt.Sprint(m[0].Gone) != "[h3]" {
			t.Fatalf("%+v %s", m, m[0].V)
		}
		step()
		if m := due(t, st); len(m) != 1 || string(m[0].V) != "[]" {
			t.Fatalf("%+v", m)
		}
		// Another page shares the snapshot of the tick.
		calls := b.hosts.calls
		b.sub(KindHosts, "", "")
		b.sub(KindHosts, "null", "")
		if b.hosts.calls != calls+1 {
			t.Fatalf("%d reads for two snapshots of a tick", b.hosts.calls-calls)
		}
	})
}

// A page in the background for longer than the topic remembers its ticks still hears which rows are gone.
func TestLongPausedReaderHearsWhatIsGone(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.hosts.set("h2", "1")
		st := b.sub(KindHosts, `{}`, "")
		due(t, st)
		b.hosts.set("h2", "")
		time.Sleep(5 * time.Second * (ringTicks + 10))
		synctest.Wait()
		m := due(t, st)
		if ops(m) != "delta" || fmt.Sprint(m[0].Gone) != "[h2]" {
			t.Fatalf("%+v", m)
		}
		for i := range maxGone + 10 {
			b.hosts.set(fmt.Sprint("x", i), "1")
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		for i := range maxGone + 10 {
			b.hosts.set(fmt.Sprint("x", i), "")
		}
		time.Sleep(5 * time.Second * (ringTicks + 10))
		synctest.Wait()
		topic := st.(*stateSub).topic
		topic.mu.Lock()
		defer topic.mu.Unlock()
		if n := len(topic.gone); n > maxGone {
			t.Fatalf("%d rows that are gone are remembered", n)
		}
	})
}

func TestTailRefillsItsRate(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		st := b.sub(KindTail, `{"query":"","backlog":0}`, "")
		due(t, st)
		rows, thinned := 0, 0
		for range 50 { // 10 s of 5000 lines a second
			many := make([]string, 1000)
			b.apply(many...)
			time.Sleep(200 * time.Millisecond)
			synctest.Wait()
			for _, m := range due(t, st) {
				rows += len(texts(t, m.V))
				thinned += m.Sampled
			}
		}
		if rows < 1900 || rows > 200*10+200 {
			t.Fatalf("%d rows in 10 s", rows)
		}
		if rows+thinned != 50_000 {
			t.Fatalf("%d rows and %d thinned out of 50000", rows, thinned)
		}
	})
}

func TestQuietTailTellsItsCursor(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		st := b.sub(KindTail, `{"query":"never","backlog":0}`, "")
		due(t, st)
		b.apply("something else")
		time.Sleep(6 * time.Second)
		synctest.Wait()
		m := due(t, st)
		if ops(m) != "delta" || string(m[0].V) != "[]" || !strings.HasPrefix(m[0].Cursor, "1.") {
			t.Fatalf("%+v", m)
		}
		if m := due(t, st); len(m) != 0 {
			t.Fatalf("%+v", m)
		}
	})
}

func TestControlMessagesAreBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		c := newConn(t.Context(), b.hub, Viewer{User: "ada"})
		for range maxControl + 10 {
			c.send(msgTick{Op: "tick"})
		}
		if len(c.control) != maxControl || c.closing == nil {
			t.Fatalf("%d messages wait", len(c.control))
		}
	})
}

// Who is too slow to be told which alerts are gone is closed and begins anew, instead of showing them for ever.
func TestAlertsAreNeverLeftOut(t *testing.T) {
	h := NewHub(Config{Gate: newGate()})
	defer h.Close()
	c := newConn(t.Context(), h, Viewer{})
	top := &stateTopic{hub: h, kind: KindAlerts, strict: true, seq: ringTicks + 1, rows: map[string]*stateRow{"a": {json: []byte(`{}`), changed: 2}}, order: []string{"a"}}
	slow := &stateSub{topic: top, conn: c, id: "x", started: true, last: 1}
	if f := slow.next(); len(f) != 1 || c.closing != nil {
		t.Fatalf("%d messages, %+v", len(f), c.closing)
	}
	slow.last, top.seq = 1, ringTicks+2
	if f := slow.next(); f != nil || c.closing == nil || c.closing.code != websocket.CloseTryAgainLater {
		t.Fatalf("%d messages, %+v", len(f), c.closing)
	}
}
