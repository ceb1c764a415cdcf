package auth

import (
	"container/list"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// limiter is a token bucket for each of a bounded number of keys; the one not asked for longest is forgotten
// first. It is safe for concurrent use.
type limiter struct {
	every time.Duration
	burst int
	max   int

	mu    sync.Mutex
	order *list.List // of *limiterEntry, newest use in front
	byKey map[string]*list.Element
}

type limiterEntry struct {
	key    string
	bucket *rate.Limiter
}

func newLimiter(every time.Duration, burst, max int) *limiter {
	return &limiter{every: every, burst: burst, max: max, order: list.New(), byKey: make(map[string]*list.Element)}
}

// allow takes a token of the key and reports whether there was one.
func (l *limiter) allow(key string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	el, ok := l.byKey[key]
	if ok {
		l.order.MoveToFront(el)
	} else {
		if l.order.Len() >= l.max {
			oldest := l.order.Back()
			delete(l.byKey, oldest.Value.(*limiterEntry).key)
			l.order.Remove(oldest)
		}
		el = l.order.PushFront(&limiterEntry{key: key, bucket: rate.NewLimiter(rate.Every(l.every), l.burst)})
		l.byKey[key] = el
	}
	return el.Value.(*limiterEntry).bucket.Allow()
}

// forget makes the key as good as new, after a login that succeeded.
func (l *limiter) forget(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if el, ok := l.byKey[key]; ok {
		delete(l.byKey, key)
		l.order.Remove(el)
	}
}

func (l *limiter) len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.order.Len()
}

// addressKey names what is limited for an address: itself, or the /64 of IPv6, which one host owns whole.
func addressKey(addr netip.Addr) string {
	addr = addr.Unmap().WithZone("")
	if addr.Is6() {
		if p, err := addr.Prefix(64); err == nil {
			return p.String()
		}
	}
	return addr.String()
}
