package lokiapi

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/gorilla/websocket"

	"github.com/triward/triward/logstore"
	"github.com/triward/triward/logstore/logql"
	"github.com/triward/triward/logstore/logql/storesource"
	"github.com/triward/triward/logstore/query"
)

// Bounds of a tail.
const (
	tailEvery   = time.Second      // between two looks into the store
	tailPing    = 20 * time.Second // to find out that a client is gone, and whether it still may
	tailWrite   = 10 * time.Second // a client that takes longer for one message is closed
	tailRead    = 15 * time.Second // for one look into the store
	tailRows    = 1000             // of one look
	tailPatient = 2 * time.Minute  // that the store may not answer, as while its state is installed
	maxDelay    = 5 * time.Second
	// tailBack is how far before the time of the log a newly accepted line may lie to be seen by a tail.
	tailBack = 24 * time.Hour
)

// tail opens a websocket and sends lines as they are accepted. Each look goes on behind the position of the last one, so
// nothing is left out and nothing comes twice.
func (h *Handler) tail(w http.ResponseWriter, q *request) error {
	x, err := q.parse()
	if err != nil {
		return err
	}
	m, err := logql.Tail(x, true)
	if err != nil {
		return err
	}
	limit, err := q.number("limit", 100, MaxEntries)
	if err != nil {
		return err
	}
	delay, err := q.duration("delay_for", 0)
	if err != nil {
		return err
	}
	if delay > maxDelay {
		return badf("parameter delay_for: at most %v", maxDelay)
	}
	start, err := q.time("start", q.now.Add(-time.Hour).UnixNano())
	if err != nil {
		return err
	}
	if !websocket.IsWebSocketUpgrade(q.Request) {
		return badf("a tail is a websocket; to read lines once use query_range")
	}
	if !h.enter() {
		return &statusError{http.StatusTooManyRequests, fmt.Errorf("%d tails are open, more are not allowed", h.opts.Tails)}
	}
	defer h.leave()
	up := websocket.Upgrader{CheckOrigin: h.fromUs, HandshakeTimeout: tailWrite}
	conn, err := up.Upgrade(w, q.Request, nil)
	if err != nil {
		return nil // it has answered
	}
	t := &tail{h: h, conn: conn, r: q.Request, m: m, limit: limit, delay: delay, start: start}
	t.run()
	return nil
}

func (h *Handler) enter() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || h.tails >= h.opts.Tails {
		return false
	}
	h.tails++
	h.wait.Add(1)
	return true
}

func (h *Handler) leave() {
	h.mu.Lock()
	h.tails--
	h.mu.Unlock()
	h.wait.Done()
}

// fromUs reports whether a websocket comes from no page, or from one of ours.
func (h *Handler) fromUs(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return true
	}
	if u, err := url.Parse(origin); err == nil && strings.EqualFold(u.Host, r.Host) {
		return true
	}
	return h.opts.Origins != nil && slices.Contains(h.opts.Origins(), origin)
}

type tail struct {
	h     *Handler
	conn  *websocket.Conn
	r     *http.Request
	m     *logql.Matcher
	limit int
	delay time.Duration
	start int64

	filter *query.Filter
	pos    logstore.Position // everything up to here was sent
}

// run serves the tail until it ends.
func (t *tail) run() {
	ctx, cancel := context.WithCancel(t.h.life)
	gone := make(chan struct{})
	go func() { // reads only to see the client's close and its pongs
		defer close(gone)
		defer cancel()
		t.conn.SetReadLimit(4 << 10)
		_ = t.conn.SetReadDeadline(time.Now().Add(3 * tailPing))
		t.conn.SetPongHandler(func(string) error { return t.conn.SetReadDeadline(time.Now().Add(3 * tailPing)) })
		for {
			if _, _, err := t.conn.ReadMessage(); err != nil {
				return
			}
		}
	}()
	err := t.serve(ctx)
	code, text := websocket.CloseNormalClosure, ""
	switch {
	case t.h.life.Err() != nil:
		code, text = websocket.CloseGoingAway, "this node ends: open the tail on another one"
	case err != nil && !errors.Is(err, errGone):
		code, text = websocket.CloseTryAgainLater, cutText(err.Error(), 120)
	}
	_ = t.conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, text), time.Now().Add(time.Second))
	_ = t.conn.Close()
	cancel()
	<-gone
}

func cutText(s string, n int) string {
	if len(s) > n {
		s = s[:n]
	}
	return strings.ToValidUTF8(s, "")
}

func (t *tail) serve(ctx context.Context) error {
	q := t.m.Query()
	t.filter, _ = storesource.Filter(&q) // what it leaves out the matcher decides
	if err := t.patiently(ctx, func() error { return t.backlog(ctx) }); err != nil {
		return err
	}
	ping := time.NewTicker(tailPing)
	defer ping.Stop()
	pace := time.NewTimer(tailEvery)
	defer pace.Stop()
	for {
		changed := t.h.opts.Store.Changed() // before the look, so that nothing between is overlooked
		if err := t.patiently(ctx, func() error { return t.news(ctx) }); err != nil {
			return err
		}
		pace.Reset(tailEvery + t.delay)
		for waiting, paced := true, false; waiting; {
			select {
			case <-ctx.Done():
				return nil
			case <-ping.C:
				if t.h.opts.Allowed != nil && !t.h.opts.Allowed(t.r) {
					return errors.New("access to lines has ended")
				}
				if err := t.conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(tailWrite)); err != nil {
					return nil
				}
			case <-pace.C:
				paced = true
			case <-changed:
				changed = nil
			}
			waiting = !paced || changed != nil
		}
	}
}

// patiently repeats what the store cannot do just now, as while it is replaced by the state of another node or too much is
// asked of it.
func (t *tail) patiently(ctx context.Context, do func() error) error {
	began := time.Now()
	for {
		err := do()
		switch {
		case err == nil || ctx.Err() != nil:
			return nil
		case time.Since(began) > tailPatient || !errors.Is(err, logstore.ErrClosed) && !errors.Is(err, logstore.ErrBusy) && !errors.Is(err, context.DeadlineExceeded):
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(tailEvery):
		}
	}
}

// errGone says that the client does not take messages any more.
var errGone = errors.New("the client is gone")

// backlog sends the newest lines that were there before.
func (t *tail) backlog(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, tailRead)
	defer cancel()
	t.pos = logstore.Position{Index: t.h.opts.Store.Applied(), Ord: math.MaxUint32}
	var rows []logql.Line
	enough := errors.New("enough")
	_, err := t.h.opts.Store.Walk(ctx, logstore.Request{Filter: t.filter, Start: t.start, End: 0, Direction: logstore.NewestFirst}, func(r *logstore.Row) error {
		if r.Index > t.pos.Index {
			return nil // comes with the news
		}
		l := logql.Line{T: r.T, Labels: r.Labels, Severity: r.Severity, Fields: r.Fields, Text: r.Text}
		labels, text, ok := t.m.Match(&l)
		if !ok {
			return nil
		}
		rows = append(rows, logql.Line{T: r.T, Labels: labels, Text: []byte(text)})
		if len(rows) >= t.limit {
			return enough
		}
		return nil
	})
	if err != nil && !errors.Is(err, enough) && !errors.Is(err, context.DeadlineExceeded) {
		return err
	} // what was found in time is better than nothing
	slices.Reverse(rows)
	return t.send(rows)
}

// news sends what was accepted since the last look.
func (t *tail) news(ctx context.Context) error {
	for {
		look, cancel := context.WithTimeout(ctx, tailRead)
		applied := t.h.opts.Store.Applied()
		found, err := t.h.opts.Store.ReadAfter(look, t.pos, t.filter, t.h.opts.LogTime().Add(-tailBack).UnixNano(), tailRows)
		cancel()
		if err != nil {
			return err
		}
		var rows []logql.Line
		for i := range found.Rows {
			r := &found.Rows[i]
			l := logql.Line{T: r.T, Labels: r.Labels, Severity: r.Severity, Fields: r.Fields, Text: r.Text}
			if labels, text, ok := t.m.Match(&l); ok {
				rows = append(rows, logql.Line{T: r.T, Labels: labels, Text: []byte(text)})
			}
		}
		if err := t.send(rows); err != nil {
			return err
		}
		if n := len(found.Rows); n > 0 {
			t.pos = found.Rows[n-1].Position
		}
		if !found.More {
			if end := (logstore.Position{Index: applied, Ord: math.MaxUint32}); t.pos.Compare(end) < 0 {
				t.pos = end
			}
			return nil
		}
	}
}

// send writes one message of lines, in their order within each stream.
func (t *tail) send(rows []logql.Line) error {
	if len(rows) == 0 {
		return nil
	}
	at := map[string]int{}
	var streams []logql.Stream
	var key []byte
	for _, l := range rows {
		key = l.Labels.AppendKey(key[:0])
		i, ok := at[string(key)]
		if !ok {
			i = len(streams)
			at[string(key)] = i
			streams = append(streams, logql.Stream{Labels: l.Labels})
		}
		streams[i].Entries = append(streams[i].Entries, logql.Entry{T: l.T, Line: string(l.Text)})
	}
	_ = t.conn.SetWriteDeadline(time.Now().Add(tailWrite))
	if err := t.conn.WriteMessage(websocket.TextMessage, append(logql.AppendStreams([]byte(`{"streams":`), streams), '}')); err != nil {
		return errGone
	}
	return nil
}
