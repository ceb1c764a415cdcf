package ui

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/triward/triward/agent/wire"
)

// texts returns the texts of a message's rows.
func texts(t *testing.T, v json.RawMessage) []string {
	t.Helper()
	var rows []struct{ Text string }
	if err := json.Unmarshal(v, &rows); err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, r := range rows {
		out = append(out, r.Text)
	}
	return out
}

// follow reads deltas until n rows have come and returns their texts and the last cursor.
func (c *client) follow(n int) (list []string, cursor string) {
	c.t.Helper()
	for len(list) < n {
		m := c.read()
		if m.Op != "delta" && m.Op != "snap" {
			c.t.Fatalf("%+v", m)
		}
		list = append(list, texts(c.t, m.V)...)
		cursor = m.Cursor
	}
	return list, cursor
}

func TestTailShowsBacklogAndFollows(t *testing.T) {
	b := newBench(t, nil)
	for i := range 10 {
		b.apply(fmt.Sprint("error ", i), "fine")
	}
	c := b.dial("ada")
	c.send(`{"op":"sub","id":"l","kind":"logs.tail","params":{"query":"error","backlog":3}}`)
	snap := c.next("snap")
	if got := fmt.Sprint(texts(t, snap.V)); got != "[error 7 error 8 error 9]" {
		t.Fatal(got)
	}
	b.apply("fine", "error live")
	if list, _ := c.follow(1); list[0] != "error live" {
		t.Fatal(list)
	}
}

// A tail whose first lines may lack some says why; one that is asked for none, or has them all, does not.
func TestTailSaysWhatItsBeginningLacks(t *testing.T) {
	b := newBench(t, nil)
	b.apply("one")
	for _, lack := range []Lack{LackNothing, LackDamaged, LackTime} {
		b.lines.lack = lack
		for backlog, want := range map[int]Lack{0: LackNothing, 5: lack} {
			c := b.dial("ada")
			c.send(fmt.Sprintf(`{"op":"sub","id":"l","kind":"logs.tail","params":{"query":"","backlog":%d}}`, backlog))
			if m := c.next("snap"); m.Lacks != want {
				t.Errorf("%d lines, %q: %q", backlog, lack, m.Lacks)
			}
			c.ws.Close()
		}
	}
}

func TestTailResumesWithoutLossOrDouble(t *testing.T) {
	b := newBench(t, nil)
	c := b.dial("ada")
	sub := `{"op":"sub","id":"l","kind":"logs.tail","params":{"query":"","backlog":0}`
	c.send(sub + `}`)
	var all []string
	snap := c.next("snap")
	cursor := snap.Cursor
	for round := range 8 {
		for i := range 20 {
			b.apply(fmt.Sprintf("r%d line %d", round, i))
			if i == 10 {
				// Cut in the middle; what was not read yet comes with the cursor.
				part, at := c.follow(1)
				all, cursor = append(all, part...), at
				c.ws.Close()
				c = b.dial("ada")
			}
		}
		c.send(sub + `,"cursor":"` + cursor + `"}`)
		part, at := c.follow((round+1)*20 - len(all))
		all, cursor = append(all, part...), at
	}
	if len(all) != 160 {
		t.Fatalf("%d lines", len(all))
	}
	for i, text := range all {
		if text != fmt.Sprintf("r%d line %d", i/20, i%20) {
			t.Fatalf("line %d is %q", i, text)
		}
	}
}

func TestTailFromANodeThatIsAhead(t *testing.T) {
	b := newBench(t, nil)
	b.apply("one")
	c := b.dial("ada")
	c.send(`{"op":"sub","id":"l","kind":"logs.tail","params":{"query":""},"cursor":"3.0"}`)
	c.next("delta")
	b.apply("two")           // 2.0: the client has it
	b.apply("three", "more") // 3.0: the client has it; 3.1: not
	if list, _ := c.follow(1); fmt.Sprint(list) != "[more]" {
		t.Fatal(list)
	}
}

func TestTailTellsAGapWhenTheCursorIsTooOld(t *testing.T) {
	b := newBench(t, nil)
	for i := range 5 {
		b.apply(fmt.Sprint("line ", i))
	}
	b.lines.gone = Position{3, 0}
	c := b.dial("ada")
	c.send(`{"op":"sub","id":"l","kind":"logs.tail","params":{"query":"","backlog":10},"cursor":"1.0"}`)
	if m := c.next("gap"); m.From != "1.0" || m.Dropped != unknownCount {
		t.Fatalf("%+v", m)
	}
	if m := c.next("snap"); fmt.Sprint(texts(t, m.V)) != "[line 3 line 4]" {
		t.Fatalf("%s", m.V)
	}
}

func TestTailIsThinned(t *testing.T) {
	b := newBench(t, func(c *Config) { c.TailRate = 50 })
	c := b.dial("ada")
	c.send(`{"op":"sub","id":"l","kind":"logs.tail","params":{"query":"","backlog":0}}`)
	c.next("snap")
	many := make([]string, 1000)
	for i := range many {
		many[i] = fmt.Sprint(i)
	}
	b.apply(many...)
	m := c.next("delta")
	if n := len(texts(t, m.V)); n != 50 || m.Sampled != 950 {
		t.Fatalf("%d rows, %d thinned out", n, m.Sampled)
	}
	if last := texts(t, m.V)[49]; last != "999" {
		t.Fatalf("the newest is %s", last)
	}
}

func TestPausedTailDropsTheOldestAndSaysSo(t *testing.T) {
	b := newBench(t, func(c *Config) { c.TailRate = 1e6 })
	c := b.dial("ada")
	c.send(`{"op":"sub","id":"l","kind":"logs.tail","params":{"query":"","backlog":0}}`)
	c.next("snap")
	c.send(`{"op":"pause","id":"l"}`)
	c.send(`{"op":"sub","id":"x","kind":"cluster"}`)
	c.next("snap") // by now the pause holds
	const lines = tailPending + 500
	var sub *tailSub
	for i := range lines / 100 {
		many := make([]string, 100)
		for j := range many {
			many[j] = fmt.Sprint(i*100 + j)
		}
		b.apply(many...)
	}
	b.hub.mu.Lock()
	for key, tp := range b.hub.topics {
		if strings.HasPrefix(key, KindTail) {
			for s := range tp.(*tailTopic).subs {
				sub = s
			}
		}
	}
	b.hub.mu.Unlock()
	waitFor(t, func() bool {
		sub.topic.mu.Lock()
		defer sub.topic.mu.Unlock()
		return sub.dropped > 0 && sub.dropped+len(sub.pending) == lines && len(sub.pending) == tailPending
	})
	c.send(`{"op":"resume","id":"l"}`)
	var gap got
	n := 0
	for n < tailPending {
		switch m := c.read(); m.Op {
		case "gap":
			gap = m
		case "delta":
			if m.ID == "l" {
				n += len(texts(t, m.V))
			}
		}
	}
	if gap.Dropped != 500 || gap.From != "1.0" || gap.To != "5.99" {
		t.Fatalf("%+v", gap)
	}
}

// patience is how long what other goroutines do in real time may take on a busy machine: it only ends what hangs.
const patience = 2 * time.Minute

// waitFor polls until cond holds, for what other goroutines do in real time.
func waitFor(t *testing.T, cond func() bool) {
	t.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(patience)
	for !cond() {
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatal("did not come about")
		}
	}
}

func TestFeedIsBoundedAndCopiesNothingForNobody(t *testing.T) {
	f := NewLineFeed()
	text := []byte(strings.Repeat("x", 10_000))
	entry := func(i uint64) []wire.LogEntry {
		return []wire.LogEntry{{Index: i, Batches: []wire.AcceptedLogs{{Batch: &wire.LogBatch{Streams: []wire.LogStream{
			{Kind: wire.StreamLog, Lines: []wire.LogLine{{Text: text}}},
		}}}}}}
	}
	f.Observe(1, entry(1))
	if len(f.lines) != 0 {
		t.Fatal("kept a line that nobody reads")
	}
	r, head := f.reader()
	if head.Index != 1 {
		t.Fatal(head)
	}
	const total = 5000
	for i := range uint64(total) {
		f.Observe(i+2, entry(i+2))
	}
	text[0] = 'y' // the sender's buffer is used again
	if f.bytes > feedBytes {
		t.Fatalf("%d bytes", f.bytes)
	}
	lines, lost, head := r.read()
	if lost == 0 || lost+len(lines) != total || head.Index != total+1 {
		t.Fatalf("%d lines, %d lost, head %s", len(lines), lost, head)
	}
	if lines[0].Text[0] != 'x' {
		t.Fatal("the line was not copied")
	}
	f.Observe(total+2, entry(total+2))
	if lines, lost, _ := r.read(); len(lines) != 1 || lost != 0 || f.bytes != 0 {
		t.Fatalf("%d lines, %d lost; %d bytes kept that everybody has", len(lines), lost, f.bytes)
	}
	f.Installed(total + 50)
	if lines, lost, head := r.read(); len(lines) != 0 || lost != unknownCount || head.Index != total+50 {
		t.Fatalf("%d lines, %d lost, head %s", len(lines), lost, head)
	}
	r.close()
	if len(f.lines) != 0 || f.bytes != 0 {
		t.Fatal("keeps lines without readers")
	}
}

func TestTailTellsAGapAfterAnInstall(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		st := b.sub(KindTail, `{"query":"","backlog":0}`, "")
		due(t, st)
		b.apply("one")
		time.Sleep(time.Second)
		synctest.Wait()
		due(t, st)
		b.feed.Installed(500)
		b.index = 500
		b.apply("two")
		time.Sleep(time.Second)
		synctest.Wait()
		m := due(t, st)
		if ops(m) != "gap delta" || m[0].Dropped != unknownCount || fmt.Sprint(texts(t, m[1].V)) != "[two]" {
			t.Fatalf("%+v", m)
		}
	})
}

func TestEventsAreNeverLeftOut(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		// More than a tail may be sent in a moment: all come.
		st := b.sub(KindEvents, `{"query":"","backlog":0}`, "")
		first := due(t, st)
		for range 6 {
			var many []string
			for i := range 100 {
				many = append(many, fmt.Sprint(i))
			}
			b.apply(many...)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		n := 0
		for _, m := range due(t, st) {
			if m.Op != "delta" || m.Sampled != 0 {
				t.Fatalf("%+v", m)
			}
			n += len(texts(t, m.V))
		}
		if n != 600 || ops(first) != "snap" {
			t.Fatalf("%d events, first %s", n, ops(first))
		}
		// Who does not read is closed, and finds all from its cursor, in as many connections as it takes.
		cursor := Position{Index: 3, Ord: 5}.String()
		for range 40 {
			var many []string
			for i := range 100 {
				many = append(many, fmt.Sprint(i))
			}
			b.apply(many...)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if c := st.(*tailSub).conn; c.closing == nil || c.closing.code != websocket.CloseTryAgainLater {
			t.Fatal("the slow reader is not closed")
		}
		if m := due(t, st); len(m) != 0 {
			t.Fatalf("it was sent %s, which moves its cursor past what it missed", ops(m))
		}
		n = 0
		for life := 0; ; life++ {
			st := b.sub(KindEvents, `{"query":"","backlog":0}`, cursor)
			for _, m := range due(t, st) {
				if m.Op != "delta" {
					t.Fatalf("%+v", m)
				}
				n, cursor = n+len(texts(t, m.V)), m.Cursor
			}
			due(t, st)
			c := st.(*tailSub).conn
			more := c.closing != nil
			st.detach()
			if !more {
				break
			}
			if life > 5 {
				t.Fatal("it never ends")
			}
		}
		if n != 94+300+4000 {
			t.Fatalf("%d events after the cursor", n)
		}
	})
}

// Who was not told of everything while its first answer was made is told nothing behind that either: its cursor would
// move past what it missed.
func TestEventsAreNotGoneOnWithBehindAHole(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		st := b.sub(KindEvents, `{"query":"","backlog":0}`, "")
		due(t, st)
		s := st.(*tailSub)
		s.topic.mu.Lock()
		s.started = false // as while the first answer is made
		s.topic.mu.Unlock()
		many := make([]string, tailPending+1)
		b.apply(many...)
		time.Sleep(time.Second)
		synctest.Wait()
		if s.conn.closing == nil {
			t.Fatal("the slow reader is not closed")
		}
		s.publish(nil)
		b.apply("later")
		time.Sleep(time.Second)
		synctest.Wait()
		if m := due(t, st); len(m) != 0 {
			t.Fatalf("behind a hole it was sent %s", ops(m))
		}
	})
}

// A line that takes long to judge is given up when the last client has gone; who comes then is told that lines are missing.
func TestTailThatNobodyFollowsIsGivenUp(t *testing.T) {
	for _, gone := range []bool{false, true} {
		b := newBench(t, nil)
		c := b.dial("ada")
		c.send(`{"op":"sub","id":"l","kind":"logs.tail","params":{"query":"endless","backlog":0}}`)
		c.next("snap")
		b.apply("one", "two", "three")
		<-b.lines.begun
		if gone {
			_ = c.ws.Close()
		} else {
			c.send(`{"op":"unsub","id":"l"}`)
		}
		waitFor(t, func() bool {
			b.hub.mu.Lock()
			defer b.hub.mu.Unlock()
			return len(b.hub.topics) == 0
		})
	}
}

// Who subscribes while lines are given up is told how many those were.
func TestTailTellsOfLinesGivenUp(t *testing.T) {
	topic := &tailTopic{matcher: endless(make(chan struct{}, 1)), subs: map[*tailSub]struct{}{}}
	rows, left := topic.judge(t.Context(), make([]Line, 3))
	if len(rows) != 0 || left != 3 {
		t.Errorf("%d rows, %d lines left out", len(rows), left)
	}
}

// slow judges lines for a while each, in the time of a bubble.
type slow struct {
	each   time.Duration
	judged *time.Duration
}

func (m slow) Match(_ context.Context, l *Line) (json.RawMessage, bool) {
	time.Sleep(m.each)
	*m.judged += m.each
	return json.RawMessage(`{}`), true
}

// A query that is slow to judge takes at most half of a processor, and a quick one is looked at as often as is set.
func TestSlowQueriesOfTailsTakeHalfOfAProcessor(t *testing.T) {
	for each, least := range map[time.Duration]float64{0: 0, time.Millisecond: 0, time.Second: 0.4, 10 * time.Second: 0.4} {
		synctest.Test(t, func(t *testing.T) {
			feed := NewLineFeed()
			var judged time.Duration
			s := &tailSub{conn: &conn{wake: make(chan struct{}, 1)}}
			hub := &Hub{cfg: Config{TailEvery: 200 * time.Millisecond, TailRate: 1e6}, topics: map[string]topic{}}
			tp := &tailTopic{hub: hub, key: "slow", matcher: slow{each, &judged}, subs: map[*tailSub]struct{}{s: {}}}
			s.topic = tp
			tp.reader, tp.head = feed.reader()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			rounds := 0
			var coming sync.WaitGroup
			coming.Go(func() { // a line whenever somebody has looked
				tick := time.NewTicker(100 * time.Millisecond)
				defer tick.Stop()
				for index := uint64(1); ; index++ {
					feed.mu.Lock()
					waiting := len(feed.lines) > feed.off
					feed.mu.Unlock()
					if !waiting {
						rounds++
						feed.Observe(index, []wire.LogEntry{{Index: index, Batches: []wire.AcceptedLogs{{Batch: &wire.LogBatch{
							Streams: []wire.LogStream{{Kind: wire.StreamLog, Lines: []wire.LogLine{{Text: []byte("x")}}}},
						}}}}})
					}
					select {
					case <-ctx.Done():
						return
					case <-tick.C:
					}
				}
			})
			tp.run(ctx)
			coming.Wait()
			share := judged.Seconds() / time.Minute.Seconds()
			if share > 0.55 || share < least {
				t.Errorf("judging a line takes %s: %.2f of a processor", each, share)
			}
			if each < time.Second && rounds < 250 {
				t.Errorf("judging a line takes %s: lines are looked at %d times in a minute", each, rounds)
			}
		})
	}
}
