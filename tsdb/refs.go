package tsdb

import "sync"

// refCache maps series ids, which are dense and never reused, to the library's references in one opened store. Pages
// are made on demand. Different goroutines may set the references of different ids at once.
type refCache struct {
	mu    sync.RWMutex
	pages []*refPage
}

const (
	refPageBits = 12
	// maxCachedID bounds the table of pages (128 MiB at most); greater ids are looked up by labels each time.
	maxCachedID = 1 << 36
)

type refPage [1 << refPageBits]uint64

// page returns the page that holds id, or nil when the id is too great to be kept.
func (c *refCache) page(id uint64) *refPage {
	if id >= maxCachedID {
		return nil
	}
	n := int(id >> refPageBits)
	c.mu.RLock()
	if n < len(c.pages) && c.pages[n] != nil {
		p := c.pages[n]
		c.mu.RUnlock()
		return p
	}
	c.mu.RUnlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	for n >= len(c.pages) {
		c.pages = append(c.pages, make([]*refPage, max(16, n+1-len(c.pages)))...)
	}
	if c.pages[n] == nil {
		c.pages[n] = new(refPage)
	}
	return c.pages[n]
}
