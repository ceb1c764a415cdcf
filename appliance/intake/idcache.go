package intake

import (
	"container/list"
	"sync"
)

// idCache knows ids of label sets. What was used longest ago goes when it holds more bytes than it may. An id that is
// no longer true is found when it is proposed, so the cache need not follow the log.
type idCache struct {
	most int64

	mu    sync.Mutex
	bytes int64
	order *list.List // of *cached, the newest first
	byKey map[string]*list.Element
}

type cached struct {
	key string
	id  uint64
}

// cachedOverhead is what an entry takes beside its key: itself, its place in the list and in the map.
const cachedOverhead = 160

func newIDCache(most int64) *idCache {
	return &idCache{most: most, order: list.New(), byKey: make(map[string]*list.Element)}
}

// get returns the id of a label set in its binary form (wire.Labels.AppendKey).
func (c *idCache) get(key string) (id uint64, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.byKey[key]
	if e == nil {
		return 0, false
	}
	c.order.MoveToFront(e)
	return e.Value.(*cached).id, true
}

func (c *idCache) put(key string, id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.byKey[key]; e != nil {
		e.Value.(*cached).id = id
		c.order.MoveToFront(e)
		return
	}
	c.byKey[key] = c.order.PushFront(&cached{key, id})
	c.bytes += int64(len(key)) + cachedOverhead
	for c.bytes > c.most && c.order.Len() > 0 {
		c.removeLocked(c.order.Back())
	}
}

func (c *idCache) drop(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.byKey[key]; e != nil {
		c.removeLocked(e)
	}
}

func (c *idCache) removeLocked(e *list.Element) {
	k := e.Value.(*cached).key
	c.order.Remove(e)
	delete(c.byKey, k)
	c.bytes -= int64(len(k)) + cachedOverhead
}
