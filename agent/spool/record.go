package spool

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"

	"github.com/triward/triward/agent/wire"
)

// A record on disk: magic, uint32 length of the payload, uint32 CRC32C over length and payload, payload. All
// little endian. The first byte of the payload is its type.
const (
	recordMagic  = "TSR1"
	recordHeader = len(recordMagic) + 8
	maxPayload   = 4 << 20
	maxChanges   = 2 << 20  // encoded changes of state in one record
	maxChange    = 64 << 10 // and one of them

	typeBatch      = 1
	typeCheckpoint = 2
	typeState      = 3
	typeSeries     = 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrDamaged says that bytes of the spool are not what was written.
var ErrDamaged = errors.New("spool is damaged")

// ErrTooLarge says that something can never be written, however long the producer waits.
var ErrTooLarge = errors.New("too large for the spool")

var errTorn = errors.New("record is incomplete")

func appendRecord(dst, payload []byte) []byte {
	dst = append(dst, recordMagic...)
	var h [8]byte
	binary.LittleEndian.PutUint32(h[:4], uint32(len(payload)))
	crc := crc32.Update(crc32.Checksum(h[:4], castagnoli), castagnoli, payload)
	binary.LittleEndian.PutUint32(h[4:], crc)
	dst = append(dst, h[:]...)
	return append(dst, payload...)
}

// nextRecord returns the payload of the record at the beginning of b and the bytes it takes. errTorn means that
// no whole, correct record begins there.
func nextRecord(b []byte) (payload []byte, size int, err error) {
	if len(b) < recordHeader || string(b[:len(recordMagic)]) != recordMagic {
		return nil, 0, errTorn
	}
	h := b[len(recordMagic):recordHeader]
	n := int(binary.LittleEndian.Uint32(h))
	if n > maxPayload || len(b)-recordHeader < n {
		return nil, 0, errTorn
	}
	payload = b[recordHeader : recordHeader+n]
	if crc32.Update(crc32.Checksum(h[:4], castagnoli), castagnoli, payload) != binary.LittleEndian.Uint32(h[4:]) {
		return nil, 0, errTorn
	}
	return payload, recordHeader + n, nil
}

// holdsRecord reports whether a whole record begins anywhere in b after its first byte. It tells damage in the
// middle of a file from a torn end.
func holdsRecord(b []byte) bool {
	for len(b) > 1 {
		i := bytes.Index(b[1:], []byte(recordMagic))
		if i < 0 {
			return false
		}
		b = b[1+i:]
		if _, _, err := nextRecord(b); err == nil {
			return true
		}
	}
	return false
}

// StateChange sets what the spool remembers of a source under Key; a nil Value forgets it.
type StateChange struct {
	Key   string
	Value []byte
}

// size is what the change takes in a record, or a little more.
func (c *StateChange) size() int { return len(c.Key) + len(c.Value) + 8 }

// sizeOf returns the size of all changes together, or ErrTooLarge when one of them is too long for any record.
func sizeOf(changes []StateChange) (n int, err error) {
	for i := range changes {
		k := changes[i].size()
		if k > maxChange {
			return 0, fmt.Errorf("%w: the position of %.100q has %d bytes, at most %d are allowed", ErrTooLarge, changes[i].Key, k, maxChange)
		}
		n += k
	}
	return n, nil
}

// split cuts changes into parts that a record can hold; there is at least one, which may be empty. No change may be
// larger than maxChange.
func split(changes []StateChange) [][]StateChange {
	var parts [][]StateChange
	from, n := 0, 0
	for i := range changes {
		k := changes[i].size()
		if n+k > maxChanges {
			parts = append(parts, changes[from:i])
			from, n = i, 0
		}
		n += k
	}
	return append(parts, changes[from:])
}

// batchRecord is the payload of a batch.
type batchRecord struct {
	ord     uint64
	hash    uint64
	codec   wire.Codec
	rawLen  int
	items   int
	changes []StateChange
	body    []byte
}

func appendChanges(dst []byte, changes []StateChange) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(changes)))
	for _, c := range changes {
		dst = binary.AppendUvarint(dst, uint64(len(c.Key)))
		dst = append(dst, c.Key...)
		if c.Value == nil {
			dst = append(dst, 0)
			continue
		}
		dst = append(dst, 1)
		dst = binary.AppendUvarint(dst, uint64(len(c.Value)))
		dst = append(dst, c.Value...)
	}
	return dst
}

func (r *batchRecord) append(dst []byte) []byte {
	dst = append(dst, typeBatch)
	dst = binary.AppendUvarint(dst, r.ord)
	dst = binary.LittleEndian.AppendUint64(dst, r.hash)
	dst = append(dst, byte(r.codec))
	dst = binary.AppendUvarint(dst, uint64(r.rawLen))
	dst = binary.AppendUvarint(dst, uint64(r.items))
	dst = appendChanges(dst, r.changes)
	return append(dst, r.body...)
}

// reader walks a payload; the first error sticks.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail() {
	if r.err == nil {
		r.err = fmt.Errorf("%w: a record with a correct checksum cannot be read", ErrDamaged)
	}
	r.b = nil
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) bytes(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.fail()
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) byte() byte {
	b := r.bytes(1)
	if len(b) == 0 {
		return 0
	}
	return b[0]
}

func (r *reader) changes() []StateChange {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.fail()
		return nil
	}
	if n == 0 {
		return nil
	}
	out := make([]StateChange, 0, n)
	for range n {
		c := StateChange{Key: string(r.bytes(r.uvarint()))}
		if r.byte() == 1 {
			c.Value = append([]byte{}, r.bytes(r.uvarint())...)
		}
		if r.err != nil {
			return nil
		}
		out = append(out, c)
	}
	return out
}

func parseBatch(payload []byte) (batchRecord, error) {
	r := reader{b: payload}
	var rec batchRecord
	if r.byte() != typeBatch {
		r.fail()
	}
	rec.ord = r.uvarint()
	if h := r.bytes(8); len(h) == 8 {
		rec.hash = binary.LittleEndian.Uint64(h)
	}
	rec.codec = wire.Codec(r.byte())
	rec.rawLen = int(r.uvarint())
	rec.items = int(r.uvarint())
	rec.changes = r.changes()
	rec.body = r.b
	return rec, r.err
}

// A segment begins with a head: a checkpoint (the ordinal of its first batch, how many records of the head follow,
// state), and as many records of type typeState as the rest of the state needs. A head is written as a whole: one
// that is incomplete is damage.
func appendHead(dst []byte, first uint64, state map[string][]byte) []byte {
	changes := make([]StateChange, 0, len(state))
	for _, k := range slices.Sorted(maps.Keys(state)) {
		changes = append(changes, StateChange{k, state[k]})
	}
	parts := split(changes)
	p := binary.AppendUvarint([]byte{typeCheckpoint}, first)
	p = binary.AppendUvarint(p, uint64(len(parts)-1))
	dst = appendRecord(dst, appendChanges(p, parts[0]))
	for _, part := range parts[1:] {
		dst = appendRecord(dst, appendChanges([]byte{typeState}, part))
	}
	return dst
}

func parseCheckpoint(payload []byte) (first, more uint64, changes []StateChange, err error) {
	r := reader{b: payload}
	if r.byte() != typeCheckpoint {
		r.fail()
	}
	first = r.uvarint()
	more = r.uvarint()
	changes = r.changes()
	return first, more, changes, r.err
}

// parseState reads a record that carries nothing but changes of state.
func parseState(payload []byte) ([]StateChange, error) {
	r := reader{b: payload}
	if r.byte() != typeState {
		r.fail()
	}
	changes := r.changes()
	return changes, r.err
}
