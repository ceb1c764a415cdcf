package meta

import (
	"encoding/binary"
	"fmt"
)

// recentWindow remembers the newest lines of senders that repeat themselves, by the sums of HashLine, in the order in
// which they were remembered. Lines are numbered from 0 for ever; those from first up to next are remembered. They lie
// in pages of recentPageSize by number, of which only the newest changes: pages are written once or twice to the file
// and deleted when all of theirs are forgotten. Apply goroutine only.
//
// A line takes 18 bytes in its page (20 on disk) and 16 to 32 in the index: half a million lines take 17 MiB. (A Go
// map of sums took 54 bytes a line after some rounds of forgetting, and four times as long.)
type recentWindow struct {
	first, next uint64
	pages       []*recentPage // from that of first on
	// index finds a line by its sum: linear probing, at most half full, the length a power of two. 0 is a free slot.
	index []uint64
}

const (
	recentPageBits = 10
	recentPageSize = 1 << recentPageBits
	recentPageMask = recentPageSize - 1

	recentNumberMask = 1<<31 - 1
	recentIndexSlots = 1024 // of the index at first
)

// recentPage holds the sums of consecutive lines, the first n slots of it.
type recentPage struct {
	gen  uint64
	n    int
	sums [recentPageSize]Sum
}

// Remember puts a line, given by its HashLine, into the window of recent lines and reports true, or reports false when
// it is there. Beyond `most` lines the oldest is forgotten; most must be the same for all entries of a log, and with 0
// nothing is remembered.
func (tx *Tx) Remember(line Sum, most int) bool {
	s := tx.s
	w := &s.recent
	if most <= 0 {
		return true
	}
	if _, there := w.find(line); there {
		return false
	}
	for w.len() >= uint64(most) {
		s.forgetLine()
	}
	p := s.recentPage()
	p.sums[p.n] = line
	p.n++
	w.put(line, w.next)
	w.next++
	return true
}

func (w *recentWindow) len() uint64 { return w.next - w.first }

// at returns the sum of the line of a number.
func (w *recentWindow) at(number uint64) Sum {
	return w.pages[number>>recentPageBits-w.first>>recentPageBits].sums[number&recentPageMask]
}

// slot is what stands in the index for the line of a number: the low half of its sum's low half, which says where its
// search begins and spares most looks at the page, and 1 + the low 31 bits of the number.
func slot(line Sum, number uint64) uint64 { return line.Lo<<32 | (1 + number&recentNumberMask) }

// holds reports whether a slot of the index stands for the line.
func (w *recentWindow) holds(held uint64, line Sum) bool {
	return held>>32 == line.Lo&(1<<32-1) && w.at(w.first+(held&(1<<32-1)-1-w.first)&recentNumberMask) == line
}

// find returns where in the index the line is, or the free slot where its search ends.
func (w *recentWindow) find(line Sum) (at uint64, there bool) {
	if len(w.index) == 0 {
		return 0, false
	}
	mask := uint64(len(w.index) - 1)
	for at = line.Lo & mask; w.index[at] != 0; at = (at + 1) & mask {
		if w.holds(w.index[at], line) {
			return at, true
		}
	}
	return at, false
}

// put takes the line of a number, the one after all that are in it, into the index.
func (w *recentWindow) put(line Sum, number uint64) {
	if 2*(number-w.first+1) > uint64(len(w.index)) {
		old := w.index
		w.index = make([]uint64, max(recentIndexSlots, 2*len(old)))
		for _, held := range old {
			if held != 0 {
				w.insert(held)
			}
		}
	}
	w.insert(slot(line, number))
}

// insert puts a slot where the search for its line finds it.
func (w *recentWindow) insert(held uint64) {
	mask := uint64(len(w.index) - 1)
	at := held >> 32 & mask
	for w.index[at] != 0 {
		at = (at + 1) & mask
	}
	w.index[at] = held
}

// drop takes the oldest line out of the index and closes the gap, so that searches need not go on behind it.
func (w *recentWindow) drop() {
	mask := uint64(len(w.index) - 1)
	gap, _ := w.find(w.at(w.first))
	for at := (gap + 1) & mask; w.index[at] != 0; at = (at + 1) & mask {
		// A slot may move to the gap unless its search begins behind it.
		if home := w.index[at] >> 32 & mask; (at-home)&mask >= (at-gap)&mask {
			w.index[gap] = w.index[at]
			gap = at
		}
	}
	w.index[gap] = 0
}

// forgetLine forgets the oldest line, and its page with the last one of it.
func (s *Store) forgetLine() {
	w := &s.recent
	w.drop()
	w.first++
	if w.first&recentPageMask == 0 {
		s.live.recent[w.first>>recentPageBits-1] = nil
		w.pages[0] = nil
		w.pages = w.pages[1:]
	}
}

// recentPage returns the page of the next line for change.
func (s *Store) recentPage() *recentPage {
	w := &s.recent
	var p *recentPage
	if w.next&recentPageMask == 0 {
		p = &recentPage{gen: s.gen}
		w.pages = append(w.pages, p)
	} else {
		last := &w.pages[len(w.pages)-1]
		if p = *last; p.gen == s.gen {
			return p
		}
		fresh := *p
		p = &fresh
		p.gen = s.gen
		*last = p
	}
	s.live.recent[w.next>>recentPageBits] = p
	return p
}

// append writes the page for the file: its sums, 16 bytes each, high half first, little endian.
func (p *recentPage) append(dst []byte) []byte {
	for _, sum := range p.sums[:p.n] {
		dst = binary.LittleEndian.AppendUint64(dst, sum.Hi)
		dst = binary.LittleEndian.AppendUint64(dst, sum.Lo)
	}
	return dst
}

func (f *fields) recentPage() (*recentPage, error) {
	p := &recentPage{}
	if n := len(f.b) / 16; n == 0 || n > recentPageSize {
		f.fail("count of recent lines")
	} else {
		p.n = n
	}
	for i := range p.n {
		p.sums[i] = Sum{f.uint64("recent line"), f.uint64("recent line")}
	}
	return p, f.end("page of recent lines")
}

// loadRecentPage takes the next page of the file into the window, whose bounds were read before.
func (s *Store) loadRecentPage(key, value []byte) error {
	w := &s.recent
	f := fields{b: value}
	p, err := f.recentPage()
	if err != nil {
		return err
	}
	pn := w.first>>recentPageBits + uint64(len(w.pages))
	if len(key) != 8 || binary.BigEndian.Uint64(key) != pn || pn<<recentPageBits >= w.next {
		return fmt.Errorf("%w: page %x of recent lines where %d belongs", ErrDamaged, key, pn)
	}
	want := min(recentPageSize, w.next-pn<<recentPageBits)
	if uint64(p.n) != want {
		return fmt.Errorf("%w: page %d of recent lines has %d, want %d", ErrDamaged, pn, p.n, want)
	}
	w.pages = append(w.pages, p)
	for i := max(w.first, pn<<recentPageBits); i < pn<<recentPageBits+want; i++ {
		if _, twice := w.find(w.at(i)); twice {
			return fmt.Errorf("%w: page %d of recent lines repeats a line", ErrDamaged, pn)
		}
		w.put(w.at(i), i)
	}
	return nil
}

// check makes sure that all pages of the window were there.
func (w *recentWindow) check() error {
	want := uint64(0)
	if w.first < w.next {
		want = (w.next-1)>>recentPageBits - w.first>>recentPageBits + 1
	}
	if w.first > w.next || w.len() > recentNumberMask || uint64(len(w.pages)) != want {
		return fmt.Errorf("%w: %d pages of recent lines, want those of %d to %d", ErrDamaged, len(w.pages), w.first, w.next)
	}
	return nil
}

// each calls fn with each line remembered, the oldest first.
func (w *recentWindow) each(fn func(line Sum)) {
	for i := w.first; i < w.next; i++ {
		fn(w.at(i))
	}
}
