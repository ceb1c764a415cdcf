package logstore

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/block"
	"github.com/triward/triward/logstore/query"
)

func TestGateAdmitsInOrderWithinItsBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := New(Options{Queries: 2, QueryBytes: 100, QueriesWaiting: 2})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		ctx := t.Context()
		_, one, err := s.Admit(ctx, 60)
		if err != nil {
			t.Fatal(err)
		}
		inner, _, err := s.Admit(ctx, 30)
		if err != nil {
			t.Fatal(err)
		}
		// What belongs to an admitted query is not admitted again, however full it is.
		if _, done, err := s.Admit(inner, 1000); err != nil {
			t.Fatal(err)
		} else {
			done()
		}
		var order []int
		var wg sync.WaitGroup
		ask := func(n int, ctx context.Context, bytes int64) {
			wg.Go(func() {
				_, done, err := s.Admit(ctx, bytes)
				if err == nil {
					order = append(order, n)
					done()
				} else if !errors.Is(err, context.Canceled) {
					t.Errorf("%d: %v", n, err)
				}
			})
			synctest.Wait()
		}
		impatient, cancel := context.WithCancel(ctx)
		ask(1, impatient, 200) // larger than all there is
		ask(2, ctx, 10)        // would fit, but does not pass the one before
		if l := s.QueryLoad(LanePeople); l.Waiting != 2 {
			t.Errorf("%d wait, want 2", l.Waiting)
		}
		if _, _, err := s.Admit(ctx, 1); !errors.Is(err, ErrBusy) {
			t.Errorf("one too many: %v", err)
		}
		// Other lanes are not full.
		for _, in := range []Lane{LaneWatch, LaneExport} {
			if _, done, err := s.Admit(InLane(ctx, in), 10); err != nil {
				t.Errorf("lane %d: %v", in, err)
			} else {
				done()
			}
		}
		cancel()
		synctest.Wait()
		one()
		one() // counts once
		wg.Wait()
		if l := s.QueryLoad(LanePeople); l != (QueryLoad{Running: 1, Admitted: 3, Refused: 1}) || len(order) != 1 || order[0] != 2 {
			t.Errorf("%+v, admitted %v", l, order)
		}
		// The whole of it is for one that is alone.
		if l := &s.queries.lanes[LanePeople]; l.held != 30 {
			t.Errorf("%d bytes are held, want 30", l.held)
		}
	})
}

func TestEveryQuestionIsAdmitted(t *testing.T) {
	s := testStore(t, t.TempDir(), Options{Queries: 1, QueriesWaiting: -1})
	m := newModel(5)
	m.apply(t, s, 5)
	_, done, err := s.Admit(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	day := Request{Start: testDay * DayNs, End: (testDay + 1) * DayNs}
	for name, ask := range map[string]func() error{
		"search":  func() error { _, err := s.Search(ctx, Request{}); return err },
		"tail":    func() error { _, err := s.ReadAfter(ctx, Position{}, nil, 0, 1); return err },
		"context": func() error { _, err := s.Context(ctx, m.rows[0].Position, m.rows[0].T, 1, 1); return err },
		"hits":    func() error { _, err := s.Hits(ctx, day, 3600e9); return err },
		"by":      func() error { _, err := s.HitsBy(ctx, day, 3600e9, "host", 3); return err },
		"facets":  func() error { _, err := s.Facets(ctx, day, "host"); return err },
		"pattern": func() error { _, err := s.Patterns(ctx, PatternsRequest{Start: 1, End: 2}); return err },
		"labels":  func() error { _, _, err := s.Labels(ctx, 0, 0); return err },
		"values":  func() error { _, _, err := s.LabelValues(ctx, "host", 0, 0); return err },
		"series":  func() error { _, err := s.Series(ctx, nil, 0, 0); return err },
		"walk":    func() error { _, err := s.Walk(ctx, Request{}, func(*Row) error { return nil }); return err },
	} {
		if err := ask(); !errors.Is(err, ErrBusy) {
			t.Errorf("%s while another one runs: %v", name, err)
		}
	}
	done()
	for range 3 { // what was admitted leaves again, also when it fails
		if _, err := s.Search(ctx, Request{Cursor: "?"}); !errors.Is(err, ErrRequest) {
			t.Error(err)
		}
		if _, err := s.Search(ctx, Request{}); err != nil {
			t.Error(err)
		}
	}
}

// heavy fills a store with blocks that a regular expression is slow on.
func heavy(tb testing.TB, s *Store) {
	tb.Helper()
	index := uint64(0)
	line := []byte(strings.Repeat("abcdefghij klmnopqrst ", 40) + "1Y") // a slot that may end with a Z: what lines have in common settles nothing
	for range 24 {
		var b wire.LogBatch
		for k := range 4 {
			st := wire.LogStream{Kind: wire.StreamLog, Labels: wire.LabelsFromMap(map[string]string{"host": fmt.Sprint(k)})}
			for range 100 {
				st.Lines = append(st.Lines, wire.LogLine{T: (testDay+2)*DayNs + int64(index), Text: line})
			}
			b.Streams = append(b.Streams, st)
		}
		index++
		if err := s.ApplyLogs(index, []wire.LogEntry{{Index: index, Batches: []wire.AcceptedLogs{{Batch: &b}}}}); err != nil {
			tb.Fatal(err)
		}
		if index%6 == 0 {
			if err := s.Work(tb.Context(), true); err != nil {
				tb.Fatal(err)
			}
		}
	}
}

func slowFilter(tb testing.TB) *query.Filter {
	f, err := query.LongRegex(`(.*a.*b.*c.*d.*e.*f.*g.*h.*){8}Z$`)
	if err != nil {
		tb.Fatal(err)
	}
	return f
}

// Nobody waits for the answer any more: the query ends within a block.
func TestCancelledQueryEndsWithinABlock(t *testing.T) {
	s := testStore(t, t.TempDir(), Options{})
	heavy(t, s)
	for name, f := range map[string]*query.Filter{"text": slowFilter(t), "not": query.Not(slowFilter(t))} {
		ctx, cancel := context.WithCancel(t.Context())
		c, done, err := s.query(ctx, &Request{Filter: f})
		if err != nil {
			t.Fatal(err)
		}
		c.sink = &impatient{hits: hitSink{h: &Hits{T0: testDay * DayNs, Step: 3 * DayNs}, n: 1}, asked: func() {
			if c.stats.Blocks == 1 { // asked before the second block is opened
				cancel()
			}
		}}
		if err := c.run(); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
		if c.stats.Blocks != 1 {
			t.Errorf("%s: %d blocks were opened", name, c.stats.Blocks)
		}
		done()
		cancel()
		if s.QueryLoad(LanePeople).Running != 0 {
			t.Errorf("%s: its place is not free", name)
		}
	}
}

type impatient struct {
	hits  hitSink
	asked func()
}

func (v *impatient) wants(int64, int64, uint64, uint64) bool { v.asked(); return true }
func (v *impatient) needs() (positions, fields, text bool)   { return v.hits.needs() }
func (v *impatient) whole(st *stream, h *block.Header) bool  { return v.hits.whole(st, h) }
func (v *impatient) add(st *stream, l *block.Line) bool      { return v.hits.add(st, l) }

// A long query gives its turn up between blocks, and what is part of it needs none of its own.
func TestLongQueriesTakeTurns(t *testing.T) {
	s := testStore(t, t.TempDir(), Options{})
	heavy(t, s)
	ctx, leave, err := s.Admit(InLane(t.Context(), LaneWatch), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer leave()
	tk, _ := ctx.Value(ticketKey{}).(*ticket)
	tk.began = tk.began.Add(-time.Hour)
	rows, inner := 0, 0
	if _, err := s.Walk(ctx, Request{Direction: AnyOrder}, func(*Row) error {
		if rows++; rows%500 == 1 {
			if len(tk.lane.turns) != 1 {
				t.Error("a long query has no turn")
			}
			if _, err := s.Walk(ctx, Request{Limit: 5}, func(*Row) error { inner++; return nil }); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if rows != 24*400 || inner != 5*20 {
		t.Errorf("%d rows and %d within", rows, inner)
	}
	if tk.turn.Load() != nil {
		t.Error("a turn was kept")
	}
	// What reads files out is such a query too.
	const day = testDay + 2
	rows, streams := 0, 0
	if err := s.EachOf(ctx, Span{day * DayNs, (day + 1) * DayNs, 0, math.MaxUint64}, func(wire.StreamKind, func(string) string) bool { return true }, func(*Row) error {
		if rows++; len(tk.lane.turns) != 1 {
			return errors.New("a long reading has no turn")
		}
		return nil
	}); err != nil || rows != 24*400 {
		t.Errorf("%d rows read out: %v", rows, err)
	}
	if err := s.DayStreams(ctx, day, func(wire.StreamKind, wire.Labels, int64) error {
		if streams++; len(tk.lane.turns) != 1 {
			return errors.New("a long list has no turn")
		}
		return nil
	}); err != nil || streams != 4 {
		t.Errorf("%d streams listed: %v", streams, err)
	}
	if len(tk.lane.turns) != 0 {
		t.Error("the turn was not given up")
	}
	// Somebody else has the turn and never lets go of it.
	tk.lane.turns <- struct{}{}
	ended, cancel := context.WithCancel(ctx)
	time.AfterFunc(0, cancel)
	if _, err := s.Search(ended, Request{}); !errors.Is(err, context.Canceled) {
		t.Errorf("a long query without a turn: %v", err)
	}
	<-tk.lane.turns
}

// An entry that is being stored is given way to, but one that cannot be stored holds nobody up.
func TestQueriesGiveWayToIntake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &applying{began: time.Now(), done: make(chan struct{})}
		begin := time.Now()
		a.wait(t.Context())
		if d := time.Since(begin); d != giveWay {
			t.Errorf("waited %v for the first", d)
		}
		a.wait(t.Context())
		if d := time.Since(begin); d != giveWay {
			t.Errorf("waited again: %v", d)
		}
		a = &applying{began: time.Now(), done: make(chan struct{})}
		time.AfterFunc(giveWay/2, func() { close(a.done) })
		begin = time.Now()
		a.wait(t.Context())
		if d := time.Since(begin); d != giveWay/2 {
			t.Errorf("waited %v for the second", d)
		}
	})
}

// sealingBehind is an engine without files whose inbox is full.
func sealingBehind(t *testing.T) *engine {
	t.Helper()
	s, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	e := &engine{store: s}
	e.inboxBytes.Store(e.inboxBound())
	return e
}

// A long search looks at the many small batches of an inbox that is full: it gives way for each time that it computes, not for each batch.
func TestLongQueriesGetOnWhileSealingIsBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := sealingBehind(t)
		l := &e.store.queries.lanes[LanePeople]
		c := &scan{e: e, ctx: t.Context(), ticket: &ticket{lane: l, began: time.Now().Add(-time.Hour)}}
		begin := time.Now()
		const batches = 4000
		for range batches {
			if err := c.turn(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(ownTime / 100) // it computes, in the time of the bubble
		}
		computed := batches * ownTime / 100
		if waited := time.Since(begin) - computed; waited < computed/ownTime*giveWay*9/10 || waited > computed/ownTime*giveWay+giveWay {
			t.Errorf("while it computed %v it gave way for %v", computed, waited)
		}
		// The same within a block that takes long, to an entry that is not stored yet.
		if err := c.turn(); err != nil {
			t.Fatal(err)
		}
		a := &applying{began: time.Now(), done: make(chan struct{})}
		e.applying.Store(a)
		begin = time.Now()
		for range 50 {
			if c.breathe() {
				t.Fatal("it is to stop")
			}
		}
		if d := time.Since(begin); d != 0 {
			t.Errorf("it gave way for %v a moment after it had", d)
		}
		time.Sleep(ownTime)
		begin, a.began = time.Now(), time.Now()
		c.breathe()
		if d := time.Since(begin); d != giveWay {
			t.Errorf("it gave way for %v, want %v", d, giveWay)
		}
		c.pauseTurn()
	})
}

// However many long searches there are, together they compute a third of the time of one while sealing is behind.
func TestLongQueriesTogetherLeaveRoomForSealing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := sealingBehind(t)
		l := &e.store.queries.lanes[LanePeople]
		l.turns = make(chan struct{}, 1)
		const queries, blocks, each = 3, 20, 5 * ownTime
		begin := time.Now()
		var wg sync.WaitGroup
		for range queries {
			wg.Go(func() {
				c := &scan{e: e, ctx: t.Context(), ticket: &ticket{lane: l, began: time.Now().Add(-time.Hour)}}
				for range blocks {
					if err := c.turn(); err != nil {
						t.Error(err)
					}
					time.Sleep(each) // it computes, in the time of the bubble
				}
				c.pauseTurn()
			})
		}
		wg.Wait()
		if took, computed := time.Since(begin), queries*blocks*each; took < 5*computed/2 || took > 7*computed/2 {
			t.Errorf("%v of computing took %v", computed, took)
		}
	})
}

// Apply is held up the longer the more lines wait to be sealed, and long queries give way to sealing.
func TestSealingThatIsBehindHoldsOthersUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := New(Options{SealBytes: 32 << 20})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		e := &engine{store: s}
		var cancel context.CancelFunc
		e.ctx, cancel = context.WithCancel(t.Context())
		took := func(fn func()) time.Duration {
			begin := time.Now()
			fn()
			return time.Since(begin)
		}
		search := func() { e.waitForSealing(t.Context(), 0) }
		for _, c := range []struct {
			inbox         int64
			apply, search time.Duration
		}{
			{0, 0, 0},
			{63 << 20, 0, 0},
			{64 << 20, 0, giveWay},
			{128 << 20, 0, giveWay},
			{160 << 20, inboxPatience / 4, giveWay},
			{256 << 20, inboxPatience, giveWay},
			{10 << 30, inboxPatience, giveWay},
		} {
			e.inboxBytes.Store(c.inbox)
			if apply, search := took(e.pushBack), took(search); apply != c.apply || search != c.search {
				t.Errorf("with %d MiB in the inbox Apply waits %v and a search %v", c.inbox>>20, apply, search)
			}
		}
		cancel()
		if d := took(e.pushBack); d != 0 {
			t.Errorf("Apply of a store that ends waits %v", d)
		}
		e.store.opt.Manual = true
		if d := took(search); d != 0 {
			t.Errorf("where nothing seals by itself a search waits %v", d)
		}
	})
}
