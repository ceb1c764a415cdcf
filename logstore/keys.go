package logstore

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/block"
	"github.com/triward/triward/logstore/index"
	"github.com/zeebo/xxh3"
)

// Keys of the store, all big endian. A day is the number of UTC days since 1970 plus 1<<31.
//
//	aT                      version byte (1), the applied index
//	i index ordinal(4)      an inbox row: see inbox.go
//	s day stream(16)        version byte (1), kind byte, labels (wire.Labels.AppendKey): the stream has lines that day
//	h day stream(16) id(8)  block.Header
//	c day id                columns of a block        x day id   its text
//	f day id                its filter
//	m day id                mark "to index": see seal.go
//	d day                   version byte (1), the 16 bytes that name the index of the day
const (
	prefixInbox   = 'i'
	prefixStream  = 's'
	prefixHeader  = 'h'
	prefixColumns = 'c'
	prefixText    = 'x'
	prefixFilter  = 'f'
	prefixMark    = 'm'
	prefixIndex   = 'd'
)

const formatVersion = 1

// whole checks the version and the least length of a row.
func whole(v []byte, least int, what string) error {
	if len(v) > 0 && v[0] > formatVersion {
		return fmt.Errorf("%w: %s of version %d, this program knows up to %d", block.ErrNewer, what, v[0], formatVersion)
	}
	if len(v) < least || v[0] != formatVersion {
		return fmt.Errorf("%w: %s of %d bytes", block.ErrDamaged, what, len(v))
	}
	return nil
}

// DayNs is the length of a day, the unit of retention and of the word index.
const DayNs = 86400 * int64(1e9)

// Day returns the UTC day of a time in nanoseconds.
func Day(t int64) int64 {
	d := t / DayNs
	if t%DayNs < 0 {
		d--
	}
	return d
}

type streamID [16]byte

func streamIDOf(kind wire.StreamKind, labels wire.Labels) streamID {
	h := xxh3.Hash128(labels.AppendKey([]byte{byte(kind)}))
	return h.Bytes()
}

var keyApplied = []byte("aT")

func dayPrefix(prefix byte, day int64) []byte {
	return binary.BigEndian.AppendUint32([]byte{prefix}, uint32(day+1<<31))
}

func dayOf(key []byte) int64 { return int64(binary.BigEndian.Uint32(key[1:5])) - 1<<31 }

func inboxKey(index uint64, ord uint32) []byte {
	k := binary.BigEndian.AppendUint64([]byte{prefixInbox}, index)
	return binary.BigEndian.AppendUint32(k, ord)
}

func parseInboxKey(k []byte) (index uint64, ord uint32) {
	return binary.BigEndian.Uint64(k[1:]), binary.BigEndian.Uint32(k[9:])
}

func streamKey(day int64, id streamID) []byte { return append(dayPrefix(prefixStream, day), id[:]...) }

func blockKey(prefix byte, day int64, id uint64) []byte {
	return binary.BigEndian.AppendUint64(dayPrefix(prefix, day), id)
}

func headerKey(day int64, stream streamID, id uint64) []byte {
	return binary.BigEndian.AppendUint64(append(dayPrefix(prefixHeader, day), stream[:]...), id)
}

func parseHeaderKey(k []byte) (day int64, stream streamID, id uint64) {
	return dayOf(k), streamID(k[5:21]), binary.BigEndian.Uint64(k[21:])
}

// after returns the least key that is greater than all with the prefix.
func after(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}

// stream is an entry of the dictionary. A query compares labels of very many streams and returns those of few, so they
// are decoded when somebody asks for all of them.
type stream struct {
	id      streamID
	kind    wire.StreamKind
	row     []byte      // labels as the dictionary has them, checked; nil when decoded
	decoded wire.Labels // shares no memory with row
}

// labels returns all labels.
func (st *stream) labels() wire.Labels {
	if st.row != nil {
		st.decoded, _, _ = wire.LabelsFromKey(st.row) // checked by parseStream
		st.row = nil
	}
	return st.decoded
}

// label returns the value of a label, "" when there is none of the name.
func (st *stream) label(name string) (value string) {
	if st.row == nil {
		return st.decoded.Get(name)
	}
	_ = walkLabels(st.row, func(n, v []byte) bool {
		if string(n) != name {
			return true
		}
		value = string(v)
		return false
	})
	return value
}

// keep makes the stream independent of the memory it was read from.
func (st *stream) keep() *stream {
	return &stream{id: st.id, kind: st.kind, row: slices.Clone(st.row), decoded: st.decoded}
}

func appendStream(dst []byte, kind wire.StreamKind, labels wire.Labels) []byte {
	return labels.AppendKey(append(dst, formatVersion, byte(kind)))
}

// parseStream reads a row of the dictionary into st, which points into v afterwards.
func parseStream(st *stream, id streamID, v []byte) error {
	if err := whole(v, 2, "stream"); err != nil {
		return err
	}
	*st = stream{id: id, kind: wire.StreamKind(v[1]), row: v[2:]}
	return walkLabels(st.row, func(_, _ []byte) bool { return true })
}

// walkLabels calls fn with the name and value of each label of a row until it returns false, and checks as much of the
// row as it has walked.
func walkLabels(row []byte, fn func(name, value []byte) bool) error {
	piece := func(most uint64) (b []byte, ok bool) {
		n, k := binary.Uvarint(row)
		if k <= 0 || n > most || uint64(len(row)-k) < n {
			return nil, false
		}
		b, row = row[k:k+int(n)], row[k+int(n):]
		return b, true
	}
	n, k := binary.Uvarint(row)
	if k <= 0 || n > wire.MaxLabels {
		return fmt.Errorf("%w: count of labels", block.ErrDamaged)
	}
	row = row[k:]
	for range n {
		name, ok := piece(wire.MaxLabelName)
		value, also := piece(wire.MaxLabelValue)
		if !ok || !also {
			return fmt.Errorf("%w: label of a stream", block.ErrDamaged)
		}
		if !fn(name, value) {
			return nil
		}
	}
	if len(row) != 0 {
		return fmt.Errorf("%w: %d bytes behind the labels of a stream", block.ErrDamaged, len(row))
	}
	return nil
}

func appendIndexName(dst []byte, name index.Name) []byte {
	return append(append(dst, formatVersion), name[:]...)
}

func parseIndexName(v []byte) (name index.Name, err error) {
	if err := whole(v, 1+len(name), "name of an index"); err != nil {
		return name, err
	}
	if len(v) > 1+len(name) {
		return name, fmt.Errorf("%w: name of an index of %d bytes", block.ErrDamaged, len(v))
	}
	return index.Name(v[1:]), nil
}

func appendApplied(dst []byte, index uint64) []byte {
	return binary.BigEndian.AppendUint64(append(dst, formatVersion), index)
}

func parseApplied(v []byte) (uint64, error) {
	if err := whole(v, 9, "applied index"); err != nil {
		return 0, err
	}
	if len(v) > 9 {
		return 0, fmt.Errorf("%w: applied index of %d bytes", block.ErrDamaged, len(v))
	}
	return binary.BigEndian.Uint64(v[1:]), nil
}
