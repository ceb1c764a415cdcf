// Package sieve remembers what blocks of lines say of their lines by themselves (block.Outline), so that a query passes over the
// blocks that cannot match without reading them. What many blocks have in common is kept once. It only saves work: what it does
// not remember is read again, and answers are the same without it.
package sieve

import (
	"bytes"
	"sync"

	"github.com/triward/triward/logstore/block"
	"github.com/zeebo/xxh3"
)

// Cache holds outlines by the ids of their blocks, up to a number of bytes. Blocks never change, so nothing is ever out of date; what
// was dropped is forgotten by and by. It is safe for concurrent use.
type Cache struct {
	max int

	mu     sync.Mutex
	bytes  int
	blocks map[uint64]*block.Outline
	shapes map[uint64]*held // by the hash of their case
	last   uint64           // number given to a shape; none is given twice
}

// held is a shape that blocks have. Those with the same hash are in a list.
type held struct {
	shape  *block.Shape
	blocks int
	next   *held
}

// New makes a Cache of at most max bytes, 0 for one that keeps nothing.
func New(max int) *Cache {
	return &Cache{max: max, blocks: map[uint64]*block.Outline{}, shapes: map[uint64]*held{}}
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

// makeRoom forgets others than a block. It takes them in no order: those that are asked for again and again in turn do not push each
// other out.
func (c *Cache) makeRoom(id uint64) {
	for other := range c.blocks {
		if c.bytes <= c.max {
			break
		}
		if other != id {
			c.forget(other)
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
