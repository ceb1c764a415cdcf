package appliance

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore"
	"github.com/triward/triward/logstore/query"
	"github.com/triward/triward/raftstate"
)

// eventMark knows up to which entry this node has looked for events, and which was the last that brought one. Rules of
// events ask every second; mostly nothing came, and then no line has to be looked at to know it.
type eventMark struct {
	mu      sync.Mutex    // of whoever writes
	through atomic.Uint64 // entries up to here were looked at
	last    atomic.Uint64 // no entry behind this one, up to through, brought an event
}

// begin takes what was applied before anything was observed: it may hold events up to its end.
func (m *eventMark) begin(applied uint64) { m.installed(applied) }

// installed says that the state up to an entry came as a whole.
func (m *eventMark) installed(index uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last.Store(max(m.last.Load(), index))
	m.through.Store(max(m.through.Load(), index))
}

// observe looks for events in what was applied. The stores have it already.
func (m *eventMark) observe(applied *raftstate.Applied) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range applied.Logs {
		e := &applied.Logs[i]
		if hasEvents(e) {
			m.last.Store(max(m.last.Load(), e.Index))
		}
	}
	m.through.Store(max(m.through.Load(), applied.Index))
}

func hasEvents(e *wire.LogEntry) bool {
	for i := range e.Batches {
		for j := range e.Batches[i].Batch.Streams {
			if e.Batches[i].Batch.Streams[j].Kind == wire.StreamEvent {
				return true
			}
		}
	}
	return false
}

// eventPage is the events behind an entry, read once for all rules that ask for them.
type eventPage struct {
	mu    sync.Mutex
	valid bool
	after uint64
	mark  uint64 // eventMark.last when it was read
	tail  *logstore.Tail
}

// read returns the events behind an entry, those of alerts left out, up to limit.
func (p *eventPage) read(ctx context.Context, l *alertLogs, after uint64, limit int) (*logstore.Tail, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	mark := l.app.eventMark.last.Load()
	if p.valid && p.after == after && p.mark == mark {
		return p.tail, nil
	}
	p.valid, p.tail = false, nil
	found, err := l.search(ctx, query.All(), after, limit)
	if err != nil {
		return nil, err
	}
	p.valid, p.after, p.mark, p.tail = true, after, mark, found
	return found, nil
}
