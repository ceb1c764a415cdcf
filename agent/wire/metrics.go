package wire

import (
	"encoding/binary"
	"fmt"
	"math"
)

// Metrics body, version 1:
//
//	version byte (1)
//	uvarint n scrapes, each:
//	  varint  T minus T of the scrape before (milliseconds)
//	  uvarint n samples
//	  n x uvarint: id minus the id before (ascending, so the difference is at least 1; the first is the id)
//	  n x value
//
// A value is uvarint(zigzag(m)<<4 | e), meaning m / 10^e with e <= 9 and |m| < 2^53, whenever that gives the
// float64 back bit by bit; otherwise the byte 15 and the eight bytes of the float64, little endian. Decimals
// that people and kernels write so take 1 to 6 bytes instead of 8.
const (
	metricsVersion = 1
	maxExponent    = 9
	rawValue       = 15
	maxMantissa    = 1 << 53
)

var pow10 = [maxExponent + 1]float64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9}

// AppendMetrics appends a metrics body of the scrapes to dst. The ids of each scrape must ascend.
func AppendMetrics(dst []byte, scrapes []Scrape) []byte {
	dst = append(dst, metricsVersion)
	dst = binary.AppendUvarint(dst, uint64(len(scrapes)))
	var t int64
	for i := range scrapes {
		s := &scrapes[i]
		dst = binary.AppendVarint(dst, s.T-t)
		t = s.T
		dst = binary.AppendUvarint(dst, uint64(len(s.IDs)))
		var last uint64
		for _, id := range s.IDs {
			dst = binary.AppendUvarint(dst, id-last)
			last = id
		}
		for _, v := range s.Values {
			dst = appendValue(dst, v)
		}
	}
	return dst
}

func appendValue(dst []byte, v float64) []byte {
	if m, e, ok := decimal(v); ok {
		zz := uint64(m<<1) ^ uint64(m>>63)
		return binary.AppendUvarint(dst, zz<<4|uint64(e))
	}
	dst = append(dst, rawValue)
	return binary.LittleEndian.AppendUint64(dst, math.Float64bits(v))
}

// decimal finds m and e with m/10^e == v to the bit.
func decimal(v float64) (m int64, e int, ok bool) {
	if v == 0 {
		return 0, 0, !math.Signbit(v)
	}
	for e = 0; e <= maxExponent; e++ {
		f := v * pow10[e]
		if !(f > -maxMantissa && f < maxMantissa) { // also NaN
			return 0, 0, false
		}
		r := math.RoundToEven(f)
		if r/pow10[e] == v {
			return int64(r), e, true
		}
	}
	return 0, 0, false
}

// MetricsBody is a decoded metrics body. Its memory is used again by the next Decode.
type MetricsBody struct {
	Scrapes []Scrape
	ids     []uint64
	values  []float64
}

// Decode reads a metrics body. The scrapes are valid until the next call. Errors wrap ErrMalformed and name
// the place.
func (m *MetricsBody) Decode(body []byte) error {
	c := NewReader(body, ErrMalformed)
	m.Scrapes, m.ids, m.values = m.Scrapes[:0], m.ids[:0], m.values[:0]
	if v := c.Byte("version"); c.err == nil && v != metricsVersion {
		return fmt.Errorf("%w: metrics body of version %d, this program knows %d", ErrMalformed, v, metricsVersion)
	}
	n := c.Count("count of scrapes", MaxBatchScrapes, 2)
	var t int64
	for range n {
		t += c.Varint("time stamp")
		k := c.Count("count of samples", MaxBatchSamples-len(m.ids), 2)
		from := len(m.ids)
		if err := m.decodeColumns(&c, k); err != nil {
			return err
		}
		m.Scrapes = append(m.Scrapes, Scrape{T: t, IDs: m.ids[from:], Values: m.values[from:]})
	}
	if err := c.End("the last scrape"); err != nil {
		return err
	}
	// Growing moved the columns: cut the scrapes out of the final arrays.
	from := 0
	for i := range m.Scrapes {
		k := len(m.Scrapes[i].IDs)
		m.Scrapes[i].IDs = m.ids[from : from+k : from+k]
		m.Scrapes[i].Values = m.values[from : from+k : from+k]
		from += k
	}
	return nil
}

func (m *MetricsBody) decodeColumns(c *Reader, k int) error {
	var id uint64
	for i := range k {
		d := c.Uvarint("series id")
		if i > 0 && d == 0 || id+d < id {
			c.Fail("series ids that do not ascend")
		}
		if c.err != nil {
			return c.err
		}
		id += d
		m.ids = append(m.ids, id)
	}
	for range k {
		u := c.Uvarint("value")
		switch e := u & 15; {
		case e <= maxExponent:
			zz := u >> 4
			m.values = append(m.values, float64(int64(zz>>1)^-int64(zz&1))/pow10[e])
		case u == rawValue:
			m.values = append(m.values, math.Float64frombits(c.Uint64("raw value")))
		default:
			c.Fail("value with an unknown form")
		}
		if c.err != nil {
			return c.err
		}
	}
	return nil
}
