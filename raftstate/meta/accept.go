package meta

import (
	"encoding/binary"

	bolt "go.etcd.io/bbolt"

	"github.com/triward/triward/agent/wire"
)

// timesPage holds the timelines of a page of ids; nil where the dictionary has no series.
type timesPage struct {
	gen uint64
	tl  [pageSize]*timeline
}

// memo is what became of one timeline in the scrape at hand.
type memo struct {
	to *timeline
	v  verdict
}

// Foreign appends to dst the ids, at most limit, that are no series of the agent.
func (tx *Tx) Foreign(name string, ids []uint64, dst []uint64, limit int) []uint64 {
	s := tx.s
	var num uint32
	if a := s.agents[name]; a != nil {
		num = a.num
	}
	for i := 0; i < len(ids); {
		pn := ids[i] >> pageBits
		var p *dictPage
		if pn < uint64(len(s.dict)) {
			p = s.dict[pn]
		}
		for ; i < len(ids) && ids[i]>>pageBits == pn; i++ {
			if p != nil && p.owner[ids[i]&pageMask] == num && num != 0 {
				continue
			}
			if len(dst) >= limit {
				return dst
			}
			dst = append(dst, ids[i])
		}
	}
	return dst
}

// AcceptScrape decides on samples at t of series that Foreign found none among, and appends those that are
// accepted to out and the hashes of their labels to hashes. Nothing before `oldest` is asked for any more. late
// holds the positions of samples refused because it is no longer known whether the series holds them; it is
// valid until the next call.
func (tx *Tx) AcceptScrape(t, oldest int64, ids []uint64, values []float64, out *wire.Samples, hashes *[]uint64) (
	duplicates int, late []int,
) {
	s := tx.s
	s.memoGen++
	s.memos = s.memos[:0]
	s.late = s.late[:0]
	hs := *hashes
	from := 0 // first sample that was accepted and is not in out yet
	flush := func(to int) {
		if from < to {
			out.IDs = append(out.IDs, ids[from:to]...)
			out.Values = append(out.Values, values[from:to]...)
			for range to - from {
				out.T = append(out.T, t)
			}
		}
		from = to + 1
	}
	for i := 0; i < len(ids); {
		pn := ids[i] >> pageBits
		p, d := s.timesPage(pn), s.dict[pn]
		for ; i < len(ids) && ids[i]>>pageBits == pn; i++ {
			slot := ids[i] & pageMask
			m := s.decide(p.tl[slot], t, oldest)
			switch m.v {
			case verdictAccept:
				p.tl[slot] = m.to
				hs = append(hs, d.hash[slot])
				continue
			case verdictDuplicate:
				duplicates++
			case verdictLate:
				s.late = append(s.late, i)
			}
			flush(i)
		}
	}
	flush(len(ids))
	*hashes = hs
	return duplicates, s.late
}

// decide places t in tl, once for all series of a scrape that share tl.
func (s *Store) decide(tl *timeline, t, oldest int64) *memo {
	if tl.memoGen == s.memoGen {
		return &s.memos[tl.memo]
	}
	to, v := tl.place(t, oldest)
	tl.memoGen, tl.memo = s.memoGen, int32(len(s.memos))
	s.memos = append(s.memos, memo{to, v})
	return &s.memos[tl.memo]
}

// timesPage returns a page for change, made when it is not there.
func (s *Store) timesPage(pn uint64) *timesPage {
	for uint64(len(s.times)) <= pn {
		s.times = append(s.times, nil)
	}
	p := s.times[pn]
	switch {
	case p == nil:
		p = &timesPage{}
	case p.gen == s.gen:
		return p
	default:
		fresh := *p
		p = &fresh
	}
	p.gen = s.gen
	s.times[pn] = p
	s.live.times[pn] = p
	return p
}

// append writes the page for the file: the different timelines, then which ids have which (0 none).
func (p *timesPage) append(dst []byte) []byte {
	at := make(map[*timeline]uint64)
	var all []*timeline
	for _, tl := range p.tl {
		if tl != nil && at[tl] == 0 {
			all = append(all, tl)
			at[tl] = uint64(len(all))
		}
	}
	dst = binary.AppendUvarint(dst, uint64(len(all)))
	for _, tl := range all {
		dst = tl.append(dst)
	}
	for i := 0; i < pageSize; {
		j := i + 1
		for j < pageSize && p.tl[j] == p.tl[i] {
			j++
		}
		dst = binary.AppendUvarint(dst, at[p.tl[i]])
		dst = binary.AppendUvarint(dst, uint64(j-i))
		i = j
	}
	return dst
}

func (f *fields) timesPage() (*timesPage, error) {
	p := &timesPage{}
	n := f.uvarint("count of timelines")
	if n > pageSize {
		f.fail("count of timelines")
		n = 0
	}
	all := make([]*timeline, n+1)
	for i := range n {
		all[i+1] = f.timeline()
	}
	for i := 0; i < pageSize && f.err == nil; {
		k, m := f.uvarint("timeline"), f.uvarint("count of ids")
		if k > n || m == 0 || m > uint64(pageSize-i) {
			f.fail("timelines of a page")
			break
		}
		for ; m > 0; m-- {
			p.tl[i] = all[k]
			i++
		}
	}
	return p, f.end("page of time stamps")
}

// IdleSeries returns up to limit series, in ascending order, that hold no sample at or after `before`
// (milliseconds since 1970) as of the last commit. A series that never had one counts from its registration.
func (s *Store) IdleSeries(before int64, limit int) ([]uint64, error) {
	var ids []uint64
	err := s.view(func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketTimes).Cursor()
		for k, rec := c.First(); k != nil && len(ids) < limit; k, rec = c.Next() {
			body, err := unsealed(k, rec)
			if err != nil {
				return err
			}
			f := fields{b: body}
			p, err := f.timesPage()
			if err != nil {
				return err
			}
			for slot, tl := range p.tl {
				if tl != nil && tl.last() < before && len(ids) < limit {
					ids = append(ids, binary.BigEndian.Uint64(k)<<pageBits+uint64(slot))
				}
			}
		}
		return nil
	})
	return ids, err
}
