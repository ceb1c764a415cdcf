package meta

import (
	"bytes"
	"testing"
)

// Records are checksummed, but an image may come from a hostile hand.
func FuzzRecords(f *testing.F) {
	tl := &timeline{start: 1, count: 2, step: 3, floor: noFloor, older: encodeRuns([]run{{-9, 2, 3}}), nOlder: 1}
	p := &timesPage{}
	p.tl[3] = tl
	f.Add(p.append(nil))
	f.Add((&dictPage{}).append(nil))
	f.Add((&agent{num: 1}).append(nil))
	f.Add((&recentPage{n: 2}).append(nil))
	f.Add((&Store{nextID: 1}).appendState(nil, 1, 1))
	m := Mark{Index: 1}
	f.Add(m.append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		in := fields{b: b}
		if p, err := in.timesPage(); err == nil {
			again := fields{b: p.append(nil)}
			if _, err := again.timesPage(); err != nil {
				t.Fatalf("page %x was not read back: %v", b, err)
			}
			for _, tl := range p.tl {
				if tl != nil {
					tl.place(tl.last()-1, noFloor)
				}
			}
		}
		in = fields{b: b}
		_, _ = in.dictPage()
		in = fields{b: b}
		_, _ = in.agent("a")
		in = fields{b: b}
		if p, err := in.recentPage(); err == nil && !bytes.Equal(p.append(nil), b) {
			t.Fatalf("page %x was not read back", b)
		}
		_, _ = readMark(b)
		_ = (&Store{}).readState(b)
	})
}
