package simulation

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/raftstate"
	"github.com/triward/triward/raftstate/command"
)

// clients are those who use the cluster. None of them knows of faults: a request to a process that died has an unknown
// outcome, and so has one that takes too long.
type clients struct {
	c     *cluster
	stop  atomic.Bool
	end   chan struct{}
	wg    sync.WaitGroup
	sends sync.WaitGroup // writers

	mu      sync.Mutex
	archive map[uint64]raftstate.QueueEntry // committed entries as a node told them first
}

// askLimit bounds one request.
const askLimit = 4 * time.Second

// someone returns a process at random, nil when none runs.
func (c *cluster) someone() *process {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	var up []*process
	for _, p := range c.net.processes { // in any order, one is drawn from it
		if p.node.Load() != nil {
			up = append(up, p)
		}
	}
	if len(up) == 0 {
		return nil
	}
	return up[rand.IntN(len(up))]
}

// ask has a process do something. The error is errDead when the process died meanwhile.
func ask[T any](p *process, limit time.Duration, do func(ctx context.Context, n *raftstate.Node) (T, error)) (T, error) {
	type answer struct {
		v   T
		err error
	}
	var none T
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	done := make(chan answer, 1)
	go func() {
		if !p.hold() {
			return
		}
		v, err := do(ctx, p.node.Load())
		if p.hold() { // a paused process says nothing
			done <- answer{v, err}
		}
	}()
	patience := time.NewTimer(limit + time.Second)
	defer patience.Stop()
	select {
	case a := <-done:
		if !p.alive() {
			return none, errDead
		}
		return a.v, a.err
	case <-p.dead:
		return none, errDead
	case <-patience.C:
		return none, errTimeout
	}
}

// outcome sorts the errors of a proposal.
func outcome(err error) string {
	switch {
	case err == nil:
		return outOK
	case errors.Is(err, raftstate.ErrUnknown):
		return outUnknown
	case errors.Is(err, raftstate.ErrNoLeader), errors.Is(err, raftstate.ErrBusy), errors.Is(err, raftstate.ErrDiskFull), errors.Is(err, raftstate.ErrMakingRoom),
		errors.Is(err, raftstate.ErrClocks), errors.Is(err, raftstate.ErrStopped):
		return outFail
	}
	return outUnknown
}

func propose(p *process, cmds ...command.Command) ([]command.Result, error) {
	return ask(p, askLimit, func(ctx context.Context, n *raftstate.Node) ([]command.Result, error) {
		_, res, err := n.Propose(ctx, cmds...)
		return res, err
	})
}

// pauseFor waits between requests; it returns false when the clients are to stop.
func (cl *clients) pauseFor(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return !cl.stop.Load()
	case <-cl.end:
		return false
	}
}

func newClients(c *cluster) *clients {
	cl := &clients{c: c, end: make(chan struct{}), archive: make(map[uint64]raftstate.QueueEntry)}
	for i := range c.plan.Writers {
		cl.sends.Go(func() { (&writer{cl: cl, id: i, name: fmt.Sprint("w", i)}).run() })
	}
	for i := range 3 {
		cl.wg.Go(func() { (&editor{cl: cl, id: i}).run() })
	}
	cl.wg.Go(cl.look)
	cl.wg.Go(cl.collect)
	return cl
}

// finish lets the clients end what they began, and returns false when writers did not succeed in time.
func (cl *clients) finish(limit time.Duration) bool {
	cl.stop.Store(true)
	done := make(chan struct{})
	go func() {
		cl.sends.Wait()
		close(done)
	}()
	t := time.NewTimer(limit)
	defer t.Stop()
	ok := true
	select {
	case <-done:
	case <-t.C:
		ok = false
	}
	close(cl.end)
	<-done
	cl.wg.Wait()
	return ok
}

// writer is an agent. It repeats what it does not know the outcome of, as agents do.
type writer struct {
	cl   *clients
	id   int
	name string

	epoch wire.Epoch
	ids   []uint64
	seq   [2]uint64 // of the lane of metrics and that of logs
	last  int64     // newest time stamp, milliseconds
}

var writerLanes = [2]wire.Lane{wire.LaneMetrics, wire.LaneLogs}

func (w *writer) run() {
	w.epoch[0], w.epoch[1] = 7, byte(w.id)
	var sets []wire.Labels
	for i := range 3 {
		sets = append(sets, wire.LabelsFromMap(map[string]string{"__name__": fmt.Sprint("m", i), "agent": w.name}))
	}
	for w.ids == nil {
		if !w.wait() {
			return
		}
		if p := w.cl.c.someone(); p != nil {
			res, err := propose(p, command.NewOpenEpoch(w.name, w.epoch), command.NewRegisterSeries(w.name, sets))
			if err == nil && res[1].Status == command.StatusOK {
				w.ids = res[1].IDs
			}
		}
	}
	for w.wait() {
		if w.cl.stop.Load() || !w.batch() {
			return
		}
	}
}

// wait is the time between two requests. It returns false when nobody waits for the writer any more.
func (w *writer) wait() bool {
	t := time.NewTimer(rand.N(2 * w.cl.c.plan.Pace))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-w.cl.end:
		return false
	}
}

// batch sends one batch of a lane, or one of each in one proposal, until it is acknowledged.
func (w *writer) batch() bool {
	lanes := [][]int{{0}, {1}, {0, 1}}[rand.IntN(3)]
	var cmds []command.Command
	for _, lane := range lanes {
		cmds = append(cmds, w.make(lane))
	}
	for {
		p := w.cl.c.someone()
		if p == nil {
			if !w.wait() {
				return false
			}
			continue
		}
		call := w.cl.c.rec.now()
		res, err := propose(p, cmds...)
		for i, lane := range lanes {
			rec := Record{Kind: kindBatch, Call: call, Node: p.id, Client: w.id, Key: w.key(lane), Seq: w.seq[lane], Out: outcome(err)}
			if err == nil {
				rec.Index = res[i].Index
				switch res[i].Status {
				case command.StatusOK:
					if res[i].Rejected > 0 {
						rec.Out = outRejected
						rec.Text = fmt.Sprint(res[i].Items)
					}
				case command.StatusDuplicate:
					rec.Out = outDuplicate
				default:
					rec.Out = res[i].Status.String()
					rec.Text = res[i].Detail
				}
			}
			w.cl.c.rec.add(rec)
		}
		if err == nil {
			for i := range lanes {
				if res[i].Status != command.StatusOK && res[i].Status != command.StatusDuplicate {
					return false // the checker says what it means
				}
			}
			return true
		}
		if !w.wait() {
			return false
		}
	}
}

func (w *writer) key(lane int) string { return w.name + "/" + writerLanes[lane].String() }

// padding begins what is only there to fill the log.
const padding = "~"

// Told returns what a line says, without the padding.
func Told(text []byte) string {
	told, _, _ := bytes.Cut(text, []byte(padding))
	return string(told)
}

// make makes the next batch of a lane and notes what is in it.
func (w *writer) make(lane int) command.Command {
	w.seq[lane]++
	w.last = max(w.last+1, time.Now().UnixMilli())
	at := w.last
	if rand.IntN(8) == 0 { // late, where retention cuts
		at -= (3 * time.Hour).Milliseconds()
	}
	rec := Record{Kind: kindData, Client: w.id, Key: w.key(lane), Seq: w.seq[lane]}
	var body []byte
	if lane == 0 {
		s := wire.Scrape{T: at, IDs: w.ids}
		for i := range w.ids {
			v := float64(w.seq[lane]*10) + float64(i)
			s.Values = append(s.Values, v)
			rec.Samples = append(rec.Samples, Sample{w.ids[i], at, v})
		}
		body = wire.AppendMetrics(nil, []wire.Scrape{s})
	} else {
		st := wire.LogStream{Kind: wire.StreamLog, Labels: wire.Labels{{Name: "agent", Value: w.name}, {Name: "host", Value: w.name}}}
		for i := range 1 + rand.IntN(3) {
			pad := ""
			if i == 0 {
				pad = padding + strings.Repeat("x", w.cl.c.plan.Fat)
			}
			text := w.name + " " + strconv.FormatUint(w.seq[lane], 10) + " " + strconv.Itoa(i)
			st.Lines = append(st.Lines, wire.LogLine{T: at*1e6 + int64(i), Text: []byte(text + pad)})
			rec.Lines = append(rec.Lines, Line{T: at*1e6 + int64(i), Text: text})
		}
		body = wire.AppendLogs(nil, &wire.LogBatch{Streams: []wire.LogStream{st}})
	}
	w.cl.c.rec.add(rec)
	return command.NewBatch(wire.Batch{
		Identity: wire.Identity{Agent: w.name, Epoch: w.epoch, Lane: writerLanes[lane], Seq: w.seq[lane], Hash: wire.HashContent(body)},
		RawLen:   len(body), Body: body,
	}, 0)
}

// editor changes metadata: what people and gateways do.
type editor struct {
	cl *clients
	id int
	n  int
}

const (
	bucketSim    = "simulation"
	bucketTokens = "simulation_tokens"
	anyValue     = "*"
)

func (e *editor) run() {
	for e.cl.pauseFor(rand.N(400 * time.Millisecond)) {
		p := e.cl.c.someone()
		if p == nil {
			continue
		}
		// Few keys at a time, and new ones as time goes on, so that each has a short history.
		key := fmt.Sprintf("r%d-%d", e.cl.c.rec.now()/int64(3*time.Second), rand.IntN(2))
		value, index, ok := e.get(p, key)
		switch {
		case !ok:
		case rand.IntN(6) == 0:
			e.token(p)
		case rand.IntN(3) > 0:
			from := value
			if rand.IntN(8) == 0 {
				from = anyValue
			}
			e.set(e.cl.c.someone(), key, from, index)
		}
	}
}

// get reads a key so that the answer is no older than the question.
func (e *editor) get(p *process, key string) (value string, index uint64, ok bool) {
	call := e.cl.c.rec.now()
	type read struct {
		value string
		index uint64
	}
	r, err := ask(p, askLimit, func(ctx context.Context, n *raftstate.Node) (read, error) {
		if err := n.Barrier(ctx); err != nil {
			return read{}, err
		}
		v, _ := n.State().Get(bucketSim, key)
		return read{string(v.Data), v.ModIndex}, nil
	})
	if err != nil {
		return "", 0, false
	}
	e.cl.c.rec.add(Record{Kind: kindGet, Call: call, Node: p.id, Client: e.id, Key: key, To: r.value})
	return r.value, r.index, true
}

// set changes a key when it was last changed by the entry index.
func (e *editor) set(p *process, key, from string, index uint64) {
	if p == nil {
		return
	}
	e.n++
	rec := Record{Kind: kindSet, Call: e.cl.c.rec.now(), Node: p.id, Client: e.id, Key: key, From: from, To: fmt.Sprintf("%d.%d", e.id, e.n)}
	t := command.Txn{Audit: []command.AuditRecord{{Actor: fmt.Sprint("editor ", e.id), Action: "set", Target: key}}}
	if from != anyValue {
		t.Compares = []command.Compare{{Bucket: bucketSim, Key: key, ModIndex: index}}
	}
	if from != "" && from != anyValue && rand.IntN(5) == 0 {
		rec.To = ""
		t.Ops = []command.Op{{Bucket: bucketSim, Key: key, Delete: true}}
	} else {
		t.Ops = []command.Op{{Bucket: bucketSim, Key: key, Value: []byte(rec.To)}}
	}
	res, err := propose(p, command.NewMetaTxn(t))
	rec.Out = outcome(err)
	if err == nil {
		rec.Index = res[0].Index
		switch res[0].Status {
		case command.StatusOK:
		case command.StatusConflict:
			rec.Out = outConflict
		default:
			rec.Out = res[0].Status.String()
		}
	}
	e.cl.c.rec.add(rec)
}

// token makes a key that goes by itself.
func (e *editor) token(p *process) {
	e.n++
	key := fmt.Sprintf("t%d.%d", e.id, e.n)
	after := []time.Duration{5 * time.Second, 10 * time.Minute, 2 * time.Hour, 25 * time.Hour}[rand.IntN(4)]
	expires := time.Now().Add(after).UnixMilli()
	res, err := propose(p, command.NewMetaTxn(command.Txn{Ops: []command.Op{{Bucket: bucketTokens, Key: key, Value: []byte("x"), Expires: expires}}}))
	if err == nil && res[0].Status == command.StatusOK {
		e.cl.c.rec.add(Record{Kind: kindToken, Client: e.id, Key: key, Time: expires, Index: res[0].Index})
	}
}

// look asks nodes for the last sequence of lanes, so that the answer is no older than the question.
func (cl *clients) look() {
	for cl.pauseFor(rand.N(300 * time.Millisecond)) {
		p := cl.c.someone()
		if p == nil {
			continue
		}
		call := cl.c.rec.now()
		id := rand.IntN(cl.c.plan.Writers)
		w := &writer{name: fmt.Sprint("w", id)}
		w.epoch[0], w.epoch[1] = 7, byte(id)
		last, err := ask(p, askLimit, func(ctx context.Context, n *raftstate.Node) (map[wire.Lane]uint64, error) {
			if err := n.Barrier(ctx); err != nil {
				return nil, err
			}
			last, _ := n.State().LastSeqs(w.name, w.epoch)
			return last, nil
		})
		if err != nil {
			continue
		}
		for lane := range writerLanes {
			cl.c.rec.add(Record{Kind: kindSeen, Call: call, Node: p.id, Key: w.key(lane), Seq: last[writerLanes[lane]]})
		}
	}
}

// collect reads the committed log of all nodes, as an archive does.
func (cl *clients) collect() {
	next := make(map[string]uint64)
	for cl.pauseFor(500 * time.Millisecond) {
		for _, m := range cl.c.members {
			cl.read(m.id, next)
		}
	}
}

func (cl *clients) read(id string, next map[string]uint64) {
	p := cl.c.net.process(id)
	if p == nil || p.node.Load() == nil {
		return
	}
	p.mu.Lock()
	paused := p.resumed != nil
	p.mu.Unlock()
	if paused {
		return
	}
	from := max(1, next[id])
	entries, to, err := p.node.Load().Entries(from, 1000, 1<<20)
	if !p.alive() {
		return
	}
	if err != nil && errors.Is(err, raftstate.ErrGone) {
		next[id] = to
	}
	if err != nil {
		return
	}
	for _, e := range entries {
		cl.c.rec.add(Record{Kind: kindEntry, Node: id, Life: p.life, Index: e.Index, Term: e.Term, Sum: sumOf(e)})
		cl.mu.Lock()
		if _, ok := cl.archive[e.Index]; !ok {
			cl.archive[e.Index] = e
		}
		cl.mu.Unlock()
	}
	next[id] = to
}

func sumOf(e raftstate.QueueEntry) string {
	if len(e.Commands) == 0 {
		return ""
	}
	entry := command.Entry{Stamp: e.Stamp, Commands: e.Commands}
	return strconv.FormatUint(xxh3.Hash(entry.Append(nil)), 16)
}
