package logstore

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// Lane says on whose behalf a query runs. Lanes do not wait for each other, so no amount of what people ask keeps a rule
// from being evaluated.
type Lane uint8

// Lanes.
const (
	LanePeople Lane = iota // people, dashboards and programs; what is not said otherwise
	LaneWatch              // rules and the appliance's own questions
	LaneExport             // answers that take as long as they take
	lanes
)

// ErrBusy says that as many queries wait as may. Asking again in a moment is right.
var ErrBusy = errors.New("too many log queries are running at once")

// What queries may take.
const (
	queryBytes = 64 << 20               // what a query counts when its caller does not say: blocks decoded, and what is collected
	shortQuery = 100 * time.Millisecond // a query that takes longer gives way to others and to intake
	giveWay    = 20 * time.Millisecond  // for one entry of the log, between two blocks
)

// queryGate bounds the queries that run at once in number and memory, and what long ones take of the processors.
type queryGate struct {
	lanes [lanes]lane
}

// lane admits the queries of one lane in the order in which they came.
type lane struct {
	atOnce  int
	bytes   int64
	waiting int
	turns   chan struct{} // one for each long query that may compute at the same time

	mu                sync.Mutex
	running           int
	held              int64
	queue             []*waiter
	admitted, refused int64
}

type waiter struct {
	bytes    int64
	admitted chan struct{}
}

func newQueryGate(opt *Options) *queryGate {
	half := max(1, runtime.GOMAXPROCS(0)/2)
	g := &queryGate{}
	g.lanes[LanePeople] = lane{atOnce: opt.Queries, bytes: opt.QueryBytes, waiting: opt.QueriesWaiting, turns: make(chan struct{}, half)}
	g.lanes[LaneWatch] = lane{atOnce: 2, bytes: 3 * queryBytes, waiting: 256, turns: make(chan struct{}, 1)}
	g.lanes[LaneExport] = lane{atOnce: 2, bytes: 2 * queryBytes, waiting: 4, turns: make(chan struct{}, 1)}
	return g
}

// admit waits until there is room for the query.
func (l *lane) admit(ctx context.Context, bytes int64) error {
	bytes = min(bytes, l.bytes) // one that is larger than all there is runs when it is alone
	l.mu.Lock()
	if len(l.queue) == 0 && l.fits(bytes) {
		l.enter(bytes)
		l.mu.Unlock()
		return nil
	}
	if len(l.queue) >= l.waiting {
		l.refused++
		l.mu.Unlock()
		return fmt.Errorf("%w: %d run and %d wait", ErrBusy, l.atOnce, l.waiting)
	}
	w := &waiter{bytes: bytes, admitted: make(chan struct{})}
	l.queue = append(l.queue, w)
	l.mu.Unlock()
	select {
	case <-w.admitted:
		return nil
	case <-ctx.Done():
	}
	l.mu.Lock()
	for i, q := range l.queue {
		if q == w {
			l.queue = append(l.queue[:i], l.queue[i+1:]...)
			l.next() // it may have been what others waited behind
			l.mu.Unlock()
			return fmt.Errorf("log query waits for others: %w", context.Cause(ctx))
		}
	}
	l.mu.Unlock()
	l.leave(bytes) // it was admitted meanwhile
	return fmt.Errorf("log query: %w", context.Cause(ctx))
}

func (l *lane) fits(bytes int64) bool { return l.running < l.atOnce && l.held+bytes <= l.bytes }

func (l *lane) enter(bytes int64) {
	l.running++
	l.admitted++
	l.held += bytes
}

func (l *lane) leave(bytes int64) {
	bytes = min(bytes, l.bytes)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running--
	l.held -= bytes
	l.next()
}

// next admits those who wait, in their order.
func (l *lane) next() {
	for len(l.queue) > 0 && l.fits(l.queue[0].bytes) {
		w := l.queue[0]
		l.queue[0] = nil
		l.queue = l.queue[1:]
		l.enter(w.bytes)
		close(w.admitted)
	}
}

// QueryLoad is what goes on in a lane.
type QueryLoad struct {
	Running, Waiting  int
	Admitted, Refused int64 // since the start
}

// QueryLoad tells what goes on in a lane.
func (s *Store) QueryLoad(in Lane) QueryLoad {
	l := &s.queries.lanes[in%lanes]
	l.mu.Lock()
	defer l.mu.Unlock()
	return QueryLoad{Running: l.running, Waiting: len(l.queue), Admitted: l.admitted, Refused: l.refused}
}

// ticket is an admitted query.
type ticket struct {
	lane  *lane
	began time.Time
	turn  atomic.Pointer[scan] // the one that has a turn; others within it, as from a Walk's callback, need none
}

type ticketKey struct{}

type laneKey struct{}

// InLane returns a context whose queries run in a lane.
func InLane(ctx context.Context, in Lane) context.Context {
	return context.WithValue(ctx, laneKey{}, in%lanes)
}

// Admit waits until a query that takes up to this many bytes may run, in the lane of ctx. All that is asked of the store with
// the context it returns is part of that query; done must be called when it has ended. Who asks a single question need
// not call Admit: every question is admitted. It fails with ErrBusy when too many wait, and when ctx ends.
func (s *Store) Admit(ctx context.Context, bytes int64) (admitted context.Context, done func(), err error) {
	if _, is := ctx.Value(ticketKey{}).(*ticket); is {
		return ctx, func() {}, nil
	}
	in, _ := ctx.Value(laneKey{}).(Lane)
	l := &s.queries.lanes[in]
	if err := l.admit(ctx, bytes); err != nil {
		return nil, nil, err
	}
	admitted = context.WithValue(ctx, ticketKey{}, &ticket{lane: l, began: time.Now()})
	return admitted, sync.OnceFunc(func() { l.leave(bytes) }), nil
}

// query is scan for a question of somebody outside, which takes up to queryBytes.
func (s *Store) query(ctx context.Context, req *Request) (*scan, func(), error) {
	ctx, leave, err := s.Admit(ctx, queryBytes)
	if err != nil {
		return nil, nil, err
	}
	c, done, err := s.scan(ctx, req.Filter, req.Start, req.End)
	if err != nil {
		leave()
		return nil, nil, err
	}
	c.ticket, _ = ctx.Value(ticketKey{}).(*ticket)
	return c, func() {
		c.pauseTurn()
		done()
		leave()
	}, nil
}

// turn is called between two blocks. It fails when the query has ended, and has a long one give way: to an entry of the log
// that is being stored, and to other long queries, of which only as many compute at a time as leave room on the processors.
func (c *scan) turn() error {
	if err := c.err(); err != nil || c.ticket == nil || time.Since(c.ticket.began) < shortQuery {
		return err
	}
	if other := c.ticket.turn.Load(); other != nil && other != c {
		return nil
	}
	c.pauseTurn()
	if a := c.e.applying.Load(); a != nil {
		a.wait(c.ctx)
	}
	c.e.waitForSealing(c.ctx)
	select {
	case c.ticket.lane.turns <- struct{}{}:
		c.hasTurn = true
		c.ticket.turn.Store(c)
	case <-c.ctx.Done():
	}
	return c.err()
}

// waitForSealing gives way to it while the inbox has twice as much as is sealed at once: a search looks at every line there.
func (e *engine) waitForSealing(ctx context.Context) {
	if e.inboxBytes.Load() < e.inboxBound()/2 || e.store.opt.Manual {
		return
	}
	timer := time.NewTimer(giveWay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// breathe is called within a block, every few lines: a long query gives way there too, and stops when nobody waits for it.
func (c *scan) breathe() (stop bool) {
	if c.hasTurn {
		if a := c.e.applying.Load(); a != nil {
			a.wait(c.ctx)
		}
	}
	return c.ctx.Err() != nil
}

func (c *scan) pauseTurn() {
	if c.hasTurn {
		c.hasTurn = false
		c.ticket.turn.CompareAndSwap(c, nil)
		<-c.ticket.lane.turns
	}
}

// applying is an entry that is being stored.
type applying struct {
	began time.Time
	done  chan struct{}
}

// wait gives way to it, but not for long, and not again to the same one: on a full disk it may take for ever.
func (a *applying) wait(ctx context.Context) {
	left := giveWay - time.Since(a.began)
	if left <= 0 {
		return
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-a.done:
	case <-timer.C:
	case <-ctx.Done():
	}
}
