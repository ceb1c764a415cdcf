// Package authtest has metadata in memory for tests of whatever uses package auth. It behaves as the replicated
// metadata of one node does: transactions are applied one after another, and keys expire by its log time. It must not
// be imported by anything but tests.
package authtest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/triward/triward/appliance/auth"
)

// Meta is metadata in memory. The zero value is empty and stands at log time 0. Safe for concurrent use.
type Meta struct {
	// OnChange, when set before use, is called with the bucket of each key that a transaction changed.
	OnChange func(bucket string)

	mu    sync.Mutex
	now   int64
	index uint64
	keys  map[string]entry // by bucket and key
	audit []auth.AuditRecord
	fail  error
}

type entry struct {
	value   auth.Value
	expires int64
}

func join(bucket, key string) string { return bucket + "\x00" + key }

// Advance sets the log time forward by ms.
func (m *Meta) Advance(ms int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now += ms
}

// Fail makes every Commit return err until it is called with nil.
func (m *Meta) Fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = err
}

// Keys returns the keys of the bucket that have not expired.
func (m *Meta) Keys(bucket string) []string {
	var keys []string
	m.Scan(bucket, "", func(key string, _ auth.Value) bool { keys = append(keys, key); return true })
	return keys
}

// Audited returns the audit records of all transactions that were applied, in order.
func (m *Meta) Audited() []auth.AuditRecord {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.audit)
}

// Dump returns every byte that is stored, for tests that no secret is among them.
func (m *Meta) Dump() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var b strings.Builder
	for k, e := range m.keys {
		fmt.Fprintf(&b, "%s=%s\n", k, e.value.Data)
	}
	for _, r := range m.audit {
		fmt.Fprintf(&b, "%s %s %s %s %s\n", r.Actor, r.Address, r.Action, r.Target, r.Detail)
	}
	return b.String()
}

// Get implements auth.Meta.
func (m *Meta) Get(bucket, key string) (auth.Value, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.getLocked(bucket, key)
}

func (m *Meta) getLocked(bucket, key string) (auth.Value, bool) {
	e, ok := m.keys[join(bucket, key)]
	if !ok || e.expires != 0 && e.expires <= m.now {
		return auth.Value{}, false
	}
	return e.value, true
}

// Scan implements auth.Meta.
func (m *Meta) Scan(bucket, prefix string, fn func(key string, v auth.Value) bool) {
	m.mu.Lock()
	var keys []string
	for k, e := range m.keys {
		if strings.HasPrefix(k, join(bucket, prefix)) && (e.expires == 0 || e.expires > m.now) {
			keys = append(keys, k[len(bucket)+1:])
		}
	}
	m.mu.Unlock()
	slices.Sort(keys)
	for _, k := range keys {
		if v, ok := m.Get(bucket, k); ok && !fn(k, v) {
			return
		}
	}
}

// LogTime implements auth.Meta.
func (m *Meta) LogTime() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now
}

// Commit implements auth.Meta.
func (m *Meta) Commit(ctx context.Context, txn auth.Txn) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	index, err := m.commit(txn)
	if err == nil && m.OnChange != nil {
		for _, op := range txn.Ops {
			m.OnChange(op.Bucket)
		}
	}
	return index, err
}

func (m *Meta) commit(txn auth.Txn) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return 0, m.fail
	}
	m.index++
	for _, c := range txn.Compares {
		v, ok := m.getLocked(c.Bucket, c.Key)
		if ok != (c.ModIndex != 0) || ok && v.ModIndex != c.ModIndex {
			return m.index, auth.ErrConflict
		}
	}
	if m.keys == nil {
		m.keys = make(map[string]entry)
	}
	for _, op := range txn.Ops {
		if op.Delete {
			delete(m.keys, join(op.Bucket, op.Key))
			continue
		}
		m.keys[join(op.Bucket, op.Key)] = entry{auth.Value{Data: slices.Clone(op.Value), ModIndex: m.index}, op.Expires}
	}
	for _, r := range txn.Audit {
		r.Detail = slices.Clone(r.Detail)
		m.audit = append(m.audit, r)
	}
	return m.index, nil
}

// Cheap is a password cost for tests.
func Cheap() auth.PasswordCost { return auth.PasswordCost{MemoryKiB: 64, Passes: 1, Threads: 1} }
