package logstore

import (
	"sync"

	"github.com/triward/triward/agent/wire"
)

// decodedRows remembers of rows of the inbox what Apply was given decoded, until they are sealed, so that neither sealing nor a search
// need decompress and decode them again. It is no state: a row that it lacks, because it came before a start or had no room, is decoded
// from its bytes, which are the same lines. It is safe for concurrent use.
type decodedRows struct {
	mu   sync.Mutex
	room int64 // bytes
	held map[rowKey]decodedRow
}

type decodedRow struct {
	batch *wire.LogBatch
	bytes int64 // about what it takes
}

// streamMemory is about what a stream takes in memory beside its lines, its labels included.
const streamMemory = 512

// rowKey is the position of the first line of a row.
type rowKey struct {
	index uint64
	ord   uint32
}

// upTo reports whether a row is the one of the key or comes before it.
func (k rowKey) upTo(row rowKey) bool {
	return row.index < k.index || row.index == k.index && row.ord <= k.ord
}

func newDecodedRows(room int64) *decodedRows {
	return &decodedRows{room: room, held: map[rowKey]decodedRow{}}
}

// keep takes over what a row holds, whose lines have so many bytes as block.Size counts, if there is room. Rows that came before are
// sealed before it, so none makes room for it.
func (d *decodedRows) keep(k rowKey, b *wire.LogBatch, bytes int64) {
	bytes += streamMemory * int64(len(b.Streams))
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, is := d.held[k]; is || bytes > d.room {
		return
	}
	d.room -= bytes
	d.held[k] = decodedRow{b, bytes}
}

// get returns what a row holds, nil when that is not known. Nobody may change it.
func (d *decodedRows) get(k rowKey) *wire.LogBatch {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.held[k].batch
}

// forget forgets the rows that gone picks.
func (d *decodedRows) forget(gone func(rowKey) bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for k, row := range d.held {
		if gone(k) {
			d.room += row.bytes
			delete(d.held, k)
		}
	}
}
