package block

import (
	"encoding/binary"
	"fmt"

	"github.com/triward/triward/agent/wire"
)

const nsPerMinute = int64(60e9)

// Minutes are how many lines of each severity a block has in each minute of UTC: Counts[s][i] in the minute that begins i minutes
// after First, a time in nanoseconds. Counts of a severity that does not occur are empty.
type Minutes struct {
	First  int64
	Counts [wire.SeverityCritical + 1][]uint32

	secs sections
	buf  []byte
}

// minutesBetween returns how many minutes the times from minT to maxT reach into; 0 when they are not counted: before 1970.
func minutesBetween(minT, maxT int64) int64 {
	if minT < 0 {
		return 0
	}
	return maxT/nsPerMinute - minT/nsPerMinute + 1
}

// minutesOf returns the section of the minutes of lines, which are sorted by time. It is nil when they are all in one, which the header
// tells as well, and when it would take more than a byte for four lines: then the times are read instead.
func minutesOf(lines []Line) []byte {
	var there [wire.SeverityCritical + 1]bool
	kinds := int64(0)
	for i := range lines {
		if s := lines[i].Severity; !there[s] {
			there[s] = true
			kinds++
		}
	}
	first := lines[0].T
	n := minutesBetween(first, lines[len(lines)-1].T)
	if n < 2 || n > int64(len(lines)) || n*kinds > int64(len(lines)/4) {
		return nil
	}
	var counts [wire.SeverityCritical + 1][]uint32
	for s := range counts {
		if there[s] {
			counts[s] = make([]uint32, n)
		}
	}
	for i := range lines {
		counts[lines[i].Severity][lines[i].T/nsPerMinute-first/nsPerMinute]++
	}
	var out []byte
	for _, of := range counts {
		for _, lines := range of {
			out = binary.AppendUvarint(out, uint64(lines))
		}
	}
	return out
}

// DecodeMinutes reads the minutes of a block with the header h out of its columns b. ok is false when the block does not have them.
// Errors wrap ErrDamaged, or ErrNewer.
func (c *Codec) DecodeMinutes(out *Minutes, b []byte, h *Header) (ok bool, err error) {
	if _, out.secs, err = c.unpack(out.secs, b); err != nil {
		return false, err
	}
	s, ok := out.secs.find(secMinutes)
	if !ok {
		return false, nil
	}
	bad := fmt.Errorf("%w: minutes of %d lines", ErrDamaged, h.Lines)
	n := minutesBetween(h.MinT, h.MaxT)
	if n < 2 || n > int64(h.Lines) {
		return false, bad
	}
	if out.buf, err = c.raw(out.buf, s); err != nil {
		return false, fmt.Errorf("section %d: %w", s.id, err)
	}
	r := reader{b: out.buf}
	out.First = h.MinT / nsPerMinute * nsPerMinute
	for s, want := range h.Severities {
		out.Counts[s] = out.Counts[s][:0]
		if want == 0 {
			continue
		}
		out.Counts[s] = grow(out.Counts[s], int(n))
		have := 0
		for i := range out.Counts[s] {
			lines := int(r.uvarint(uint64(want)))
			out.Counts[s][i] = uint32(lines)
			have += lines
		}
		if have != want {
			return false, bad
		}
	}
	if r.bad || len(r.b) != 0 {
		return false, bad
	}
	return true, nil
}

// verifyMinutes compares the minutes in columns, if there are any, with lines.
func (e *encoder) verifyMinutes(c *Codec, lines []Line, columns []byte) error {
	h := Header{Lines: len(lines), MinT: lines[0].T, MaxT: lines[len(lines)-1].T}
	for i := range lines {
		h.Severities[lines[i].Severity]++
	}
	m := &e.checkMinutes
	if ok, err := c.DecodeMinutes(m, columns, &h); err != nil || !ok {
		return err
	}
	for i := range lines {
		left := &m.Counts[lines[i].Severity][(lines[i].T-m.First)/nsPerMinute]
		if *left == 0 {
			return fmt.Errorf("%w: minute of line %d", errDifferent, i)
		}
		*left--
	}
	return nil
}
