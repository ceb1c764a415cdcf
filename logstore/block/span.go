package block

import (
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"unsafe"
)

// Section 65537 of a container of columns tells between which numbers the values of fields are: uvarint n, then for each the uvarint
// length of its name, the name, the least and the greatest as float64 (little endian); the least is greater where no value is
// a number. It is left out of blocks written before there was one. Of fields that it does not list nothing is known.
const secFieldSpans = optional + 1

// Bounds of section 65537: what is beyond is not listed.
const (
	maxSpans   = 64
	maxStrange = 16 // values of a field that are no numbers: one that has more of them than numbers is none of numbers
)

// Section 65538 of a container of text tells how long the values of slots are: for each column the length of the shortest and of the longest
// one, a byte each, 255 for what is as long or longer. It is left out of blocks written before there was one.
const (
	secSlotLengths = optional + 2
	longValue      = 255
)

// lengthsOf appends the lengths of the shortest and the longest of values.
func lengthsOf(dst []byte, ends []uint32) []byte {
	least, most, at := uint32(longValue), uint32(0), uint32(0)
	for _, end := range ends {
		least, most, at = min(least, end-at), max(most, end-at), end
	}
	return append(dst, byte(least), byte(min(most, longValue)))
}

// Span are the least and the greatest number among the values of a field. Values that are no numbers are in none.
type Span struct{ Least, Most float64 }

// noNumbers is the Span of values of which none is a number.
var noNumbers = Span{math.Inf(1), math.Inf(-1)}

// Number returns the number that a value of a field is when it is compared with one.
func Number(value string) (n float64, ok bool) {
	if n, ok := plainNumber(value); ok {
		return n, true
	}
	n, err := strconv.ParseFloat(value, 64)
	return n, err == nil
}

// tens are powers of ten. All are exact, as is every number of as many digits.
var tens = [...]float64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15}

// plainNumber is strconv.ParseFloat for a number of at most 15 digits without sign and exponent, in a third of the time: both
// parts of its one division are exact, so it is rounded once.
func plainNumber(value string) (n float64, ok bool) {
	if len(value) > len(tens) {
		return 0, false
	}
	digits, behind, point := int64(0), 0, -1
	for i := range len(value) {
		switch c := value[i]; {
		case '0' <= c && c <= '9':
			digits = 10*digits + int64(c-'0')
		case c == '.' && point < 0:
			point = i
		default:
			return 0, false
		}
	}
	all := len(value)
	if point >= 0 {
		behind = all - 1 - point
		all--
	}
	if all == 0 || all >= len(tens) {
		return 0, false
	}
	return float64(digits) / tens[behind], true
}

// spanOf returns the span of values; known is false when so many are no numbers that it is not worth while.
func spanOf(data []byte, ends []uint32, distinct []int) (s Span, known bool) {
	s = noNumbers
	strange, numbers := 0, 0
	take := func(value []byte) bool {
		n, ok := Number(unsafe.String(unsafe.SliceData(value), len(value))) // only read
		if !ok {
			strange++
			return strange <= max(maxStrange, numbers)
		}
		if numbers++; !math.IsNaN(n) { // which is less than nothing and greater than nothing
			s.Least, s.Most = min(s.Least, n), max(s.Most, n)
		}
		return true
	}
	if distinct != nil {
		for _, k := range distinct {
			if !take(valueAt(data, ends, k)) {
				return s, false
			}
		}
		return s, true
	}
	for k := range ends {
		if !take(valueAt(data, ends, k)) {
			return s, false
		}
	}
	return s, true
}

func appendSpan(dst []byte, name string, s Span) []byte {
	dst = appendString(dst, name)
	dst = binary.LittleEndian.AppendUint64(dst, math.Float64bits(s.Least))
	return binary.LittleEndian.AppendUint64(dst, math.Float64bits(s.Most))
}

// Spans are those of the fields of a block. The zero Spans is ready for Codec.Spans, and for another block again.
type Spans struct {
	secs  sections
	buf   []byte
	names [][]byte
	spans []Span
}

// Spans reads the spans from a container of columns, of whose bytes out keeps nothing. Errors wrap ErrDamaged.
func (c *Codec) Spans(out *Spans, b []byte) (err error) {
	out.names, out.spans = out.names[:0], out.spans[:0]
	if _, out.secs, err = c.unpack(out.secs, b); err != nil {
		return err
	}
	sec, there := out.secs.find(secFieldSpans)
	if !there {
		return nil
	}
	if out.buf, err = c.raw(out.buf, sec); err != nil {
		return fmt.Errorf("section %d: %w", secFieldSpans, err)
	}
	r := reader{b: out.buf}
	for range r.uvarint(maxSpans) {
		name, b := r.bytes(int(r.uvarint(MaxRaw))), r.bytes(16)
		if r.bad {
			break
		}
		out.names = append(out.names, name)
		out.spans = append(out.spans, Span{
			math.Float64frombits(binary.LittleEndian.Uint64(b)), math.Float64frombits(binary.LittleEndian.Uint64(b[8:])),
		})
	}
	if r.bad || len(r.b) != 0 {
		return fmt.Errorf("%w: spans of fields", ErrDamaged)
	}
	return nil
}

// Of returns the span of a field; known is false when nothing is known of it.
func (s *Spans) Of(name string) (span Span, known bool) {
	for i, n := range s.names {
		if string(n) == name {
			return s.spans[i], true
		}
	}
	return Span{}, false
}
