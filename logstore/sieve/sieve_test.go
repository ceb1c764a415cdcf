package sieve

import (
	"fmt"
	"testing"

	"github.com/triward/triward/logstore/block"
)

func view(t *testing.T, c *block.Codec, form func(i int) string) *block.View {
	t.Helper()
	var lines []block.Line
	for i := range 200 {
		lines = append(lines, block.Line{T: int64(i), Text: []byte(form(i))})
	}
	out, err := c.Encode(lines, block.Version2, nil)
	if err != nil {
		t.Fatal(err)
	}
	var v block.View
	if ok, err := c.View(&v, out.Text, len(lines)); !ok || err != nil {
		t.Fatal(ok, err)
	}
	return &v
}

// What blocks have in common is there once, what nobody has any more is gone, and the bytes are those of what is there.
func TestCacheIsBounded(t *testing.T) {
	codec, err := block.NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	defer codec.Close()
	const most = 32 << 10
	c := New(most)
	same := func(i int) string { return fmt.Sprintf("connection %d from 10.0.0.%d", i, i%7) }
	v := view(t, codec, same)
	for id := range uint64(10) {
		c.Put(id, v)
	}
	if _, blocks, shapes := c.Bytes(); blocks != 10 || shapes != 1 {
		t.Errorf("%d blocks of one shape are held with %d", blocks, shapes)
	}
	if c.Get(3).Shapes[0] != c.Get(7).Shapes[0] || c.Get(11) != nil {
		t.Error("blocks with one shape have two")
	}
	var last *block.Shape
	for id := uint64(100); id < 400; id++ {
		v := view(t, codec, func(i int) string {
			return fmt.Sprintf("%d is what only %c%c has: %d", i, 'a'+rune(id%20), 'g'+rune(id/20), i%3)
		})
		if last = c.Put(id, v).Shapes[0]; c.Get(id) == nil {
			t.Fatal("the block that was put last is not there")
		}
	}
	bytes, blocks, shapes := c.Bytes()
	if bytes > most || blocks < 20 || shapes > blocks || last.Number() < 200 {
		t.Errorf("%d bytes of %d blocks with %d shapes, the last number %d", bytes, blocks, shapes, last.Number())
	}
	for id := range c.blocks {
		c.forget(id)
	}
	if bytes, blocks, shapes := c.Bytes(); bytes != 0 || blocks != 0 || shapes != 0 {
		t.Errorf("%d bytes, %d blocks and %d shapes are left when all is forgotten", bytes, blocks, shapes)
	}
	if none := New(0); none.Put(1, v) == nil || none.Get(1) != nil {
		t.Error("what keeps nothing keeps a block, or does not tell its outline")
	}
}
