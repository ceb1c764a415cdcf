package ui

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/time/rate"
)

// frame is one message in parts, so that what is equal for many clients is kept once.
type frame [][]byte

// stream is one subscription as its connection sees it. What it has for the client stays with it until the writer
// asks, so that a slow reader costs no more than the stream's own bound.
type stream interface {
	// next returns what is due now, nil when nothing is. Called by the writer only.
	next() []frame
	// detach ends the subscription. It is called once.
	detach()
}

// sub is a subscription of a connection.
type sub struct {
	id, kind string
	ctx      context.Context // ends with the subscription
	cancel   context.CancelFunc
	stream   stream // nil until the first answer is on its way
	paused   bool
}

// conn is one client. The goroutine of the request reads, another writes; those that prepare first answers end
// with their subscription.
type conn struct {
	hub  *Hub
	user string // of the bound per user; does not change with the role

	ctx    context.Context
	cancel context.CancelFunc
	wake   chan struct{} // one place: something is to be written
	work   sync.WaitGroup
	limit  *rate.Limiter // messages of the client

	mu      sync.Mutex
	viewer  Viewer
	subs    map[string]*sub
	order   []*sub
	control []frame
	tick    bool
	closing *closing
	ws      *websocket.Conn
}

type closing struct {
	code int
	text string
}

// newConn makes a connection. What it asks has the values of the request's context, of, and ends with the hub.
func newConn(of context.Context, h *Hub, v Viewer) *conn {
	ctx, cancel := context.WithCancel(context.WithoutCancel(of))
	stop := context.AfterFunc(h.ctx, cancel)
	return &conn{
		hub: h, user: v.User, viewer: v, ctx: ctx, cancel: func() { stop(); cancel() }, wake: make(chan struct{}, 1),
		subs: make(map[string]*sub), limit: rate.NewLimiter(50, 300),
	}
}

func (c *conn) currentViewer() Viewer {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.viewer
}

// setViewer takes a changed role: subscriptions that it does not allow any more end.
func (c *conn) setViewer(v Viewer) {
	c.mu.Lock()
	c.viewer = v
	var lost []string
	for _, s := range c.order {
		if !c.hub.cfg.Gate.May(v, s.kind) {
			lost = append(lost, s.id)
		}
	}
	c.mu.Unlock()
	for _, id := range lost {
		c.fail(id, codeForbidden, -1, "your role does not allow this any more")
	}
}

// stop ends the connection soon, whether or not the client reads. It does not wait.
func (c *conn) stop(code int, text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing != nil {
		return
	}
	c.closing = &closing{code, text}
	if c.ws != nil {
		// A write that hangs must not outlive the session.
		_ = c.ws.NetConn().SetDeadline(time.Now().Add(500 * time.Millisecond))
	}
	c.cancel()
}

// serve runs the connection until it ends and everything it started has returned.
func (c *conn) serve(ws *websocket.Conn) {
	c.mu.Lock()
	c.ws = ws
	c.mu.Unlock()
	c.send(msgWelcome{Op: "welcome", Epoch: c.hub.epoch, Node: c.hub.cfg.Node, ServerTime: time.Now().UnixMilli()})
	c.work.Go(func() {
		c.write(ws)
		c.cancel()
		_ = ws.Close()
	})
	c.read(ws)
	c.cancel()
	c.mu.Lock()
	subs := c.order
	c.order, c.subs = nil, map[string]*sub{}
	c.mu.Unlock()
	for _, s := range subs {
		c.end(s)
	}
	c.work.Wait()
}

// read takes the client's messages until the connection ends.
func (c *conn) read(ws *websocket.Conn) {
	ws.SetReadLimit(readLimit)
	patience := 2*c.hub.cfg.Ping + c.hub.cfg.WriteTimeout
	extend := func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.closing == nil {
			_ = ws.SetReadDeadline(time.Now().Add(patience))
		}
	}
	extend()
	ws.SetPongHandler(func(string) error { extend(); return nil })
	for {
		kind, data, err := ws.ReadMessage()
		if err != nil {
			return
		}
		extend()
		if kind != websocket.TextMessage {
			c.stop(websocket.CloseUnsupportedData, "text messages only")
			return
		}
		if !c.limit.Allow() {
			c.stop(websocket.ClosePolicyViolation, "too many messages")
			return
		}
		c.handle(data)
	}
}

// handle does what one message of the client asks for.
func (c *conn) handle(data []byte) {
	var req request
	if err := json.Unmarshal(data, &req); err != nil {
		c.send(msgErr{Op: "err", Code: codeBadMessage, Message: "the message is no JSON object of the live protocol"})
		return
	}
	if len(req.ID) > 64 || len(req.Cursor) > 128 {
		c.send(msgErr{Op: "err", Code: codeBadMessage, Message: "id or cursor is too long (64 and 128 bytes)"})
		return
	}
	switch req.Op {
	case "hello", "ack":
	case "sub":
		c.subscribe(&req)
	case "unsub":
		if s := c.take(req.ID); s != nil {
			c.end(s)
			c.send(msgEnd{Op: "end", ID: req.ID})
		}
	case "pause", "resume":
		c.mu.Lock()
		if s := c.subs[req.ID]; s != nil {
			s.paused = req.Op == "pause"
		}
		c.mu.Unlock()
		c.wakeUp()
	default:
		c.send(msgErr{Op: "err", ID: req.ID, Code: codeBadMessage, Message: fmt.Sprintf("unknown op %.20q", req.Op)})
	}
}

// take removes the subscription from the connection's list.
func (c *conn) take(id string) *sub {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.subs[id]
	if s == nil {
		return nil
	}
	delete(c.subs, id)
	order := make([]*sub, 0, len(c.order)) // the writer may be walking the old one
	for _, o := range c.order {
		if o != s {
			order = append(order, o)
		}
	}
	c.order = order
	return s
}

// end releases what a subscription that was taken out holds.
func (c *conn) end(s *sub) {
	s.cancel()
	c.mu.Lock()
	st := s.stream
	s.stream = nil
	c.mu.Unlock()
	if st != nil {
		st.detach()
	}
}

// fail ends the subscription with an error that the client sees.
func (c *conn) fail(id, code string, pos int, message string) {
	if s := c.take(id); s != nil {
		c.end(s)
	}
	e := msgErr{Op: "err", ID: id, Code: code, Message: message}
	if pos >= 0 {
		e.Pos = &pos
	}
	c.send(e)
	c.send(msgEnd{Op: "end", ID: id})
}

// report tells the client why a subscription did not start.
func (c *conn) report(id string, err error) {
	var q *QueryError
	var p *paramError
	switch {
	case errors.As(err, &q):
		c.fail(id, codeBadQuery, q.Pos, q.Message)
	case errors.As(err, &p):
		c.fail(id, p.code, -1, p.text)
	case errors.Is(err, errTopics):
		c.fail(id, codeLimit, -1, err.Error())
	default:
		c.fail(id, codeUnavailable, -1, err.Error())
	}
}

// paramError is an error of a subscription's parameters or of a bound that it breaks.
type paramError struct{ code, text string }

func (e *paramError) Error() string { return e.text }

func badParams(format string, args ...any) error {
	return &paramError{codeBadParams, fmt.Sprintf(format, args...)}
}

// subscribe starts a subscription. The first answer is prepared on the side, because it may take a query.
func (c *conn) subscribe(req *request) {
	refuse := func(code, text string) {
		c.send(msgErr{Op: "err", ID: req.ID, Code: code, Message: text})
		if !c.has(req.ID) { // another subscription of that id goes on
			c.send(msgEnd{Op: "end", ID: req.ID})
		}
	}
	if req.ID == "" {
		c.send(msgErr{Op: "err", Code: codeBadMessage, Message: "sub needs an id"})
		return
	}
	start, known := c.hub.starters()[req.Kind]
	if !known {
		refuse(codeUnknownKind, fmt.Sprintf("unknown kind %.40q", req.Kind))
		return
	}
	s := &sub{id: req.ID, kind: req.Kind}
	s.ctx, s.cancel = context.WithCancel(c.ctx)
	c.mu.Lock()
	viewer := c.viewer
	_, doubled := c.subs[req.ID]
	full := len(c.subs) >= c.hub.cfg.MaxSubs
	allowed := c.hub.cfg.Gate.May(viewer, req.Kind)
	if !doubled && !full && allowed {
		c.subs[req.ID] = s
		c.order = append(c.order[:len(c.order):len(c.order)], s)
	}
	c.mu.Unlock()
	switch {
	case doubled:
		s.cancel()
		c.send(msgErr{Op: "err", ID: req.ID, Code: codeBadMessage, Message: "the id is in use; unsub it first"})
		return
	case !allowed:
		s.cancel()
		refuse(codeForbidden, "your role does not allow this")
		return
	case full:
		s.cancel()
		refuse(codeLimit, fmt.Sprintf("at most %d subscriptions on a connection", c.hub.cfg.MaxSubs))
		return
	}
	c.work.Go(func() {
		st, err := start(s.ctx, c, req)
		if err != nil {
			if s.ctx.Err() == nil {
				c.report(req.ID, err)
			}
			return
		}
		c.mu.Lock()
		current := c.subs[req.ID] == s
		if current {
			s.stream = st
		}
		c.mu.Unlock()
		if !current {
			st.detach()
			return
		}
		c.wakeUp()
	})
}

func (c *conn) has(id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.subs[id] != nil
}

// starter makes the stream of a subscription; it may take as long as a query.
type starter func(ctx context.Context, c *conn, req *request) (stream, error)

func (h *Hub) starters() map[string]starter {
	return map[string]starter{
		KindHosts: h.startHosts, KindPromQL: h.startProm, KindTail: h.startTail, KindCluster: h.startCluster, KindAlerts: h.startAlerts,
		KindEvents: h.startEvents, KindAgents: h.startAgents,
	}
}

// place takes one of the places to evaluate first answers.
func (h *Hub) place(ctx context.Context) (leave func(), err error) {
	select {
	case h.starts <- struct{}{}:
		return func() { <-h.starts }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// send queues a message of the connection itself. A client that lets too many of them wait is closed.
func (c *conn) send(msg any) {
	data, err := json.Marshal(msg)
	if err != nil {
		panic(fmt.Sprintf("ui: encode %T: %v", msg, err)) // plain structs: cannot fail
	}
	c.mu.Lock()
	full := len(c.control) >= maxControl
	if !full {
		c.control = append(c.control, frame{data})
	}
	c.mu.Unlock()
	if full {
		c.stop(websocket.CloseTryAgainLater, "the client does not read")
		return
	}
	c.wakeUp()
}

func (c *conn) wakeUp() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// write sends what is due until the connection ends.
func (c *conn) write(ws *websocket.Conn) {
	ping := time.NewTicker(c.hub.cfg.Ping)
	defer ping.Stop()
	tick := time.NewTicker(c.hub.cfg.Tick)
	defer tick.Stop()
	for {
		select {
		case <-c.ctx.Done():
			c.mu.Lock()
			end := c.closing
			c.mu.Unlock()
			if end != nil {
				_ = ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(end.code, end.text),
					time.Now().Add(500*time.Millisecond))
			}
			return
		case <-ping.C:
			if err := ws.WriteControl(websocket.PingMessage, nil, time.Now().Add(c.hub.cfg.WriteTimeout)); err != nil {
				return
			}
			continue
		case <-tick.C:
			c.mu.Lock()
			c.tick = true
			c.mu.Unlock()
		case <-c.wake:
		}
		if err := c.flush(ws); err != nil {
			return
		}
	}
}

// flush writes everything that is due, the connection's own messages first.
func (c *conn) flush(ws *websocket.Conn) error {
	for {
		c.mu.Lock()
		control, tick := c.control, c.tick
		c.control, c.tick = nil, false
		streams := make([]streamOf, 0, len(c.order))
		for _, s := range c.order {
			if s.stream != nil && !s.paused {
				streams = append(streams, streamOf{s.kind, s.stream})
			}
		}
		c.mu.Unlock()
		wrote := false
		put := func(kind string, f frame) error {
			wrote = true
			c.hub.metrics.messages.WithLabelValues(kind).Inc()
			return c.put(ws, f)
		}
		for _, f := range control {
			if err := put("control", f); err != nil {
				return err
			}
		}
		if tick {
			data, _ := json.Marshal(msgTick{Op: "tick", T: time.Now().UnixMilli()})
			if err := put("tick", frame{data}); err != nil {
				return err
			}
		}
		for _, s := range streams {
			for _, f := range s.stream.next() {
				if err := put(s.kind, f); err != nil {
					return err
				}
			}
		}
		if !wrote {
			return nil
		}
		if c.ctx.Err() != nil {
			return nil
		}
	}
}

type streamOf struct {
	kind   string
	stream stream
}

func (c *conn) put(ws *websocket.Conn, f frame) error {
	c.mu.Lock()
	if c.closing == nil {
		_ = ws.SetWriteDeadline(time.Now().Add(c.hub.cfg.WriteTimeout))
	}
	c.mu.Unlock()
	w, err := ws.NextWriter(websocket.TextMessage)
	if err != nil {
		return err
	}
	for _, part := range f {
		if _, err := w.Write(part); err != nil {
			return err
		}
	}
	return w.Close()
}
