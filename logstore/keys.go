package logstore

import (
	"encoding/binary"
	"errors"
	"fmt"

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

// stream is an entry of the dictionary.
type stream struct {
	id     streamID
	kind   wire.StreamKind
	labels wire.Labels
}

func appendStream(dst []byte, kind wire.StreamKind, labels wire.Labels) []byte {
	return labels.AppendKey(append(dst, formatVersion, byte(kind)))
}

func parseStream(id streamID, v []byte) (*stream, error) {
	if len(v) < 2 || v[0] != formatVersion {
		return nil, errors.New("stream of an unknown version")
	}
	labels, rest, err := wire.LabelsFromKey(v[2:])
	if err != nil || len(rest) != 0 {
		return nil, fmt.Errorf("labels of a stream: %d bytes left over: %w", len(rest), err)
	}
	return &stream{id: id, kind: wire.StreamKind(v[1]), labels: labels}, nil
}

func appendIndexName(dst []byte, name index.Name) []byte {
	return append(append(dst, formatVersion), name[:]...)
}

func parseIndexName(v []byte) (name index.Name, err error) {
	if len(v) != 1+len(name) || v[0] != formatVersion {
		return name, fmt.Errorf("%w: name of an index of an unknown version", block.ErrDamaged)
	}
	return index.Name(v[1:]), nil
}

func appendApplied(dst []byte, index uint64) []byte {
	return binary.BigEndian.AppendUint64(append(dst, formatVersion), index)
}

func parseApplied(v []byte) (uint64, error) {
	if len(v) != 9 || v[0] != formatVersion {
		return 0, fmt.Errorf("%w: applied index of an unknown version", block.ErrDamaged)
	}
	return binary.BigEndian.Uint64(v[1:]), nil
}
