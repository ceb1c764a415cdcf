// Package record reads and writes values that are kept as JSON in a bucket of the replicated metadata. It owns no bucket
// and must not import what does.
package record

import (
	"encoding/json"
	"fmt"

	"github.com/triward/triward/appliance/auth"
)

// Encode marshals a value; it panics when v is of a type that cannot be, which is an error of the program.
func Encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("record: encode %T: %v", v, err)) // structs of plain fields
	}
	return b
}

// Get returns a value and the index that wrote it. What cannot be read counts as absent, but for its index.
func Get[T any](m auth.Meta, bucket, key string) (v T, mod uint64, ok bool) {
	held, found := m.Get(bucket, key)
	if !found || json.Unmarshal(held.Data, &v) != nil {
		var none T
		return none, held.ModIndex, false
	}
	return v, held.ModIndex, true
}

// List returns the values whose keys have the prefix, in the order of their keys, at most so many. What cannot be read is
// left out.
func List[T any](m auth.Meta, bucket, prefix string, most int) (out []T) {
	m.Scan(bucket, prefix, func(_ string, held auth.Value) bool {
		var v T
		if json.Unmarshal(held.Data, &v) == nil {
			out = append(out, v)
		}
		return len(out) < most
	})
	return out
}

// maxDetail is how long the detail of an audit record may be.
const maxDetail = 8 << 10

// Detail encodes a value for an audit record, or nothing when it is too long for one.
func Detail(v any) []byte {
	if b := Encode(v); len(b) <= maxDetail {
		return b
	}
	return nil
}
