package appliance

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/meta"
)

// lateState is the replicated state for parts that are made before the node is: what asks before open waits. With
// no state (the node could not be opened) everything is absent.
type lateState struct {
	once  sync.Once
	ready chan struct{}
	store *meta.Store // written before ready is closed
}

func newLateState() *lateState { return &lateState{ready: make(chan struct{})} }

// isOpen reports whether the state was given.
func (s *lateState) isOpen() bool {
	select {
	case <-s.ready:
		return true
	default:
		return false
	}
}

// open gives the state; only the first call counts.
func (s *lateState) open(store *meta.Store) {
	s.once.Do(func() {
		s.store = store
		close(s.ready)
	})
}

func (s *lateState) wait() *meta.Store {
	<-s.ready
	return s.store
}

// SeriesLabels implements the dictionaries of the metrics store and of the fleet's view.
func (s *lateState) SeriesLabels(id uint64) (wire.Labels, bool) {
	st := s.wait()
	if st == nil {
		return nil, false
	}
	return st.SeriesLabels(id)
}

// Get implements gateway.State.
func (s *lateState) Get(bucket, key string) (meta.Value, bool) {
	st := s.wait()
	if st == nil {
		return meta.Value{}, false
	}
	return st.Get(bucket, key)
}

// Scan implements gateway.State.
func (s *lateState) Scan(bucket, prefix string, fn func(key string, v meta.Value) bool) {
	if st := s.wait(); st != nil {
		st.Scan(bucket, prefix, fn)
	}
}

// LogTime implements gateway.State.
func (s *lateState) LogTime() int64 {
	st := s.wait()
	if st == nil {
		return 0
	}
	return st.LogTime()
}

// format is that of the cluster's state, 1 before it was set.
func (s *lateState) format() uint32 {
	st := s.wait()
	if st == nil {
		return 1
	}
	return max(1, st.Format())
}

// LastSeqs implements gateway.State.
func (s *lateState) LastSeqs(agent string, epoch wire.Epoch) (last map[wire.Lane]uint64, state meta.EpochState) {
	st := s.wait()
	if st == nil {
		return nil, meta.EpochNew
	}
	return st.LastSeqs(agent, epoch)
}

// registry is the state as the fleet's view reads it.
func (s *lateState) registry() *agentRegistry { return &agentRegistry{s} }

type agentRegistry struct{ state *lateState }

// Scan implements fleet.Registry.
func (r *agentRegistry) Scan(bucket, prefix string, fn func(key string, value []byte, modIndex uint64) bool) {
	r.state.Scan(bucket, prefix, func(key string, v meta.Value) bool { return fn(key, v.Data, v.ModIndex) })
}

// Get implements fleet.Registry.
func (r *agentRegistry) Get(bucket, key string) (value []byte, modIndex uint64, ok bool) {
	v, ok := r.state.Get(bucket, key)
	return v.Data, v.ModIndex, ok
}

// metadata is the replicated metadata as package auth reads and writes it.
type metadata struct{ app *App }

// Get implements auth.Meta.
func (m *metadata) Get(bucket, key string) (auth.Value, bool) {
	v, ok := m.app.state.Get(bucket, key)
	return auth.Value{Data: v.Data, ModIndex: v.ModIndex}, ok
}

// Scan implements auth.Meta.
func (m *metadata) Scan(bucket, prefix string, fn func(key string, v auth.Value) bool) {
	m.app.state.Scan(bucket, prefix, func(key string, v meta.Value) bool {
		return fn(key, auth.Value{Data: v.Data, ModIndex: v.ModIndex})
	})
}

// LogTime implements auth.Meta.
func (m *metadata) LogTime() int64 { return m.app.state.LogTime() }

// Commit implements auth.Meta.
func (m *metadata) Commit(ctx context.Context, txn auth.Txn) (uint64, error) {
	var t command.Txn
	for _, c := range txn.Compares {
		t.Compares = append(t.Compares, command.Compare(c))
	}
	for _, o := range txn.Ops {
		t.Ops = append(t.Ops, command.Op(o))
	}
	for _, r := range txn.Audit {
		t.Audit = append(t.Audit, command.AuditRecord(r))
	}
	return m.app.commit(ctx, t)
}

// commit proposes a transaction and waits until this node has applied it. A condition that did not hold is
// auth.ErrConflict.
func (a *App) commit(ctx context.Context, t command.Txn) (uint64, error) {
	index, results, err := a.node.Propose(ctx, command.NewMetaTxn(t))
	if err != nil {
		return 0, err
	}
	if len(results) != 1 {
		return 0, errors.New("commit: the answer has no result")
	}
	switch r := &results[0]; r.Status {
	case command.StatusOK:
		return index, a.node.WaitApplied(ctx, index)
	case command.StatusConflict:
		return 0, auth.ErrConflict
	default:
		return 0, fmt.Errorf("commit: %s %s", r.Status, r.Detail)
	}
}
