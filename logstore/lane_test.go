package logstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// questions are asked of a lane, and noted as they are admitted.
type questions struct {
	t    *testing.T
	lane *lane
	wg   sync.WaitGroup

	mu       sync.Mutex
	admitted []string
	leaves   map[string]func()
	errs     map[string]error
}

func newQuestions(t *testing.T, atOnce int, bytes int64, mostWait int, spare bool) *questions {
	q := &questions{t: t, lane: &lane{}, leaves: map[string]func(){}, errs: map[string]error{}}
	q.lane.init(atOnce, bytes, mostWait, 1)
	q.lane.spare = spare
	return q
}

// ask asks a question whose name begins with that of who asks, and returns once it is admitted, refused or waits.
func (q *questions) ask(ctx context.Context, name string, bytes int64) {
	who, _, _ := strings.Cut(name, " ")
	q.wg.Go(func() {
		leave, err := q.lane.admit(ctx, Asker{Key: who, Name: "user " + who}, bytes)
		q.mu.Lock()
		defer q.mu.Unlock()
		if err != nil {
			q.errs[name] = err
			return
		}
		q.admitted = append(q.admitted, name)
		q.leaves[name] = leave
	})
	synctest.Wait()
}

// end has questions that run end, and returns those that were admitted then.
func (q *questions) end(names ...string) []string {
	q.t.Helper()
	before := len(q.admitted)
	for _, name := range names {
		leave := q.leaves[name]
		if leave == nil {
			q.t.Fatalf("%s does not run", name)
		}
		delete(q.leaves, name)
		leave()
		synctest.Wait()
	}
	return slices.Sorted(slices.Values(q.admitted[before:])) // at one moment in any order
}

func (q *questions) want(what string, got []string, want ...string) {
	q.t.Helper()
	if !slices.Equal(got, want) {
		q.t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// Somebody who asks one question beside sixty of somebody else has a place at once, and two more of them the next ones.
func TestWhoAsksLittleDoesNotWaitForWhoAsksMuch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQuestions(t, 4, 320<<20, 64, true)
		for i := range 60 {
			q.ask(t.Context(), fmt.Sprint("dash ", i), queryBytes)
		}
		q.want("a dashboard alone", q.admitted, "dash 0", "dash 1", "dash 2")
		q.ask(t.Context(), "ada 1", queryBytes)
		q.want("the last place", q.admitted[3:], "ada 1")
		q.ask(t.Context(), "ada 2", queryBytes)
		q.ask(t.Context(), "bob 1", queryBytes)
		q.want("the next place is of who has none", q.end("dash 1"), "bob 1")
		q.want("the last place is left to somebody else", q.end("dash 0"))
		q.want("again who has none", q.end("ada 1"), "ada 2")
		q.want("nobody else waits", q.end("ada 2", "bob 1"), "dash 3", "dash 4")
		q.want("their order", q.end("dash 4", "dash 2"), "dash 5", "dash 6")
	})
}

// With a single place askers take turns too.
func TestAskersTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQuestions(t, 1, 1, 64, false)
		for i := range 4 {
			q.ask(t.Context(), fmt.Sprint("dash ", i), 1)
		}
		q.ask(t.Context(), "ada 0", 1)
		q.ask(t.Context(), "ada 1", 1)
		q.ask(t.Context(), "bob 0", 1)
		for _, name := range []string{"dash 0", "ada 0", "bob 0", "dash 1", "ada 1", "dash 2", "dash 3"} {
			q.end(name)
		}
		q.want("turns", q.admitted, "dash 0", "ada 0", "bob 0", "dash 1", "ada 1", "dash 2", "dash 3")
	})
}

// A large question is not passed for ever by small ones, and the memory of the last place is for who has none.
func TestLargeQuestionsGetOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQuestions(t, 4, 4*queryBytes, 64, true)
		q.ask(t.Context(), "dash 0", 2*queryBytes)
		q.ask(t.Context(), "dash 1", 2*queryBytes)
		q.want("a second would take all memory", q.admitted, "dash 0")
		q.ask(t.Context(), "ada 0", 100*queryBytes) // more than there is
		q.ask(t.Context(), "bob 0", 1)
		q.want("small ones do not pass a large one", q.admitted, "dash 0")
		q.want("what is larger than all runs alone", q.end("dash 0"), "ada 0")
		q.want("and the rest behind it", q.end("ada 0"), "bob 0", "dash 1")
	})
}

// When too many wait it is those of whoever has most waiting that are refused, and told whose they are.
func TestWhoFillsTheQueueIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQuestions(t, 1, 1, 3, false)
		for i := range 5 {
			q.ask(t.Context(), fmt.Sprint("dash ", i), 1)
		}
		if err := q.errs["dash 4"]; len(q.errs) != 1 || !errors.Is(err, ErrBusy) ||
			!strings.HasSuffix(err.Error(), ": 1 run and 4 wait, 1 and 4 of them for user dash") {
			t.Errorf("one too many: %v", q.errs)
		}
		q.ask(t.Context(), "ada 0", 1)
		q.ask(t.Context(), "bob 0", 1)
		if len(q.errs) != 3 || q.errs["dash 3"] == nil || q.errs["dash 2"] == nil {
			t.Errorf("the newest of who has most waiting: %v", q.errs)
		}
		q.ask(t.Context(), "cyd 0", 1) // three wait, each for somebody else
		if len(q.errs) != 4 || q.errs["cyd 0"] == nil {
			t.Errorf("nobody has more waiting: %v", q.errs)
		}
		if q.lane.refused != 4 {
			t.Errorf("%d are counted", q.lane.refused)
		}
		q.end("dash 0", "ada 0", "bob 0", "dash 1")
		q.want("who waited", q.admitted, "dash 0", "ada 0", "bob 0", "dash 1")
		if len(q.lane.askers) != 0 {
			t.Errorf("%d askers are remembered", len(q.lane.askers))
		}
	})
}

// Who waited until its time was over is busy, which is worth asking again; who went away is not.
func TestWaitingEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQuestions(t, 1, 1, 3, false)
		q.ask(t.Context(), "dash 0", 1)
		late, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		gone, leave := context.WithCancel(t.Context())
		q.ask(late, "ada 0", 1)
		q.ask(gone, "bob 0", 1)
		leave()
		time.Sleep(time.Second) // of the bubble
		synctest.Wait()
		if err := q.errs["ada 0"]; !errors.Is(err, ErrBusy) || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "for user dash") {
			t.Errorf("too late: %v", err)
		}
		if err := q.errs["bob 0"]; errors.Is(err, ErrBusy) || !errors.Is(err, context.Canceled) {
			t.Errorf("gone: %v", err)
		}
		q.end("dash 0")
		if l := q.lane; l.running != 0 || l.held != 0 || l.waiting != 0 || len(l.askers) != 0 {
			t.Errorf("left over: %d run, %d wait, %d bytes, %v", l.running, l.waiting, l.held, l.askers)
		}
	})
}

// laneModel is a lane whose every rule is told by looking at all there is.
type laneModel struct {
	l       *lane
	waiting map[string][]int // by asker, in their order
	running map[string]int
	bytes   map[int]int64
	behind  map[string]int // places given to others while an asker with none running waits
}

// admits checks that question n is what the rules admit now.
func (m *laneModel) admits(t *testing.T, who string, n int, askers int) {
	t.Helper()
	if m.waiting[who][0] != n {
		t.Errorf("%s: %d was admitted before %d", who, n, m.waiting[who][0])
	}
	least := m.running[who]
	for b, queue := range m.waiting {
		if len(queue) > 0 {
			least = min(least, m.running[b])
		}
	}
	if m.running[who] > least {
		t.Errorf("%s has %d running and got a place before one who has %d", who, m.running[who], least)
	}
	for b, queue := range m.waiting {
		if b == who || len(queue) == 0 || m.running[b] > 0 {
			m.behind[b] = 0
		} else if m.behind[b]++; m.behind[b] > askers {
			t.Errorf("%s waits with none running while %d others got places", b, m.behind[b])
		}
	}
	m.behind[who] = 0
	m.waiting[who] = m.waiting[who][1:]
	m.running[who]++
}

// Whatever is asked, ended, cancelled and cancelled at the moment of its admission: the bounds hold, those of one asker keep their
// order, who has fewer running comes first, nobody is passed again and again, and no place is lost.
func TestLaneAgainstModel(t *testing.T) {
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) { laneAgainstModel(t, seed) })
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func laneAgainstModel(t *testing.T, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 7))
	atOnce, mostWait, spare := 1+rnd.IntN(5), rnd.IntN(24), rnd.IntN(2) == 0
	l := &lane{}
	l.init(atOnce, int64(atOnce)*8, mostWait, 1)
	l.spare = spare && atOnce >= spareFrom
	m := laneModel{l: l, waiting: map[string][]int{}, running: map[string]int{}, bytes: map[int]int64{}, behind: map[string]int{}}
	type outcome struct {
		n     int
		leave func()
		err   error
	}
	type asked struct {
		who    string
		cancel context.CancelFunc
		leave  func() // once it runs
	}
	open := map[int]*asked{}
	outcomes := make(chan outcome, 1000)
	askers := 1 + rnd.IntN(6)
	took := map[string]int{}

	// settle takes note of what was decided since the step before. Several are admitted in one step only in an order that nobody
	// outside sees, so their number in the lane tells it.
	settle := func() {
		synctest.Wait()
		var admitted []outcome
		for len(outcomes) > 0 {
			o := <-outcomes
			a := open[o.n]
			if o.err != nil {
				i := slices.Index(m.waiting[a.who], o.n)
				m.waiting[a.who] = slices.Delete(m.waiting[a.who], i, i+1)
				delete(open, o.n)
				continue
			}
			a.leave = o.leave
			admitted = append(admitted, o)
		}
		// In the order in which the rules admit them, if there is one.
		for len(admitted) > 0 {
			best := 0
			for i := range admitted {
				x, y := open[admitted[i].n].who, open[admitted[best].n].who
				if m.running[x] < m.running[y] || x == y && admitted[i].n < admitted[best].n || m.running[x] == m.running[y] && m.behind[x] > m.behind[y] {
					best = i
				}
			}
			n := admitted[best].n
			m.admits(t, open[n].who, n, askers)
			took[open[n].who]++
			admitted = slices.Delete(admitted, best, best+1)
		}
		m.bounds(t, mostWait)
	}
	next := 0
	for range 400 {
		var waits, runs []int
		for _, n := range slices.Sorted(maps.Keys(open)) {
			if open[n].leave == nil {
				waits = append(waits, n)
			} else {
				runs = append(runs, n)
			}
		}
		end := func(n int) {
			a := open[n]
			delete(open, n)
			m.running[a.who]--
			delete(m.bytes, n)
			a.leave()
		}
		switch k := rnd.IntN(10); {
		case k < 5: // asks
			n, who := next, fmt.Sprint("asker", min(rnd.IntN(askers), rnd.IntN(askers)))
			next++
			ctx, cancel := context.WithCancel(t.Context())
			open[n] = &asked{who: who, cancel: cancel}
			m.waiting[who] = append(m.waiting[who], n)
			bytes := int64(1 + rnd.IntN(12))
			if rnd.IntN(20) == 0 {
				bytes = 1000
			}
			go func() {
				leave, err := l.admit(ctx, Asker{Key: who}, bytes)
				outcomes <- outcome{n, leave, err}
			}()
		case k < 8 && len(runs) > 0:
			end(runs[rnd.IntN(len(runs))])
		case k == 8 && len(waits) > 0:
			open[waits[rnd.IntN(len(waits))]].cancel()
		case k == 9 && len(waits) > 0 && len(runs) > 0: // those who wait go at the moment when there is a place
			for _, n := range waits[:1+rnd.IntN(len(waits))] {
				open[n].cancel()
			}
			end(runs[rnd.IntN(len(runs))])
		}
		settle()
	}
	for len(open) > 0 { // all that are left get on when those that run end
		n := -1
		for k, a := range open {
			if a.leave != nil && (n < 0 || k < n) {
				n = k
			}
		}
		if n < 0 {
			t.Errorf("%d wait and none runs", len(open))
			for _, a := range open {
				a.cancel()
			}
			synctest.Wait()
			return
		}
		a := open[n]
		delete(open, n)
		m.running[a.who]--
		a.leave()
		settle()
	}
	if l.running != 0 || l.held != 0 || l.waiting != 0 || len(l.askers) != 0 {
		t.Errorf("left over: %d run, %d wait, %d bytes, %d askers", l.running, l.waiting, l.held, len(l.askers))
	}
}

// bounds checks what always holds.
func (m *laneModel) bounds(t *testing.T, mostWait int) {
	t.Helper()
	l := m.l
	l.mu.Lock()
	defer l.mu.Unlock()
	running, waiting := 0, 0
	var first *asker
	for key, a := range l.askers {
		running += a.running
		waiting += len(a.queue)
		if a.running != m.running[key] || len(a.queue) != len(m.waiting[key]) {
			t.Errorf("%s: %d run and %d wait, want %d and %d", key, a.running, len(a.queue), m.running[key], len(m.waiting[key]))
		}
		if len(a.queue) > 0 && (first == nil || a.running < first.running || a.running == first.running && a.place < first.place) {
			first = a
		}
	}
	switch {
	case running != l.running || waiting != l.waiting:
		t.Errorf("%d run and %d wait, counted %d and %d", running, waiting, l.running, l.waiting)
	case l.running > l.atOnce || l.held > l.bytes || l.held < 0 || waiting > mostWait:
		t.Errorf("%d of %d run with %d of %d bytes, %d of %d wait", l.running, l.atOnce, l.held, l.bytes, waiting, mostWait)
	case first != nil && l.running < l.atOnce && l.held+first.queue[0].bytes <= l.bytes && (!l.spare || first.running == 0):
		t.Errorf("%s waits and has a place", first.Key)
	}
	if l.spare {
		for key, a := range l.askers {
			if a.running == l.atOnce {
				t.Errorf("%s has the last place as well", key)
			}
		}
	}
}
