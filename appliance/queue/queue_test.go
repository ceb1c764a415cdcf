package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/alerting"
	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/auth/authtest"
	"github.com/triward/triward/raftstate"
	"github.com/triward/triward/raftstate/command"
)

// fakeLog is a log in memory, of which a beginning may be gone.
type fakeLog struct {
	mu      sync.Mutex
	entries []raftstate.QueueEntry // entry 1 first
	first   uint64
	silent  []string
	woken   chan struct{}
}

func newFakeLog() *fakeLog { return &fakeLog{first: 1, woken: make(chan struct{})} }

func (l *fakeLog) add(stamp int64, cmds ...command.Command) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	size := 0
	for i := range cmds {
		size += cmds[i].Size()
	}
	l.entries = append(l.entries, raftstate.QueueEntry{Index: uint64(len(l.entries) + 1), Term: 1, Stamp: stamp, Commands: cmds, Judged: true, Bytes: size})
	close(l.woken)
	l.woken = make(chan struct{})
	return uint64(len(l.entries))
}

func (l *fakeLog) judge(index uint64, v *command.Verdict) { l.entries[index-1].Verdict = v }

func (l *fakeLog) ReadQueue(_ context.Context, from uint64, limit int, maxBytes int64) ([]raftstate.QueueEntry, uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if from < l.first {
		return nil, l.first, &raftstate.GoneError{From: from, First: l.first, Silent: l.silent}
	}
	var out []raftstate.QueueEntry
	next, size := from, int64(0)
	for ; next <= uint64(len(l.entries)) && len(out) < limit && (size == 0 || size < maxBytes); next++ {
		out = append(out, l.entries[next-1])
		size += int64(l.entries[next-1].Bytes)
	}
	return out, next, nil
}

func (l *fakeLog) EntryAt(_ context.Context, ms int64) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.entries {
		if l.entries[i].Stamp >= ms {
			return uint64(i + 1), nil
		}
	}
	return uint64(len(l.entries) + 1), nil
}

func (l *fakeLog) OldestEntry(context.Context) (uint64, []string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.first, l.silent, nil
}

func (l *fakeLog) AppliedIndex() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return uint64(len(l.entries))
}

func (l *fakeLog) WaitApplied(ctx context.Context, index uint64) error {
	for {
		l.mu.Lock()
		there, woken := uint64(len(l.entries)) >= index, l.woken
		l.mu.Unlock()
		if there {
			return nil
		}
		select {
		case <-woken:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (l *fakeLog) QueuedBytes(from, to uint64) int64 { return int64(to-from+1) * 100 }

// series are the labels of series 1, 2 and so on.
type series struct{}

func (series) SeriesLabels(id uint64) (wire.Labels, bool) {
	if id > 1000 {
		return nil, false
	}
	return wire.LabelsFromMap(map[string]string{"__name__": fmt.Sprint("m", id), "agent": "a1", "host": "web1"}), true
}

type rig struct {
	t    testing.TB
	s    *Service
	log  *fakeLog
	meta *authtest.Meta
	gaps []Gap
}

func newRig(t testing.TB) *rig {
	t.Helper()
	r := &rig{t: t, log: newFakeLog(), meta: &authtest.Meta{}}
	r.meta.Advance(1_000_000)
	var err error
	r.s, err = New(Config{
		Log: r.log, Meta: r.meta, Series: series{}, Leading: func() bool { return true }, Incarnation: func() string { return "" },
		OnGap: func(_ *Consumer, g Gap) { r.gaps = append(r.gaps, g) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func metricsOf(ids ...uint64) command.Command {
	raw := wire.AppendMetrics(nil, []wire.Scrape{{T: 1_700_000_000_123, IDs: ids, Values: make([]float64, len(ids))}})
	return command.NewDeliver(command.Deliver{Source: "a1", Lane: wire.LaneMetrics, RawLen: len(raw), Body: raw})
}

func linesOf(kind wire.StreamKind, t int64, texts ...string) command.Command {
	st := wire.LogStream{Kind: kind, Labels: wire.LabelsFromMap(map[string]string{"agent_id": "s1", "name": "n"})}
	for _, text := range texts {
		st.Lines = append(st.Lines, wire.LogLine{T: t, Text: []byte(text)})
	}
	raw := wire.AppendLogs(nil, &wire.LogBatch{Streams: []wire.LogStream{st}})
	return command.NewDeliver(command.Deliver{Source: "s1", Lane: wire.LaneLogs, RawLen: len(raw), Body: raw})
}

// texts reads from a position on in pages of most, and checks that each message is JSON.
func (r *rig) texts(from Position, most int, topics ...Topic) (out []string) {
	r.t.Helper()
	for {
		count := 0
		pr, err := r.s.Read(r.t.Context(), Ask{From: from, Max: most, Topics: topics, Sink: func(it *Item) int {
			b := it.AppendJSON(nil, 0)
			var m struct {
				Index, Item uint64
				Type        string
				Data        struct {
					Name  string
					Value any
				}
			}
			if err := json.Unmarshal(b, &m); err != nil {
				r.t.Fatalf("%v: %s", err, b)
			}
			out = append(out, fmt.Sprint(m.Type, " ", m.Data.Name, " ", m.Data.Value))
			count++
			return len(b)
		}})
		if err != nil {
			r.t.Fatal(err)
		}
		if count != pr.Count || count > most {
			r.t.Fatalf("%d messages, said are %d, asked for at most %d", count, pr.Count, most)
		}
		if from = pr.Next; !pr.More {
			return out
		}
	}
}

func TestPagesEndAnywhere(t *testing.T) {
	r := newRig(t)
	r.log.add(1_000, command.NewTick("n1"))
	r.log.add(2_000, metricsOf(1, 2, 3), linesOf(wire.StreamLog, 2e9, "one", "two"), metricsOf(4), linesOf(wire.StreamEvent, 2e9, "event"))
	r.log.add(3_000, linesOf(wire.StreamLog, 3e9, "three"))
	want := "metric m1 0,metric m2 0,metric m3 0,log n one,log n two,metric m4 0,event n event,log n three"
	for most := 1; most < 10; most++ {
		if got := strings.Join(r.texts(Position{Index: 1}, most), ","); got != want {
			t.Errorf("pages of %d: %s", most, got)
		}
	}
	if got := strings.Join(r.texts(Position{Index: 1}, 2, Logs, Events), ","); got != "log n one,log n two,event n event,log n three" {
		t.Errorf("lines and events: %s", got)
	}
}

func TestWhatWasNotStoredIsNoMessage(t *testing.T) {
	r := newRig(t)
	future := int64(10_000_000)
	i := r.log.add(5_000, linesOf(wire.StreamLog, 1e9, "a", "b", "c"), metricsOf(1, 2, 3), linesOf(wire.StreamLog, 1e9, "again"), linesOf(wire.StreamLog, future*1e6, "moved"))
	r.log.judge(i, &command.Verdict{LogTime: 6_000, Commands: []command.CommandVerdict{
		{At: 0, Refused: []command.Run{{From: 1, N: 1}}},
		{At: 1, Refused: []command.Run{{From: 0, N: 2}}},
		{At: 2, Status: command.StatusDuplicate},
		{At: 3, Moved: true},
	}})
	for most := 1; most < 6; most++ {
		if got := strings.Join(r.texts(Position{Index: 1}, most), ","); got != "log n a,log n c,metric m3 0,log n moved" {
			t.Errorf("pages of %d: %s", most, got)
		}
	}
	_, err := r.s.Read(t.Context(), Ask{From: Position{Index: 1}, Topics: []Topic{Logs}, Sink: func(it *Item) int {
		if string(it.Line.Text) == "moved" && it.T != 6_000*1e6 {
			t.Errorf("the moved line is of %d", it.T)
		}
		return 1
	}})
	if err != nil {
		t.Fatal(err)
	}
}

func TestOnlyAlertsOfTheMetadataAreShown(t *testing.T) {
	r := newRig(t)
	txn := command.Txn{Ops: []command.Op{
		{Bucket: auth.BucketUsers, Key: "ada", Value: []byte(`{"passhash":"argon2id secret"}`)},
		{Bucket: alerting.BucketHistory, Key: "1", Value: []byte(`{"t":7,"what":"fired","alert":"x","labels":{"alertname":"Disk","host":"web1"}}`)},
		{Bucket: alerting.BucketRoutes, Key: "routes", Value: []byte(`{"sealed":{"a":"secret"}}`)},
		{Bucket: alerting.BucketHistory, Key: "2", Value: []byte(`{"t":8,"what":"sent","receiver":"ops","labels":{"alertname":"Disk"}}`)},
		{Bucket: alerting.BucketHistory, Key: "0", Delete: true},
	}, Audit: []command.AuditRecord{{Actor: "ada", Action: "user.create", Detail: []byte(`{"secret":1}`)}}}
	r.log.add(9_000, command.NewMetaTxn(txn))
	if got := strings.Join(r.texts(Position{Index: 1}, 10), ","); got != "alert Disk fired,notification Disk sent" {
		t.Errorf("shown are %s", got)
	}
}

func TestTopicsHaveOtherNames(t *testing.T) {
	for name, want := range map[string]Topic{"logs": Logs, "agent.metrics.raw": Metrics, "alert.check": Alerts, "monitor.events": Events, "alert.notification": Alerts} {
		got, note, err := ParseTopic(name)
		if err != nil || got != want || (note == "") != (name == string(want)) || strings.HasSuffix(name, ".raw") != strings.Contains(note, "never stored") {
			t.Errorf("%s is %s, %q, %v", name, got, note, err)
		}
	}
	if _, _, err := ParseTopic("nothing"); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
}

func TestCommitMovesForwardForTheHolderOnly(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	for i := range 5 {
		r.log.add(int64(i+1)*1000, linesOf(wire.StreamLog, 1e9, fmt.Sprint("line ", i)))
	}
	if _, _, err := r.s.Create(ctx, Wish{Name: "x", From: "beginning", Topics: []string{"logs.raw"}}, auth.AuditRecord{Actor: "ada"}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.s.Create(ctx, Wish{Name: "x"}, auth.AuditRecord{}); !errors.Is(err, ErrExists) {
		t.Errorf("made twice: %v", err)
	}
	one, err := r.s.Open(ctx, "x", "one", 0, false, auth.AuditRecord{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.s.Open(ctx, "x", "two", 0, false, auth.AuditRecord{}); !errors.Is(err, ErrHeld) {
		t.Errorf("opened twice: %v", err)
	}
	commit := func(token uint64, p Position, want Position, is error) {
		t.Helper()
		c, err := r.s.Commit(ctx, "x", token, p, false)
		if !errors.Is(err, is) || err == nil && c.Position != want {
			t.Errorf("commit of %s: %+v, %v", p, c, err)
		}
	}
	commit(one.Token, Position{3, 0}, Position{3, 0}, nil)
	if c, _ := r.s.Get("x"); c.Time != 2000 {
		t.Errorf("its time is %d", c.Time)
	}
	commit(one.Token, Position{3, 0}, Position{3, 0}, nil) // the answer was lost
	commit(one.Token, Position{2, 5}, Position{3, 0}, nil)
	commit(one.Token-1, Position{4, 0}, Position{}, ErrFenced)
	r.meta.Advance(DefaultLease.Milliseconds() + 1)
	two, err := r.s.Open(ctx, "x", "two", 0, false, auth.AuditRecord{}) // the lease is over
	if err != nil || two.Position != (Position{3, 0}) {
		t.Fatalf("%+v %v", two, err)
	}
	commit(one.Token, Position{5, 0}, Position{}, ErrFenced)
	if _, err := r.s.Replay(ctx, "x", "2000ms", auth.AuditRecord{Actor: "ada"}); err != nil {
		t.Fatal(err)
	}
	commit(two.Token, Position{5, 0}, Position{}, ErrFenced)
	if c, _ := r.s.Get("x"); c.Position != (Position{2, 0}) || c.Owner != "" {
		t.Errorf("after the replay: %+v", c)
	}
	var actions []string
	for _, a := range r.meta.Audited() {
		actions = append(actions, a.Actor+" "+a.Action)
	}
	if got := strings.Join(actions, ","); got != "ada queue.consumer.create,ada queue.consumer.replay" {
		t.Errorf("audited: %s", got)
	}
}

func TestGapIsToldOnceAndSkipped(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	for i := range 9 {
		r.log.add(int64(i+1)*1000, linesOf(wire.StreamLog, 1e9, fmt.Sprint("line ", i)))
	}
	if _, _, err := r.s.Create(ctx, Wish{Name: "x", From: "2.0"}, auth.AuditRecord{}); err != nil {
		t.Fatal(err)
	}
	rd, err := r.s.OpenReader(ctx, "x", "one")
	if err != nil {
		t.Fatal(err)
	}
	r.log.first, r.log.silent = 6, []string{"n3"}
	look := func() {
		t.Helper()
		if err := r.s.look(ctx); err != nil {
			t.Fatal(err)
		}
	}
	look() // n3 may have it
	if len(r.gaps) != 0 {
		t.Errorf("told too early: %+v", r.gaps)
	}
	r.log.silent = nil
	look()
	look()
	if want := (Gap{From: Position{2, 0}, To: 5, FromTime: 1000, ToTime: 6000, Next: Position{6, 0}}); len(r.gaps) != 1 || r.gaps[0] != want {
		t.Errorf("told: %+v", r.gaps)
	}
	if c, _ := r.s.Get("x"); r.s.Behind(&c) != 4 {
		t.Errorf("%d entries are missed", r.s.Behind(&c))
	}
	_, err = rd.Next(ctx, 10, 0, func(*Item) {})
	var g *GapError
	if !errors.As(err, &g) || g.From != (Position{2, 0}) || g.To != 5 || g.FromTime != 1000 || g.ToTime != 6000 {
		t.Fatalf("%+v", err)
	}
	if err := rd.Skip(g); err != nil {
		t.Fatal(err)
	}
	var got []string
	if _, err := rd.Next(ctx, 10, 0, func(it *Item) { got = append(got, string(it.Line.Text)) }); err != nil || strings.Join(got, ",") != "line 5,line 6,line 7,line 8" {
		t.Errorf("%v %v", got, err)
	}
	if err := errors.Join(rd.Commit(ctx), rd.Close(ctx)); err != nil {
		t.Error(err)
	}
	if c, _ := r.s.Get("x"); c.Position != (Position{10, 0}) || c.Owner != "" {
		t.Errorf("at the end: %+v", c)
	}
}

func TestLagIsThatOfTheTopic(t *testing.T) {
	r := newRig(t)
	now := r.meta.LogTime()
	observe := func(ago int64, items ...uint64) {
		i := r.log.add(now-ago, command.NewTick("n1"))
		a := Arrived{Index: i, LogTime: now - ago}
		copy(a.Items[:], items)
		r.s.Observe(a)
	}
	observe(90_000, 5)
	observe(60_000, 0, 7)
	observe(30_000, 5)
	observe(10_000)
	lag := func(p Position) map[Topic]Lag {
		out := make(map[Topic]Lag)
		for _, l := range r.s.LagOf(&Consumer{Topics: Topics(), Position: p}) {
			out[l.Topic] = l
		}
		return out
	}
	l := lag(Position{Index: 2})
	if l[Metrics] != (Lag{Metrics, 2, 200, 30}) || l[Logs] != (Lag{Logs, 1, 100, 60}) || l[Events].Entries+l[Alerts].Entries != 0 {
		t.Errorf("%+v", l)
	}
	if l := lag(Position{Index: 4}); l[Metrics].Entries+l[Logs].Entries != 0 || l[Metrics].Seconds != 0 {
		t.Errorf("who has read all of the topics is behind: %+v", l)
	}
	// A node that was just started does not know of what topics the entries before were.
	r.s.began, r.s.topics = 4, [4]trail{}
	if l := lag(Position{Index: 2}); l[Alerts].Entries != 3 {
		t.Errorf("%+v", l)
	}
	if l := lag(Position{Index: 4}); l[Alerts].Entries != 0 {
		t.Errorf("%+v", l)
	}
}

func TestTrailIsBounded(t *testing.T) {
	var tr trail
	for i := range int64(100_000) {
		tr.add(uint64(i+1), i*1000, 3)
	}
	if len(tr.points) >= maxPoints {
		t.Errorf("%d points", len(tr.points))
	}
	if got := tr.rate(99_999_000, 600_000); got < 2.5 || got > 3.5 {
		t.Errorf("%v a second", got)
	}
	if at := tr.unread(50_000); at < 49_999_000 || at > 49_999_000+2*tr.every {
		t.Errorf("entry 50000 came at %d", at)
	}
}

func TestReadsAreBounded(t *testing.T) {
	r := newRig(t)
	r.log.add(1000, linesOf(wire.StreamLog, 1e9, strings.Repeat("x", 200_000)))
	for range 100 {
		r.log.add(1000, linesOf(wire.StreamLog, 1e9, strings.Repeat("x", 200_000)))
	}
	size := 0
	pr, err := r.s.Read(t.Context(), Ask{From: Position{Index: 1}, Max: MaxItems, Sink: func(it *Item) int {
		n := len(it.AppendJSON(nil, 0))
		size += n
		return n
	}})
	if err != nil || !pr.More || size > pageBytes+300_000 {
		t.Errorf("%d bytes, %+v, %v", size, pr, err)
	}
	for range maxReaders {
		r.s.readers <- struct{}{}
	}
	if _, err := r.s.Read(t.Context(), Ask{From: Position{Index: 1}}); !errors.Is(err, ErrTooMany) {
		t.Error(err)
	}
}

func TestReadWaits(t *testing.T) {
	r := newRig(t)
	r.log.add(1000, command.NewTick("n1"))
	got := make(chan int, 1)
	go func() {
		pr, err := r.s.Read(t.Context(), Ask{From: Position{Index: 2}, Wait: 20 * time.Second, Sink: func(*Item) int { return 1 }})
		if err != nil {
			t.Error(err)
		}
		got <- pr.Count
	}()
	r.log.add(2000, command.NewTick("n1")) // not what it waits for
	r.log.add(3000, linesOf(wire.StreamLog, 1e9, "now"))
	if n := <-got; n != 1 {
		t.Errorf("%d messages", n)
	}
}

// Whatever a line holds, its message is JSON that says the same.
func FuzzTextIsJSON(f *testing.F) {
	for _, s := range []string{"", "plain", "quo\"te\\", "ctrl \x00\x1f\n\t", "\xff\xfe", "中文", "a\u2028b", "half \xe4\xb8"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var got string
		b := appendText(nil, s, 0)
		if err := json.Unmarshal(b, &got); err != nil {
			t.Fatalf("%q: %v", b, err)
		}
		if want := strings.ToValidUTF8(s, "\uFFFD"); utf8.ValidString(s) && got != s || len(want) == 0 && got != "" {
			t.Errorf("%q became %q", s, got)
		}
	})
}

func TestNumbersAndTimes(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 1.5: "1.5", math.Inf(1): `"+Inf"`, 1e300: "1e+300"} {
		if got := string(appendNumber(nil, v)); got != want {
			t.Errorf("%v is %s", v, got)
		}
	}
	for ns, want := range map[int64]string{0: "0", 1_500_000_000: "1.5", 1_700_000_000_123_456_789: "1700000000.123456789"} {
		if got := string(appendSeconds(nil, ns)); got != want {
			t.Errorf("%d is %s, want %s", ns, got, want)
		}
	}
	for _, text := range []string{"", "0", "x", "1.x", "-1", "1.-1", "99999999999999999999"} {
		if p, err := ParsePosition(text); err == nil {
			t.Errorf("%q is %s", text, p)
		}
	}
	if p, err := ParsePosition("12.34"); err != nil || p != (Position{12, 34}) || p.String() != "12.34" {
		t.Error(p, err)
	}
}

// BenchmarkRead reads what agents send: 500 series a scrape, 16 scrapes an entry; and lines of 100 bytes.
func BenchmarkRead(b *testing.B) {
	ids := make([]uint64, 500)
	for i := range ids {
		ids[i] = uint64(i + 1)
	}
	line := strings.Repeat("GET /index.html 200 ", 5)
	texts := make([]string, 500)
	for i := range texts {
		texts[i] = fmt.Sprint(line, i)
	}
	for name, c := range map[string]command.Command{"metrics": metricsOf(ids...), "lines": linesOf(wire.StreamLog, 1e9, texts...)} {
		for form, encode := range map[string]bool{"typed": false, "json": true} {
			b.Run(name+"/"+form, func(b *testing.B) {
				r := newRig(b)
				for i := range 64 {
					cmds := make([]command.Command, 16)
					for j := range cmds {
						cmds[j] = c
					}
					r.log.add(int64(i+1)*1000, cmds...)
				}
				var buf []byte
				from := Position{Index: 1}
				items := 0
				b.ResetTimer()
				began := cpu(b)
				for items < b.N {
					buf = buf[:0]
					pr, err := r.s.Read(b.Context(), Ask{From: from, Max: MaxItems, Sink: func(it *Item) int {
						if !encode {
							return 1
						}
						n := len(buf)
						buf = it.AppendJSON(buf, 0)
						return len(buf) - n
					}})
					if err != nil {
						b.Fatal(err)
					}
					items += pr.Count
					if from = pr.Next; !pr.More {
						from = Position{Index: 1}
					}
				}
				b.ReportMetric(float64(items)/b.Elapsed().Seconds(), "items/s")
				b.ReportMetric((cpu(b)-began).Seconds()/float64(items)*1e6, "cpu-s/M")
			})
		}
	}
}

// cpu is what the process has used of the processors.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
