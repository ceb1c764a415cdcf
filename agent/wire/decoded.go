package wire

import (
	"bytes"
	"sync"
)

// Decoded remembers what log bodies hold from when a node has checked them until it applies them, so that it need not decompress
// and decode them a second time. It is no state: Take gives what decoding would give, or nothing. It is safe for concurrent
// use; a nil Decoded remembers nothing.
type Decoded struct {
	mu   sync.Mutex
	room int // bytes
	held map[Identity]decoded
}

type decoded struct {
	codec  Codec
	rawLen int
	body   []byte // not a copy
	logs   *LogBatch
	bytes  int
}

// NewDecoded makes a Decoded that holds at most so many bytes of bodies, as they are in memory when they are decoded.
func NewDecoded(limit int) *Decoded {
	return &Decoded{room: limit, held: map[Identity]decoded{}}
}

// What a line and a field take in memory besides their bytes.
const (
	lineMemory  = 64
	fieldMemory = 32
)

// Keep takes over logs, which Decompress and DecodeLogs have made of b, with the memory that it points into, and reports whether it did:
// it has room for so many. The body of b must not change until Forget or Take returned.
func (d *Decoded) Keep(b *Batch, logs *LogBatch) bool {
	if d == nil {
		return false
	}
	n := b.RawLen
	for i := range logs.Streams {
		lines := logs.Streams[i].Lines
		n += lineMemory * len(lines)
		for j := range lines {
			n += fieldMemory * len(lines[j].Fields)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, is := d.held[b.Identity]; is || n > d.room {
		return false
	}
	d.room -= n
	d.held[b.Identity] = decoded{b.Codec, b.RawLen, b.Body, logs, n}
	return true
}

// Take returns what b holds and forgets it; the result belongs to the caller. It is nil when nothing was kept of exactly these
// bytes.
func (d *Decoded) Take(b *Batch) *LogBatch {
	if d == nil {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	h, is := d.held[b.Identity]
	if !is || h.codec != b.Codec || h.rawLen != b.RawLen || !bytes.Equal(h.body, b.Body) {
		return nil
	}
	d.drop(b.Identity)
	return h.logs
}

// Forget forgets what is kept of batches, if anything.
func (d *Decoded) Forget(batches []Batch) {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range batches {
		d.drop(batches[i].Identity)
	}
}

func (d *Decoded) drop(id Identity) {
	d.room += d.held[id].bytes
	delete(d.held, id)
}
