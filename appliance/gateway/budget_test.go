package gateway

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Alone, a request that is larger than all goes through.
func TestByteBudgetPushesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newByteBudget(10)
		take := func(n, want int64) {
			t.Helper()
			if held, ok := b.take(t.Context(), n); ok != (want > 0) || ok && held != want {
				t.Errorf("asked for %d: %d %v, want %d", n, held, ok, want)
			}
		}
		take(7, 7)
		take(4, 0)
		b.give(7)
		take(10, 10)
		take(1, 0)
		b.give(10)
		take(100, 10)
		b.give(10)
		take(10, 10)
	})
}

// Who waits has room in the order in which it came, also a large one before small ones, and is refused after a while.
func TestByteBudgetIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newByteBudget(10)
		b.take(t.Context(), 8)
		var mu sync.Mutex
		var order []int64
		wait := func(ctx context.Context, n int64) {
			go func() {
				held, ok := b.take(ctx, n)
				mu.Lock()
				defer mu.Unlock()
				if ok {
					order = append(order, held)
				} else {
					order = append(order, -n)
				}
			}()
			synctest.Wait()
		}
		says := func(want ...int64) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if len(order) != len(want) {
				t.Fatalf("%v, want %v", order, want)
			}
			for i := range want {
				if order[i] != want[i] {
					t.Fatalf("%v, want %v", order, want)
				}
			}
			order = nil
		}
		gone, leave := context.WithCancel(t.Context())
		wait(t.Context(), 10)
		wait(gone, 1) // there is room for it, and it must not overtake
		wait(t.Context(), 2)
		says()
		b.give(8)
		says(10)
		leave()
		says(-1)
		b.give(10)
		says(2)
		b.give(2)

		b.take(t.Context(), 10)
		wait(t.Context(), 4)
		time.Sleep(budgetPatience)
		says(-4)
		gone, leave = context.WithCancel(t.Context())
		b.give(2)
		wait(gone, 4)
		wait(t.Context(), 2) // behind one that leaves
		leave()
		says(-4, 2)
		b.give(10)
		if b.left != 10 || len(b.waiting) != 0 {
			t.Errorf("%d left, %d wait", b.left, len(b.waiting))
		}

		b.take(t.Context(), 10)
		for range budgetWaiters {
			wait(t.Context(), 1)
		}
		if _, ok := b.take(t.Context(), 1); ok || len(b.waiting) != budgetWaiters {
			t.Error("the number of those who wait has no bound")
		}
		b.give(10)
		time.Sleep(budgetPatience)
		synctest.Wait()
	})
}
