package logstore

import (
	"bytes"

	"github.com/cockroachdb/pebble/v2"
)

// fetcher reads rows of one prefix. Many are read one after the other: an iterator that is there already takes half the time of a Get.
// The zero fetcher is ready.
type fetcher struct{ it *pebble.Iterator }

// get returns the value of a row, valid until the next call. It fails with pebble.ErrNotFound when there is none.
func (f *fetcher) get(snap *pebble.Snapshot, key []byte) (value []byte, err error) {
	if f.it == nil {
		if f.it, err = snap.NewIter(&pebble.IterOptions{LowerBound: key[:1:1], UpperBound: []byte{key[0] + 1}}); err != nil {
			return nil, err
		}
	}
	if f.it.SeekGE(key) && bytes.Equal(f.it.Key(), key) {
		return f.it.ValueAndErr()
	}
	if f.it.Error() == nil {
		return nil, pebble.ErrNotFound
	}
	v, closer, err := snap.Get(key) // what is damaged may be the row behind it
	if err != nil {
		return nil, err
	}
	return bytes.Clone(v), closer.Close()
}

func (f *fetcher) close() {
	if f.it != nil {
		_ = f.it.Close() // what it met was told when it was asked
		f.it = nil
	}
}
