package sieve

import (
	"encoding/binary"
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

// filterOf is a filter of some size that holds nothing, whose words with digits have one digit.
func filterOf(size int) []byte {
	b := []byte{block.Version2, 6}
	b = binary.AppendUvarint(b, 1<<1)
	return append(b, make([]byte, 3+size)...)
}

// Filters are there as far as there is room, those that there is none for by their forms; outlines are not pushed out by them, and
// numbers neither.
func TestFiltersTakeTheRoomThatIsLeft(t *testing.T) {
	codec, err := block.NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	defer codec.Close()
	const most, size = 64 << 10, 4 << 10
	c := New(most)
	for id := range uint64(4) {
		c.Put(id, view(t, codec, func(i int) string { return fmt.Sprintf("of %c%d: %d", 'g'+rune(id), id, i) }))
		if c.AskNumbers(id, "took") || !c.AskNumbers(id, "took") || c.AskNumbers(id, "other") {
			t.Fatal("numbers that were asked for once are not told from others")
		}
		c.PutNumbers(id, "took", &block.Numbers{Values: make([]float64, 10), Severities: make([]byte, 10)})
	}
	one, two := block.Seek("7"), block.Seek("77")
	passed, whole := 0, 0
	for round := range 40 {
		for id := range uint64(60) {
			f := c.Filter(id)
			if f == nil || f.IsBrief() {
				c.PutFilter(id, filterOf(size))
			}
			if f = c.Filter(id); f == nil || f.MayHold(&two) {
				t.Fatalf("round %d: the form of words of block %d is not remembered: %+v", round, id, f)
			}
			if f.MayHold(&one) != f.IsBrief() {
				t.Fatalf("round %d: what is left of the filter of block %d says of a word: %v", round, id, f.MayHold(&one))
			}
			passed++
			if !f.IsBrief() {
				whole++
			}
		}
		if bytes, blocks, _ := c.Bytes(); bytes > most || blocks != 4 || len(c.filters) != 60 {
			t.Fatalf("%d bytes are held, of %d outlines of 4 and %d filters of 60", bytes, blocks, len(c.filters))
		}
	}
	for id := range uint64(4) {
		if n := c.Numbers(id, "took"); n == nil || len(n.Values) != 10 {
			t.Errorf("the numbers of block %d are %v", id, n)
		}
	}
	if whole < passed/8 || whole > passed/2 {
		t.Errorf("%d of %d filters were whole, where there is room for a fifth", whole, passed)
	}
	for id := range uint64(60) {
		c.forgetFilter(id)
	}
	for k := range c.numbers {
		c.forgetNumbers(k)
	}
	for id := range c.blocks {
		c.forget(id)
	}
	if c.bytes != 0 || c.whole != 0 {
		t.Errorf("%d bytes and %d filters are left when all is forgotten", c.bytes, c.whole)
	}
	for id := range uint64(4000) { // brief ones are bounded, too
		c.PutFilter(id, filterOf(size))
		if c.AskNumbers(id, "took"); c.bytes > most {
			t.Fatalf("%d bytes are held", c.bytes)
		}
	}
	if none := New(0); none.Filter(1) != nil || none.AskNumbers(1, "x") || none.AskNumbers(1, "x") {
		t.Error("what keeps nothing keeps a filter or a note")
	}
}
