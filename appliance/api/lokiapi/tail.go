package lokiapi

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore"
	"github.com/triward/triward/logstore/logql"
	"github.com/triward/triward/logstore/logql/storesource"
	"github.com/triward/triward/ui"
)

// Bounds of a tail.
const (
	tailKind     = "logs.tail" // the kind of live subscription whose permission a tail needs
	tailEvery    = 200 * time.Millisecond
	tailPing     = 20 * time.Second
	tailWrite    = 10 * time.Second // a client that takes nothing for so long is closed
	tailRecheck  = time.Second
	tailMessage  = 500     // lines of a message
	tailBytes    = 1 << 20 // and their bytes, about
	tailHeld     = 8 << 20 // bytes of lines that wait for delay_for, and of the first ones, with their labels
	maxDelay     = 5 * time.Second
	maxRead      = 4 << 10 // of a message of the client, which has nothing to say
	tailLookback = time.Hour
	farFuture    = int64(1<<63 - 1)
)

// tails are those that are open.
type tails struct {
	mu      sync.Mutex
	closed  bool
	n       int
	perUser map[string]int
	lines   prometheus.Counter
	dropped prometheus.Counter
}

func (t *tails) init(reg prometheus.Registerer) {
	t.perUser = map[string]int{}
	t.lines = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "triward_loki_tail_lines_total", Help: "Lines sent to those who follow lines by Loki's API.",
	})
	t.dropped = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "triward_loki_tail_dropped_total", Help: "Lines that those who follow lines by Loki's API were too slow to be sent.",
	})
	if reg != nil {
		reg.MustRegister(t.lines, t.dropped, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "triward_loki_tails", Help: "Live tails by Loki's API that are open.",
		}, func() float64 {
			t.mu.Lock()
			defer t.mu.Unlock()
			return float64(t.n)
		}))
	}
}

func (t *tails) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
}

// admit takes a place for a tail of the user and adds it to the work that Close waits for.
func (a *API) admitTail(user string) error {
	t := &a.tails
	t.mu.Lock()
	defer t.mu.Unlock()
	most := a.opts.Tails
	switch {
	case t.closed:
		return errStopping()
	case t.n >= most:
		return &httpError{code: http.StatusTooManyRequests, text: "this node has as many live tails as it can hold; use another one, or close some", retry: "5"}
	case t.perUser[user] >= max(1, most/5):
		return &httpError{code: http.StatusTooManyRequests, text: "this user has too many live tails; close some", retry: "5"}
	}
	t.n++
	t.perUser[user]++
	a.work.Add(1)
	return nil
}

func errStopping() error {
	return &httpError{code: http.StatusServiceUnavailable, text: "the node is stopping", retry: "5"}
}

func (a *API) leaveTail(user string) {
	t := &a.tails
	t.mu.Lock()
	t.n--
	if t.perUser[user]--; t.perUser[user] <= 0 {
		delete(t.perUser, user)
	}
	t.mu.Unlock()
	a.work.Done()
}

// ours reports whether a page of this cluster asks, or no page: a foreign one could borrow a cookie, but no token.
func (a *API) ours(r *http.Request) bool {
	if r.Header.Get("Authorization") != "" && r.Header.Get("Cookie") == "" {
		return true
	}
	origin := r.Header.Values("Origin")
	return len(origin) == 1 && slices.Contains(a.opts.Gate.Origins(), origin[0])
}

// tailAsked is what a client asks to follow.
type tailAsked struct {
	expr  logql.Expr
	delay time.Duration
	limit int
	start int64
}

func (q *request) tailAsked() (t tailAsked, err error) {
	expr, err := q.expr()
	if err != nil {
		return t, err
	}
	t.expr = expr
	if s := q.form.Get("delay_for"); s != "" {
		n, err := strconv.ParseFloat(s, 64)
		if err != nil || !(n >= 0 && n <= maxDelay.Seconds()) {
			return t, badf("parameter delay_for: %.40q; 0 to %d seconds are allowed", s, int(maxDelay.Seconds()))
		}
		t.delay = time.Duration(n * float64(time.Second))
	}
	if t.limit, err = q.number("limit", 100, maxLimit); err != nil {
		return t, err
	}
	t.start, err = q.time("start", q.now.Add(-tailLookback).UnixNano())
	return t, err
}

// tail answers tail: the newest lines, and then those that come, over a websocket.
func (a *API) tail(q *request) error {
	if !websocket.IsWebSocketUpgrade(q.r) {
		return badf("tail wants a websocket; use query_range for lines that are there already")
	}
	if !a.ours(q.r) {
		return &httpError{code: http.StatusForbidden, text: "the page's origin is not one of this cluster; show a token, or add the origin to listen.http.origins"}
	}
	viewer, ok := a.opts.Gate.Viewer(q.r)
	if !ok {
		return &httpError{code: http.StatusUnauthorized, text: "show an API token: Authorization: Bearer <token>"}
	}
	asked, err := q.tailAsked()
	if err != nil {
		return err
	}
	t := &tail{api: a, viewer: viewer, asked: asked}
	if t.matcher, err = logql.Tail(asked.expr, true, func() bool { return t.judging.Err() != nil }); err != nil {
		return err
	}
	if err := a.admitTail(viewer.User); err != nil {
		return err
	}
	defer a.leaveTail(viewer.User)
	follow, head := a.opts.Feed.Follow()
	defer follow.Close()
	t.follow = follow
	ctx, cancel := context.WithTimeout(q.ctx(), a.opts.Timeout)
	stop := context.AfterFunc(a.ctx, cancel) // Close waits for it
	first, err := t.backlog(ctx, head)
	stop()
	cancel()
	switch {
	case err != nil && a.ctx.Err() != nil:
		return errStopping()
	case err != nil:
		return err
	}
	upgrader := websocket.Upgrader{
		HandshakeTimeout: 5 * time.Second, CheckOrigin: func(*http.Request) bool { return true }, // looked at above
		Error: func(_ http.ResponseWriter, _ *http.Request, status int, reason error) {
			a.fail(q, &httpError{code: status, text: reason.Error()})
		},
	}
	ws, err := upgrader.Upgrade(q.w, q.r, nil)
	if err != nil {
		return nil //nolint:nilerr // the upgrader has answered
	}
	t.ws = ws
	t.serve(first)
	return nil
}

// tail is one client that follows lines. Its goroutine is the request's.
type tail struct {
	api    *API
	viewer ui.Viewer
	asked  tailAsked
	follow *ui.Follower
	ws     *websocket.Conn

	matcher *logql.Matcher
	judging context.Context // of what the matcher is asked for just now; a long line is given up when it ends

	held      []held // lines that wait for delay_for, in the order in which they came
	heldBytes int
	lost      int // lines that the client was too slow for; -1 when nobody knows how many
}

// held is a line as the query makes it.
type held struct {
	came   time.Time
	t      int64
	labels wire.Labels
	text   string
	size   int // bytes of it all, about
}

func newHeld(came time.Time, t int64, labels wire.Labels, text string) held {
	size := 128 + len(text)
	for i := range labels {
		size += 32 + len(labels[i].Name) + len(labels[i].Value)
	}
	return held{came, t, labels, text, size}
}

var errEnough = errors.New("enough lines")

// backlog reads the newest lines up to the position from which on the feed tells of all, oldest first. When some may lack, as parts
// are damaged, they count as lost.
func (t *tail) backlog(ctx context.Context, head ui.Position) ([]held, error) {
	ctx, leave, err := t.api.opts.Store.Admit(ctx, lookupBytes)
	if err != nil {
		return nil, err
	}
	defer leave()
	t.judging = ctx
	want := t.matcher.Query()
	f, _ := storesource.Filter(&want)
	var out []held
	bytes := 0
	req := logstore.Request{Filter: f, Start: t.asked.start, End: farFuture, Direction: logstore.NewestFirst}
	st, err := t.api.opts.Store.Walk(ctx, req, func(r *logstore.Row) error {
		if head.Less(ui.Position{Index: r.Index, Ord: r.Ord}) {
			return nil // the feed has it
		}
		ls, text, ok := t.matcher.Match(&logql.Line{T: r.T, Labels: r.Labels, Severity: r.Severity, Fields: r.Fields, Text: r.Text})
		if err := ctx.Err(); err != nil {
			return err
		}
		if !ok {
			return nil
		}
		l := newHeld(time.Time{}, r.T, ls, text)
		out = append(out, l)
		if bytes += l.size; len(out) >= t.asked.limit || bytes > tailHeld {
			return errEnough
		}
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return nil, err
	}
	if st.Partial {
		t.lost = -1
	}
	slices.Reverse(out)
	return out, nil
}

// serve sends lines until the client goes, its session ends, or the node stops.
func (t *tail) serve(first []held) {
	var reading sync.WaitGroup
	ctx, cancel := context.WithCancel(t.api.ctx)
	reading.Go(func() {
		defer cancel()
		t.read()
	})
	defer reading.Wait()
	defer t.ws.Close() //nolint:errcheck // it ends the reading
	t.judging = ctx
	code, why := t.run(ctx, first)
	if code != 0 {
		_ = t.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, why), time.Now().Add(time.Second))
	}
}

// read takes what the client sends, which means nothing, until it goes.
func (t *tail) read() {
	t.ws.SetReadLimit(maxRead)
	extend := func(string) error { return t.ws.SetReadDeadline(time.Now().Add(3 * tailPing)) }
	_ = extend("")
	t.ws.SetPongHandler(extend)
	for {
		if _, _, err := t.ws.NextReader(); err != nil {
			return
		}
	}
}

// run sends lines and returns how to close, 0 when there is nobody left to tell.
func (t *tail) run(ctx context.Context, first []held) (code int, why string) {
	if err := t.send(first); err != nil {
		return 0, ""
	}
	ping, recheck, wake := time.NewTicker(tailPing), time.NewTicker(tailRecheck), time.NewTimer(tailEvery)
	defer ping.Stop()
	defer recheck.Stop()
	defer wake.Stop()
	for {
		select {
		case <-ctx.Done():
			if t.api.ctx.Err() != nil {
				return websocket.CloseGoingAway, "the node is stopping"
			}
			return 0, ""
		case <-recheck.C:
			v, ok := t.api.opts.Gate.Recheck(t.viewer)
			if !ok || !t.api.opts.Gate.May(v, tailKind) {
				return websocket.ClosePolicyViolation, "the session has ended"
			}
			t.viewer = v
		case <-ping.C:
			if err := t.ws.WriteControl(websocket.PingMessage, nil, time.Now().Add(tailWrite)); err != nil {
				return 0, ""
			}
		case <-wake.C:
			began := time.Now()
			t.take(ctx)
			if err := t.send(t.due(time.Now())); err != nil {
				return 0, ""
			}
			// A query that is slow to judge takes at most half of a processor; what it misses meanwhile it is told.
			wake.Reset(max(tailEvery, time.Since(began)))
		}
	}
}

// take judges the lines that came.
func (t *tail) take(ctx context.Context) {
	lines, lost, _ := t.follow.Read()
	if lost < 0 || t.lost < 0 {
		t.lost = -1
	} else {
		t.lost += lost
	}
	now := time.Now()
	for i := range lines {
		l := &lines[i]
		if l.T < t.asked.start {
			continue
		}
		ls, text, ok := t.matcher.Match(&logql.Line{T: l.T, Labels: l.Labels, Severity: l.Severity, Fields: l.Fields, Text: l.Text})
		if ctx.Err() != nil {
			return
		}
		if !ok {
			continue
		}
		h := newHeld(now, l.T, ls, text)
		if t.heldBytes+h.size > tailHeld {
			if t.lost >= 0 {
				t.lost++
			}
			continue
		}
		t.held = append(t.held, h)
		t.heldBytes += h.size
	}
}

// due takes out what has waited long enough, sorted by time.
func (t *tail) due(now time.Time) []held {
	n := 0
	for n < len(t.held) && now.Sub(t.held[n].came) >= t.asked.delay {
		t.heldBytes -= t.held[n].size
		n++
	}
	out := slices.Clone(t.held[:n])
	t.held = slices.Delete(t.held, 0, n)
	slices.SortStableFunc(out, func(a, b held) int { return cmp.Compare(a.t, b.t) })
	return out
}

// send writes lines in messages of bounded size, and what was lost before them.
func (t *tail) send(lines []held) error {
	for len(lines) > 0 || t.lost != 0 {
		n, bytes := 0, 0
		for n < len(lines) && n < tailMessage && bytes < tailBytes {
			bytes += lines[n].size
			n++
		}
		msg := t.message(lines[:n])
		lines = lines[n:]
		_ = t.ws.SetWriteDeadline(time.Now().Add(tailWrite))
		if err := t.ws.WriteMessage(websocket.TextMessage, msg); err != nil {
			return err
		}
		t.api.tails.lines.Add(float64(n))
	}
	return nil
}

// message makes a message of lines in their order, which readers show them in: a stream begins again behind a line of another.
func (t *tail) message(lines []held) []byte {
	var streams []logql.Stream
	for i := range lines {
		l := &lines[i]
		if i == 0 || !slices.Equal(l.labels, lines[i-1].labels) {
			streams = append(streams, logql.Stream{Labels: l.labels})
		}
		s := &streams[len(streams)-1]
		s.Entries = append(s.Entries, logql.Entry{T: l.t, Line: l.text})
	}
	w := &writer{}
	w.text(`{"streams":[`)
	w.streams(streams, false)
	w.text(`]`)
	if t.lost != 0 {
		count := "unknown"
		if t.lost > 0 {
			count = strconv.Itoa(t.lost)
			t.api.tails.dropped.Add(float64(t.lost))
		} else {
			t.api.tails.dropped.Add(1)
		}
		w.text(`,"dropped_entries":[{"labels":{"dropped":"` + count + `"},"timestamp":"`)
		w.text(strconv.FormatInt(time.Now().UnixNano(), 10) + `"}]`)
		t.lost = 0
	}
	w.text(`}`)
	return w.buf
}
