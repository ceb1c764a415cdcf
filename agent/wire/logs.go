package wire

import (
	"encoding/binary"
	"fmt"
)

// Logs body, version 1 (lanes logs and events). Columns per stream, so that zstd finds likeness:
//
//	version byte (1)
//	uvarint n streams, each:
//	  kind byte, labels (uvarint n, n x (name, value) with lengths)
//	  uvarint n lines
//	  n x varint   T minus T of the line before (nanoseconds)
//	  n x byte     severity
//	  n x uvarint  number of fields
//	  fields of all lines (name, value) with lengths
//	  n x uvarint  length of the text
//	  the texts, one behind the other
const logsVersion = 1

// AppendLogs appends a logs body of b to dst.
func AppendLogs(dst []byte, b *LogBatch) []byte {
	dst = append(dst, logsVersion)
	dst = binary.AppendUvarint(dst, uint64(len(b.Streams)))
	for i := range b.Streams {
		s := &b.Streams[i]
		dst = append(dst, byte(s.Kind))
		dst = s.Labels.AppendKey(dst)
		dst = binary.AppendUvarint(dst, uint64(len(s.Lines)))
		var t int64
		for j := range s.Lines {
			dst = binary.AppendVarint(dst, s.Lines[j].T-t)
			t = s.Lines[j].T
		}
		for j := range s.Lines {
			dst = append(dst, byte(s.Lines[j].Severity))
		}
		for j := range s.Lines {
			dst = binary.AppendUvarint(dst, uint64(len(s.Lines[j].Fields)))
		}
		for j := range s.Lines {
			for _, f := range s.Lines[j].Fields {
				dst = AppendString(dst, f.Name)
				dst = AppendString(dst, f.Value)
			}
		}
		for j := range s.Lines {
			dst = binary.AppendUvarint(dst, uint64(len(s.Lines[j].Text)))
		}
		for j := range s.Lines {
			dst = append(dst, s.Lines[j].Text...)
		}
	}
	return dst
}

// DecodeLogs reads a logs body. Texts point into body; labels and fields are copies. Errors wrap ErrMalformed
// and name the place.
func DecodeLogs(body []byte) (*LogBatch, error) {
	c := NewReader(body, ErrMalformed)
	if v := c.Byte("version"); c.err == nil && v != logsVersion {
		return nil, fmt.Errorf("%w: logs body of version %d, this program knows %d", ErrMalformed, v, logsVersion)
	}
	n := c.Count("count of streams", MaxStreams, 3)
	b := &LogBatch{Streams: make([]LogStream, n)}
	room := logRoom{lines: MaxBatchLines, fields: MaxBatchFields}
	for i := range b.Streams {
		readStream(&c, &b.Streams[i], &room)
		if c.err != nil {
			return nil, fmt.Errorf("stream %d: %w", i, c.err)
		}
	}
	if err := c.End("the last stream"); err != nil {
		return nil, err
	}
	return b, nil
}

// logRoom is how many lines and fields a body may still hold.
type logRoom struct{ lines, fields int }

func readStream(c *Reader, s *LogStream, room *logRoom) {
	s.Kind = StreamKind(c.Byte("stream kind"))
	if c.err == nil && s.Kind != StreamLog && s.Kind != StreamEvent {
		c.Fail("unknown stream kind")
	}
	s.Labels = readLabels(c, MaxStreamLabels)
	n := c.Count("count of lines", room.lines, 4)
	if c.err != nil {
		return
	}
	room.lines -= n
	s.Lines = make([]LogLine, n)
	var t int64
	for j := range s.Lines {
		t += c.Varint("time of a line")
		s.Lines[j].T = t
	}
	for j := range s.Lines {
		s.Lines[j].Severity = Severity(c.Byte("severity"))
		if s.Lines[j].Severity > SeverityCritical {
			c.Fail("unknown severity")
		}
	}
	counts := make([]int, n)
	total := 0
	for j := range counts {
		counts[j] = c.Count("count of fields", MaxFields, 2)
		total += counts[j]
	}
	if c.err == nil && (total > c.Left()/2 || total > room.fields) {
		c.Fail("count of fields out of bounds")
	}
	if c.err != nil {
		return
	}
	room.fields -= total
	fields := make([]Label, total)
	for j := range fields {
		fields[j].Name = string(c.Prefixed(MaxLabelName, "field name"))
		fields[j].Value = string(c.Prefixed(MaxLine, "field value"))
	}
	for j, k := range counts {
		if k > 0 {
			s.Lines[j].Fields = fields[:k:k]
			fields = fields[k:]
		}
		counts[j] = c.Count("length of a line", MaxLine, 0)
	}
	for j, k := range counts {
		s.Lines[j].Text = c.Bytes(k, "text of a line")
	}
}
