package meta

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"slices"

	"github.com/zeebo/xxh3"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/raftstate/command"
)

const dayMs = 24 * 3600 * 1000

// Sum is a number of 128 bits with addition modulo 2^128.
type Sum struct{ Hi, Lo uint64 }

// Add returns s + o.
func (s Sum) Add(o Sum) Sum {
	lo, carry := bits.Add64(s.Lo, o.Lo, 0)
	hi, _ := bits.Add64(s.Hi, o.Hi, carry)
	return Sum{hi, lo}
}

// Sub returns s - o.
func (s Sum) Sub(o Sum) Sum {
	lo, borrow := bits.Sub64(s.Lo, o.Lo, 0)
	hi, _ := bits.Sub64(s.Hi, o.Hi, borrow)
	return Sum{hi, lo}
}

// String returns 32 hexadecimal digits.
func (s Sum) String() string { return fmt.Sprintf("%016x%016x", s.Hi, s.Lo) }

// HashLabels identifies a label set in digests.
func HashLabels(ls wire.Labels) uint64 { return xxh3.Hash(ls.AppendKey(nil)) }

// HashSample is what a sample adds to its day: a hash of its series' HashLabels, time (milliseconds) and value.
func HashSample(labels uint64, t int64, v float64) Sum {
	var b [24]byte
	binary.LittleEndian.PutUint64(b[0:], labels)
	binary.LittleEndian.PutUint64(b[8:], uint64(t))
	binary.LittleEndian.PutUint64(b[16:], math.Float64bits(v))
	h := xxh3.Hash128(b[:])
	return Sum{h.Hi, h.Lo}
}

// HashStream identifies a stream in digests.
func HashStream(kind wire.StreamKind, ls wire.Labels) uint64 {
	return xxh3.Hash(ls.AppendKey([]byte{byte(kind)}))
}

// HashLine is what a line adds to its day: a hash of its stream's HashStream and everything in it. It uses buf
// and returns it for the next call.
func HashLine(stream uint64, l *wire.LogLine, buf []byte) (Sum, []byte) {
	buf = binary.LittleEndian.AppendUint64(buf[:0], stream)
	buf = binary.LittleEndian.AppendUint64(buf, uint64(l.T))
	buf = append(buf, byte(l.Severity))
	buf = binary.AppendUvarint(buf, uint64(len(l.Fields)))
	for i := range l.Fields {
		buf = wire.AppendString(buf, l.Fields[i].Name)
		buf = wire.AppendString(buf, l.Fields[i].Value)
	}
	buf = append(buf, l.Text...)
	h := xxh3.Hash128(buf)
	return Sum{h.Hi, h.Lo}, buf
}

// DayOf returns the UTC day of a time in milliseconds since 1970.
func DayOf(ms int64) int64 {
	if ms < 0 {
		return (ms - dayMs + 1) / dayMs
	}
	return ms / dayMs
}

type dayKey struct {
	kind command.Kind
	day  int64
}

type dayTotal struct {
	count uint64
	sum   Sum
}

// Digests adds up digests by kind and day. The zero value is empty.
type Digests struct {
	total map[dayKey]dayTotal
	last  dayKey
	run   dayTotal // of last, not in total yet
}

// Add counts one item whose time is ms (milliseconds since 1970).
func (d *Digests) Add(kind command.Kind, ms int64, sum Sum) {
	k := dayKey{kind, DayOf(ms)}
	if k != d.last {
		d.flush()
		d.last = k
	}
	d.run.count++
	d.run.sum = d.run.sum.Add(sum)
}

func (d *Digests) flush() {
	if d.run.count == 0 {
		return
	}
	if d.total == nil {
		d.total = make(map[dayKey]dayTotal)
	}
	t := d.total[d.last]
	d.total[d.last] = dayTotal{t.count + d.run.count, t.sum.Add(d.run.sum)}
	d.run = dayTotal{}
}

// List returns the digests in order of kind and day.
func (d *Digests) List() []Digest {
	d.flush()
	out := make([]Digest, 0, len(d.total))
	for k, t := range d.total {
		out = append(out, Digest{Kind: k.kind, Day: k.day, Count: t.count, Sum: t.sum})
	}
	slices.SortFunc(out, func(a, b Digest) int { return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Day, b.Day)) })
	return out
}

// AddDigest adds a digest of the same kind and day.
func (d *Digests) AddDigest(o Digest) {
	d.flush()
	if d.total == nil {
		d.total = make(map[dayKey]dayTotal)
	}
	k := dayKey{o.Kind, o.Day}
	t := d.total[k]
	d.total[k] = dayTotal{t.count + o.Count, t.sum.Add(o.Sum)}
}
