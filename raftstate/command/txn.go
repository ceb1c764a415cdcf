package command

import (
	"encoding/binary"
	"strings"

	"github.com/triward/triward/agent/wire"
)

// Compare is a condition of a Txn: the key was last changed by the entry ModIndex, or is absent (0).
type Compare struct {
	Bucket, Key string
	ModIndex    uint64
}

// Op sets or deletes a key. Deleting one that is absent is no error.
type Op struct {
	Delete      bool
	Bucket, Key string
	Value       []byte
	Expires     int64 // log time in milliseconds since 1970 at which the key goes by itself; 0 never
}

// Txn changes keys of the metadata, all or none: when every compare holds as the entry is applied.
type Txn struct {
	Compares []Compare
	Ops      []Op
}

const (
	opSet    = 0
	opDelete = 1
)

// NewMetaTxn applies a transaction. Names and sizes must keep to MaxBucket, MaxKey, MaxValue and MaxTxnOps, or
// it is refused as invalid.
func NewMetaTxn(t Txn) Command {
	dst := binary.AppendUvarint(nil, uint64(len(t.Compares)))
	for i := range t.Compares {
		dst = wire.AppendString(dst, t.Compares[i].Bucket)
		dst = wire.AppendString(dst, t.Compares[i].Key)
		dst = binary.AppendUvarint(dst, t.Compares[i].ModIndex)
	}
	dst = binary.AppendUvarint(dst, uint64(len(t.Ops)))
	for i := range t.Ops {
		op := &t.Ops[i]
		if op.Delete {
			dst = append(dst, opDelete)
			dst = wire.AppendString(dst, op.Bucket)
			dst = wire.AppendString(dst, op.Key)
			continue
		}
		dst = append(dst, opSet)
		dst = wire.AppendString(dst, op.Bucket)
		dst = wire.AppendString(dst, op.Key)
		dst = wire.AppendString(dst, op.Value)
		dst = binary.AppendVarint(dst, op.Expires)
	}
	return Command{TypeMetaTxn, bodyVersion, dst}
}

// DecodeMetaTxn is the inverse of NewMetaTxn. Values point into the body.
func DecodeMetaTxn(c Command) (Txn, error) {
	var t Txn
	r, err := expect(c, TypeMetaTxn)
	if err != nil {
		return t, err
	}
	if n := r.Count("count of compares", MaxTxnOps, 3); n > 0 {
		t.Compares = make([]Compare, n)
		for i := range t.Compares {
			t.Compares[i].Bucket, t.Compares[i].Key = readName(&r)
			t.Compares[i].ModIndex = r.Uvarint("index to compare with")
		}
	}
	if n := r.Count("count of operations", MaxTxnOps, 3); n > 0 {
		t.Ops = make([]Op, n)
		for i := range t.Ops {
			op := &t.Ops[i]
			code := r.Byte("operation")
			op.Bucket, op.Key = readName(&r)
			switch code {
			case opDelete:
				op.Delete = true
			case opSet:
				op.Value = r.Prefixed(MaxValue, "value")
				op.Expires = r.Varint("expiry")
			default:
				r.Fail("unknown operation")
			}
		}
	}
	return t, checked(&r, TypeMetaTxn)
}

func readName(r *wire.Reader) (bucket, key string) {
	bucket = r.Text(MaxBucket, "bucket")
	key = r.Text(MaxKey, "key")
	if r.Err() == nil && (bucket == "" || key == "" || strings.IndexByte(bucket, 0) >= 0) {
		r.Fail("empty or invalid name of a bucket or key")
	}
	return bucket, key
}
