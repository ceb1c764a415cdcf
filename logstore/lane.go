package logstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// Asker is whom a query is for. Those of one asker are admitted in the order in which they came; askers take turns, so that whoever
// asks little waits for none of the many that somebody else asks. The zero value is whoever is not named, and the node itself.
type Asker struct {
	Key  string // tells askers apart
	Name string // as people know them, told to those who are refused; "" is not told
}

// spareFrom is how many places a lane of people has before the last one is left to others: who has less had better use them all.
const spareFrom = 3

// lane admits queries within bounds of number and memory. The next place is that of the asker with the fewest running, and among those
// of the one for whom it is longest ago that they came, or that one of theirs ended: so everybody gets on, however many ask.
type lane struct {
	atOnce     int
	bytes      int64
	mostWait   int
	spare      bool          // the last place, and memory for it, is for who has none
	spareBytes int64         // that memory
	turns      chan struct{} // one for each long query that may compute at the same time

	mu                sync.Mutex
	running           int
	held              int64
	waiting           int
	askers            map[string]*asker // who run or wait
	moved             uint64            // to the end of the order, so many times
	admitted, refused int64
}

// asker is somebody in a lane.
type asker struct {
	Asker
	running int
	queue   []*waiter
	place   uint64 // in the order of askers
}

type waiter struct {
	bytes   int64
	decided chan struct{} // closed once it is admitted or refused
	err     error         // that it was refused with
}

func (l *lane) init(atOnce int, bytes int64, mostWait, turns int) {
	l.atOnce, l.bytes, l.mostWait = atOnce, bytes, max(0, mostWait)
	l.spareBytes = min(queryBytes, bytes/int64(max(1, atOnce)))
	l.turns, l.askers = make(chan struct{}, turns), map[string]*asker{}
}

// admit waits until there is a place for the query, which leave gives back.
func (l *lane) admit(ctx context.Context, who Asker, bytes int64) (leave func(), err error) {
	w := &waiter{bytes: min(bytes, l.bytes), decided: make(chan struct{})} // one that is larger than all there is runs when it is alone
	l.mu.Lock()
	a := l.asker(who)
	a.queue = append(a.queue, w)
	l.waiting++
	l.next()
	if l.waiting > l.mostWait { // it is w that was one too many
		l.refuse(a)
	}
	l.mu.Unlock()
	leave = func() { l.leave(a, w.bytes) }
	select {
	case <-w.decided: // also when ctx has ended: what it has time for is the query's own affair
		return leave, w.err
	default:
	}
	select {
	case <-w.decided:
		return leave, w.err
	case <-ctx.Done():
	}
	l.mu.Lock()
	i := slices.Index(a.queue, w)
	if i >= 0 {
		err = l.late(context.Cause(ctx))
		l.remove(a, i)
		l.next() // it may have been what others waited behind
	}
	l.mu.Unlock()
	switch {
	case i >= 0:
		return nil, err
	case w.err == nil:
		leave() // it was admitted meanwhile
	}
	return nil, fmt.Errorf("log query: %w", context.Cause(ctx))
}

func (l *lane) asker(who Asker) *asker {
	a := l.askers[who.Key]
	if a == nil {
		a = &asker{Asker: who}
		l.askers[who.Key] = a
		l.toEnd(a)
	}
	return a
}

func (l *lane) toEnd(a *asker) {
	l.moved++
	a.place = l.moved
}

// fits reports whether there is a place for a query of the asker.
func (l *lane) fits(a *asker, bytes int64) bool {
	places, memory := l.atOnce, l.bytes
	if l.spare && a.running > 0 {
		places, memory = places-1, memory-l.spareBytes
	}
	return l.running < places && l.held+bytes <= memory
}

// next admits those whose turn it is. Nobody passes one for whom there is no place yet: it would wait for ever.
func (l *lane) next() {
	for {
		var a *asker
		for _, b := range l.askers {
			if len(b.queue) > 0 && (a == nil || b.running < a.running || b.running == a.running && b.place < a.place) {
				a = b
			}
		}
		if a == nil || !l.fits(a, a.queue[0].bytes) {
			return
		}
		w := a.queue[0]
		l.running++
		l.admitted++
		l.held += w.bytes
		a.running++
		l.remove(a, 0)
		close(w.decided)
	}
}

func (l *lane) leave(a *asker, bytes int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running--
	l.held -= bytes
	a.running--
	l.toEnd(a)
	l.forget(a)
	l.next()
}

// remove takes one out of those who wait.
func (l *lane) remove(a *asker, i int) {
	a.queue = slices.Delete(a.queue, i, i+1)
	l.waiting--
	l.forget(a)
}

func (l *lane) forget(a *asker) {
	if a.running == 0 && len(a.queue) == 0 {
		delete(l.askers, a.Key)
	}
}

// refuse refuses one, as too many wait: the one that came last of whoever has more waiting than the asker who came, or else that one.
func (l *lane) refuse(came *asker) {
	a := came
	for _, b := range l.askers {
		if n := len(b.queue) - len(a.queue); n > 0 || n == 0 && a != came && b.place > a.place {
			a = b
		}
	}
	w := a.queue[len(a.queue)-1]
	w.err = fmt.Errorf("%w: %s", ErrBusy, l.load())
	l.refused++
	l.remove(a, len(a.queue)-1)
	close(w.decided)
}

// late is the error of a query that waited until its context ended.
func (l *lane) late(cause error) error {
	if errors.Is(cause, context.DeadlineExceeded) {
		return fmt.Errorf("%w: its time was over before its turn came: %s: %w", ErrBusy, l.load(), cause)
	}
	return fmt.Errorf("log query waits for others: %w", cause)
}

// load says how many run and wait, and who has most of them.
func (l *lane) load() string {
	var most *asker
	for _, a := range l.askers {
		if most == nil || cmp.Or(cmp.Compare(a.running+len(a.queue), most.running+len(most.queue)),
			cmp.Compare(a.running, most.running), cmp.Compare(most.place, a.place)) > 0 {
			most = a
		}
	}
	s := fmt.Sprintf("%d run and %d wait", l.running, l.waiting)
	if most != nil && most.Name != "" {
		s += fmt.Sprintf(", %d and %d of them for %s", most.running, len(most.queue), most.Name)
	}
	return s
}
