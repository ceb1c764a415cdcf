package meta

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	bolt "go.etcd.io/bbolt"
)

// Every value in the file ends with the CRC32C of its key and itself, so that Check finds flipped bits.
const crcSize = 4

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(key, value []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value)
}

func sealed(key, value []byte) []byte {
	return binary.LittleEndian.AppendUint32(value, checksum(key, value))
}

// unsealed returns the value without its checksum. The result points into rec.
func unsealed(key, rec []byte) ([]byte, error) {
	if len(rec) < crcSize {
		return nil, fmt.Errorf("%w: record %q of %d bytes", ErrDamaged, key, len(rec))
	}
	value := rec[: len(rec)-crcSize : len(rec)-crcSize]
	if checksum(key, value) != binary.LittleEndian.Uint32(rec[len(value):]) {
		return nil, fmt.Errorf("%w: checksum of record %q", ErrDamaged, key)
	}
	return value, nil
}

func putSealed(b *bolt.Bucket, key, value []byte) error { return b.Put(key, sealed(key, value)) }

func idKey(id uint64) []byte { return binary.BigEndian.AppendUint64(nil, id) }

// fields reads a record. The first error sticks; records passed their checksum, so an error is a fault of this
// program or of a version it does not know.
type fields struct {
	b   []byte
	err error
}

func (f *fields) fail(what string) {
	if f.err == nil {
		f.err = fmt.Errorf("%w: %s", ErrDamaged, what)
	}
}

func (f *fields) uvarint(what string) uint64 {
	if f.err != nil {
		return 0
	}
	v, n := binary.Uvarint(f.b)
	if n <= 0 {
		f.fail(what)
		return 0
	}
	f.b = f.b[n:]
	return v
}

func (f *fields) varint(what string) int64 {
	if f.err != nil {
		return 0
	}
	v, n := binary.Varint(f.b)
	if n <= 0 {
		f.fail(what)
		return 0
	}
	f.b = f.b[n:]
	return v
}

func (f *fields) bytes(n int, what string) []byte {
	if f.err != nil || n < 0 || n > len(f.b) {
		f.fail(what)
		return nil
	}
	v := f.b[:n:n]
	f.b = f.b[n:]
	return v
}

func (f *fields) prefixed(what string) []byte {
	n := f.uvarint(what)
	if n > uint64(len(f.b)) {
		f.fail(what)
		return nil
	}
	return f.bytes(int(n), what)
}

func (f *fields) uint64(what string) uint64 {
	if b := f.bytes(8, what); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

func (f *fields) end(what string) error {
	if f.err == nil && len(f.b) != 0 {
		f.fail("bytes left over after " + what)
	}
	return f.err
}
