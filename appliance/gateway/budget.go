package gateway

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Bounds of waiting for the budget: who waits holds a connection, and its body where it was read.
const (
	budgetPatience = 500 * time.Millisecond
	budgetWaiters  = 256
)

// byteBudget bounds the bytes that requests hold together.
type byteBudget struct {
	total int64

	mu      sync.Mutex
	left    int64
	waiting []*budgetWaiter // in the order they came
}

// budgetWaiter is a request that waits; ready is closed, under the mutex, when it has what it wants.
type budgetWaiter struct {
	wants int64
	ready chan struct{}
}

func newByteBudget(n int64) *byteBudget { return &byteBudget{total: n, left: n} }

// take returns what it took, after budgetPatience at most; one more than budgetWaiters does not wait. A request that is
// larger than the whole budget has it when it is alone.
func (b *byteBudget) take(ctx context.Context, n int64) (held int64, ok bool) {
	w := &budgetWaiter{wants: min(n, b.total), ready: make(chan struct{})}
	b.mu.Lock()
	if len(b.waiting) == 0 && b.left >= w.wants {
		b.left -= w.wants
		b.mu.Unlock()
		return w.wants, true
	}
	if len(b.waiting) >= budgetWaiters {
		b.mu.Unlock()
		return 0, false
	}
	b.waiting = append(b.waiting, w)
	b.mu.Unlock()
	patience := time.NewTimer(budgetPatience)
	defer patience.Stop()
	select {
	case <-w.ready:
		return w.wants, true
	case <-ctx.Done():
	case <-patience.C:
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	i := slices.Index(b.waiting, w)
	if i < 0 { // its turn came meanwhile
		return w.wants, true
	}
	b.waiting = slices.Delete(b.waiting, i, i+1)
	b.serve() // a smaller one may have stood behind it
	return 0, false
}

func (b *byteBudget) give(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left += n
	b.serve()
}

// serve hands out what is left to those who wait, the first first. The mutex must be held.
func (b *byteBudget) serve() {
	for len(b.waiting) > 0 && b.waiting[0].wants <= b.left {
		b.left -= b.waiting[0].wants
		close(b.waiting[0].ready)
		b.waiting = slices.Delete(b.waiting, 0, 1)
	}
}
