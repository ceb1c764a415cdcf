package logstore

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/triward/triward/logstore/query"
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

// ErrBusy says that as many queries wait as may, or that a query waited for others until its time was over. Asking again in a moment
// is right.
var ErrBusy = errors.New("too many log queries are running at once")

// What queries may take.
const (
	queryBytes = 64 << 20               // what a query counts when its caller does not say: blocks decoded, and what is collected
	shortQuery = 100 * time.Millisecond // a query that takes longer gives way to others and to intake
	giveWay    = 20 * time.Millisecond  // for one entry of the log, and for sealing
	ownTime    = 10 * time.Millisecond  // that a long query computes before it gives way again: so it gets on while lines come without a pause
)

// queryGate bounds the queries that run at once in number and memory, and what long ones take of the processors.
type queryGate struct {
	lanes [lanes]lane
}

func newQueryGate(opt *Options) *queryGate {
	half := max(1, runtime.GOMAXPROCS(0)/2)
	g := &queryGate{}
	people, watch, export := &g.lanes[LanePeople], &g.lanes[LaneWatch], &g.lanes[LaneExport]
	people.init(opt.Queries, opt.QueryBytes, opt.QueriesWaiting, half)
	watch.init(2, 3*queryBytes, 256, 1)
	export.init(3, 3*queryBytes, 4, 1)
	people.spare, export.spare = opt.Queries >= spareFrom, true
	return g
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
	return QueryLoad{Running: l.running, Waiting: l.waiting, Admitted: l.admitted, Refused: l.refused}
}

// ticket is an admitted query.
type ticket struct {
	lane  *lane
	began time.Time
	turn  atomic.Pointer[scan] // the one that has a turn; others within it, as from a Walk's callback, need none
}

type ticketKey struct{}

type laneKey struct{}

type askerKey struct{}

// InLane returns a context whose queries run in a lane.
func InLane(ctx context.Context, in Lane) context.Context {
	return context.WithValue(ctx, laneKey{}, in%lanes)
}

// AskedBy returns a context whose queries are for somebody.
func AskedBy(ctx context.Context, who Asker) context.Context {
	return context.WithValue(ctx, askerKey{}, who)
}

// Admit waits until a query that takes up to this many bytes may run, in the lane of ctx, for the asker of ctx. All that is asked of the store with
// the context it returns is part of that query; done must be called when it has ended. Who asks a single question need
// not call Admit: every question is admitted. It fails with ErrBusy when too many wait or its time is over before its turn, and when ctx ends.
func (s *Store) Admit(ctx context.Context, bytes int64) (admitted context.Context, done func(), err error) {
	if _, is := ctx.Value(ticketKey{}).(*ticket); is {
		return ctx, func() {}, nil
	}
	in, _ := ctx.Value(laneKey{}).(Lane)
	l := &s.queries.lanes[in]
	who, _ := ctx.Value(askerKey{}).(Asker)
	leave, err := l.admit(ctx, who, bytes)
	if err != nil {
		return nil, nil, err
	}
	admitted = context.WithValue(ctx, ticketKey{}, &ticket{lane: l, began: time.Now()})
	return admitted, sync.OnceFunc(leave), nil
}

// query is scan for a question of somebody outside, which takes up to queryBytes.
func (s *Store) query(ctx context.Context, req *Request) (*scan, func(), error) {
	ctx, leave, err := s.Admit(ctx, queryBytes)
	if err != nil {
		return nil, nil, err
	}
	c, done, err := s.part(ctx, req.Filter, req.Start, req.End)
	if err != nil {
		leave()
		return nil, nil, err
	}
	return c, func() {
		done()
		leave()
	}, nil
}

// part is scan for a part of the query that ctx was admitted for, if it was: it gives way as that does.
func (s *Store) part(ctx context.Context, f *query.Filter, start, end int64) (*scan, func(), error) {
	c, done, err := s.scan(ctx, f, start, end)
	if err != nil {
		return nil, nil, err
	}
	c.ticket, _ = ctx.Value(ticketKey{}).(*ticket)
	return c, func() {
		c.pauseTurn()
		done()
	}, nil
}

// turn is called between two blocks. It fails when the query has ended, and has a long one give way from time to time: to an entry of the
// log that is being stored, and to other long queries, of which only as many compute at a time as leave room on the processors.
func (c *scan) turn() error {
	if err := c.err(); err != nil || c.ticket == nil || time.Since(c.ticket.began) < shortQuery {
		return err
	}
	if other := c.ticket.turn.Load(); other != nil && other != c {
		return nil
	}
	computed := time.Duration(0)
	if c.hasTurn {
		if computed = time.Since(c.resumed); computed < ownTime {
			return nil
		}
	}
	c.pauseTurn()
	if a := c.e.applying.Load(); a != nil {
		a.wait(c.ctx)
	}
	select {
	case c.ticket.lane.turns <- struct{}{}:
		c.hasTurn = true
		c.ticket.turn.Store(c)
		c.e.waitForSealing(c.ctx, computed) // in its turn, so that no other long query computes meanwhile
		c.resumed = time.Now()
	case <-c.ctx.Done():
	}
	return c.err()
}

// waitForSealing gives way to it, twice as long as the query computed, while the inbox has twice as much as is sealed at once: a search
// looks at every line there.
func (e *engine) waitForSealing(ctx context.Context, computed time.Duration) {
	if e.inboxBytes.Load() < e.inboxBound()/2 || e.store.opt.Manual {
		return
	}
	timer := time.NewTimer(max(giveWay, 2*computed))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// breathe is called within a block, every few lines: a long query gives way there too, and stops when nobody waits for it.
func (c *scan) breathe() (stop bool) {
	if c.hasTurn {
		if a := c.e.applying.Load(); a != nil && time.Since(c.resumed) >= ownTime {
			a.wait(c.ctx)
			c.resumed = time.Now()
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
