// Package sieve remembers what blocks of lines say of their lines by themselves (block.Outline), and the filters of their words
// (block.Filter), so that a query passes over the blocks that cannot match without reading them. What many blocks have in common is
// kept once. It only saves work: what it does not remember is read again, and answers are the same without it.
package sieve

import (
	"bytes"
	"sync"

	"github.com/triward/triward/logstore/block"
	"github.com/zeebo/xxh3"
)

// Cache holds outlines and filters by the ids of their blocks, up to a number of bytes. Blocks never change, so nothing is ever out of date; what
// was dropped is forgotten by and by. It is safe for concurrent use.
type Cache struct {
	max int

	mu      sync.Mutex
	bytes   int
	blocks  map[uint64]*block.Outline
	filters map[uint64]*block.Filter
	whole   int // filters that are not brief
	offered int // filters that there was no room for
	numbers map[fieldOf]*block.Numbers
	shapes  map[uint64]*held // by the hash of their case
	last    uint64           // number given to a shape; none is given twice
}

// fieldOf is a field of a block.
type fieldOf struct {
	id    uint64
	field string
}

// held is a shape that blocks have. Those with the same hash are in a list.
type held struct {
	shape  *block.Shape
	blocks int
	next   *held
}

// New makes a Cache of at most max bytes, 0 for one that keeps nothing.
func New(max int) *Cache {
	return &Cache{max: max, blocks: map[uint64]*block.Outline{}, filters: map[uint64]*block.Filter{}, numbers: map[fieldOf]*block.Numbers{}, shapes: map[uint64]*held{}}
}

// Get returns the outline of a block, nil when it is not remembered. Nobody may change it.
func (c *Cache) Get(id uint64) *block.Outline {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.blocks[id]
}

// Put remembers the outline of a block, makes room for it, and returns it; nil when the block is damaged (View.Err).
func (c *Cache) Put(id uint64, v *block.View) *block.Outline {
	c.mu.Lock()
	defer c.mu.Unlock()
	if o := c.blocks[id]; o != nil {
		return o
	}
	o := v.Outline(c.shape)
	if o == nil {
		return nil
	}
	size := o.Size()
	for _, s := range o.Shapes {
		size += s.Size()
	}
	if size > c.max/4 { // it would push out all others
		return o
	}
	for _, s := range o.Shapes {
		c.hold(s)
	}
	c.bytes += o.Size()
	c.blocks[id] = o
	c.makeRoom(id)
	return o
}

// Filter returns the filter of the words of a block, or one that is brief; nil when neither is remembered.
func (c *Cache) Filter(id uint64) *block.Filter {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.filters[id]
}

// admitted is how many filters there is no room for until one takes the place of others: when they do not all fit, what is remembered
// must not change with every query.
const admitted = 8

// PutFilter remembers the filter of a block, of which it keeps a copy.
func (c *Cache) PutFilter(id uint64, filter []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	have := c.filters[id]
	if have != nil && !have.IsBrief() || len(filter) >= c.max/4 {
		return
	}
	full := c.bytes+len(filter)+filterOverhead > c.max
	if c.offered++; full && c.offered%admitted != 0 {
		if have == nil {
			brief := block.ReadFilter(filter)
			c.putFilter(id, brief.Brief())
		}
	} else {
		f := block.ReadFilter(bytes.Clone(filter))
		c.putFilter(id, &f)
	}
	c.makeRoom(id)
}

// filterOverhead is what a filter takes beside its bytes.
const filterOverhead = 160

func (c *Cache) putFilter(id uint64, f *block.Filter) {
	c.forgetFilter(id)
	c.filters[id] = f
	if c.bytes += f.Size(); !f.IsBrief() {
		c.whole++
	}
}

func (c *Cache) forgetFilter(id uint64) {
	f := c.filters[id]
	if f == nil {
		return
	}
	delete(c.filters, id)
	if c.bytes -= f.Size(); !f.IsBrief() {
		c.whole--
	}
}

// Numbers returns the numbers of a field of a block; nil when they are not remembered. Nobody may change them.
func (c *Cache) Numbers(id uint64, field string) *block.Numbers {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.numbers[fieldOf{id, field}]
}

// AskNumbers reports whether it was called for the field of the block before, as far as that is remembered: numbers that are asked for once
// are not worth to be kept.
func (c *Cache) AskNumbers(id uint64, field string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := fieldOf{id, field}
	_, before := c.numbers[k]
	if !before {
		c.putNumbers(k, nil)
	}
	return before
}

// PutNumbers remembers the numbers of a field of a block.
func (c *Cache) PutNumbers(id uint64, field string, n *block.Numbers) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := (fieldOf{id, field}); n.Size() < c.max/4 {
		c.forgetNumbers(k)
		c.putNumbers(k, n)
	}
}

func (k fieldOf) size(n *block.Numbers) int {
	size := 64 + len(k.field)
	if n != nil {
		size += n.Size()
	}
	return size
}

// putNumbers makes room for numbers, or the note that they were asked for.
func (c *Cache) putNumbers(k fieldOf, n *block.Numbers) {
	c.numbers[k] = n
	c.bytes += k.size(n)
	c.makeRoom(k.id)
}

func (c *Cache) forgetNumbers(k fieldOf) {
	if n, is := c.numbers[k]; is {
		delete(c.numbers, k)
		c.bytes -= k.size(n)
	}
}

// Learn has the outline of a block, which Get returned, learn its values. It reports false when the block is damaged (View.Err).
func (c *Cache) Learn(id uint64, o *block.Outline, v *block.View) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if o.Learned() || c.blocks[id] != o {
		return true
	}
	c.bytes -= o.Size()
	ok := o.Learn(v)
	c.bytes += o.Size()
	c.makeRoom(id)
	return ok
}

// makeRoom forgets others than a block: bits of filters, which are large, then numbers, outlines and filters. It takes them in no order: those
// that are asked for again and again in turn do not push each other out.
func (c *Cache) makeRoom(id uint64) {
	if c.bytes <= c.max {
		return
	}
	if c.whole > 0 {
		for other, f := range c.filters {
			if other == id || f.IsBrief() {
				continue
			}
			if c.putFilter(other, f.Brief()); c.bytes <= c.max {
				return
			}
		}
	}
	for k := range c.numbers {
		if k.id == id {
			continue
		}
		if c.forgetNumbers(k); c.bytes <= c.max {
			return
		}
	}
	for other := range c.blocks {
		if other == id {
			continue
		}
		if c.forget(other); c.bytes <= c.max {
			return
		}
	}
	for k := range c.numbers {
		c.forgetNumbers(k)
	}
	for other := range c.filters {
		if c.forgetFilter(other); c.bytes <= c.max {
			return
		}
	}
}

// Bytes returns about how many bytes are held, and of how many blocks and shapes.
func (c *Cache) Bytes() (bytes, blocks, shapes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, h := range c.shapes {
		for ; h != nil; h = h.next {
			shapes++
		}
	}
	return c.bytes, len(c.blocks), shapes
}

func (c *Cache) find(s *block.Shape) *held {
	h := c.shapes[xxh3.Hash(s.Case())]
	for h != nil && !bytes.Equal(h.shape.Case(), s.Case()) {
		h = h.next
	}
	return h
}

// shape returns the Clone of a shape, the one that is held when there is one.
func (c *Cache) shape(s *block.Shape) *block.Shape {
	if h := c.find(s); h != nil {
		return h.shape
	}
	c.last++
	return s.Clone(c.last)
}

func (c *Cache) hold(s *block.Shape) {
	if h := c.find(s); h != nil {
		h.blocks++
		return
	}
	hash := xxh3.Hash(s.Case())
	c.shapes[hash] = &held{shape: s, blocks: 1, next: c.shapes[hash]}
	c.bytes += s.Size()
}

func (c *Cache) forget(id uint64) {
	o := c.blocks[id]
	delete(c.blocks, id)
	c.bytes -= o.Size()
	for _, s := range o.Shapes {
		hash := xxh3.Hash(s.Case())
		before := (*held)(nil)
		h := c.shapes[hash]
		for !bytes.Equal(h.shape.Case(), s.Case()) {
			before, h = h, h.next
		}
		if h.blocks--; h.blocks > 0 {
			continue
		}
		c.bytes -= h.shape.Size()
		switch {
		case before != nil:
			before.next = h.next
		case h.next != nil:
			c.shapes[hash] = h.next
		default:
			delete(c.shapes, hash)
		}
	}
}
