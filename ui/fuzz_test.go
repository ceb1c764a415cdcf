package ui

import (
	"testing"
)

// FuzzClientMessage shows a connection any bytes as the client's message: it must answer or end, and leave nothing
// running.
func FuzzClientMessage(f *testing.F) {
	for _, seed := range []string{
		`{"op":"hello","epoch":"x"}`, `{"op":"sub","id":"a","kind":"hosts","params":{}}`,
		`{"op":"sub","id":"a","kind":"promql","params":{"query":"up","step":1000,"window":5000},"cursor":"1000"}`,
		`{"op":"sub","id":"a","kind":"logs.tail","params":{"query":"x","backlog":5},"cursor":"1.2"}`,
		`{"op":"unsub","id":"a"}`, `{"op":"pause","id":"a"}`, `{"op":"ack","id":"a","seq":18446744073709551616}`,
		`{"op":"sub","id":"a","kind":"promql","params":{"query":"up","step":1e3,"window":-1}}`, `null`, `0`, `"`, "\x00\xff",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		b := &bench{
			t: t, gate: newGate(), hosts: &hostList{rows: map[string]string{"h1": "1"}},
			ramp: &ramp{calls: map[string]int{}, series: []string{"a"}}, lines: &lines{}, feed: NewLineFeed(),
		}
		b.hub = NewHub(Config{Gate: b.gate, Hosts: b.hosts, Ranges: b.ramp, Cluster: &clusterState{}, Tail: b.lines, Lines: b.feed})
		c := newConn(t.Context(), b.hub, Viewer{User: "ada", Role: "viewer"})
		c.handle(data)
		c.handle(data)
		c.work.Wait()
		c.mu.Lock()
		subs := c.order
		c.mu.Unlock()
		for _, s := range subs {
			if s.stream != nil {
				s.stream.next()
			}
			c.end(s)
		}
		c.cancel()
		if err := b.hub.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzPosition holds that what ParsePosition takes is written the same way again.
func FuzzPosition(f *testing.F) {
	for _, seed := range []string{"1.2", "18446744073709551615.4294967295", "1", ".", "+1.2", "01.2", "1.2.3", "-1.0"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePosition(s)
		if err != nil {
			return
		}
		if again, err := ParsePosition(p.String()); err != nil || again != p {
			t.Fatalf("%q: %v %v", s, again, err)
		}
	})
}
