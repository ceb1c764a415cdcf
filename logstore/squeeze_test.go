package logstore

import (
	"testing"
)

// What was removed from the inbox and from marks is gone from the disk once background work has nothing else to do, and nothing else is.
func TestRemovedRowsLeaveTheDisk(t *testing.T) {
	s := testStore(t, t.TempDir(), Options{})
	n := &numbered{s: s, hosts: 8}
	shared := func() int64 {
		t.Helper()
		n, err := s.engine.db.EstimateDiskUsage([]byte{prefixHeader}, []byte{prefixStream + 1})
		if err != nil {
			t.Fatal(err)
		}
		return int64(n)
	}
	s.bounds.squeeze = 1 << 40
	for range 4 {
		n.apply(t)
		flushed(t, s) // rows of the inbox reach the disk
		work(t, s, true)
		flushed(t, s)
	}
	work(t, s, false)
	before := shared()
	s.bounds.squeeze = 0
	s.engine.squeezed.until = 0
	work(t, s, false)
	if now := shared(); now != before {
		t.Errorf("%d bytes became %d long after anything was removed", before, now)
	}
	n.apply(t)
	work(t, s, true)
	after := shared()
	if after > before/4 || s.engine.squeezed.bytes != after {
		t.Errorf("%d bytes became %d, %d are noted", before, after, s.engine.squeezed.bytes)
	}
	n.check(t, true)
}
