package tail

import (
	"bytes"
	"regexp"
	"time"

	"github.com/triward/triward/agent/wire"
)

// Multiline joins lines to records. Exactly one of Start and Continue is set: a line that matches Start begins a
// record; a line that matches Continue belongs to the one before.
type Multiline struct {
	Start    *regexp.Regexp
	Continue *regexp.Regexp
	MaxLines int           // 0 is 500
	Timeout  time.Duration // how long a record waits for its next line; 0 is 1 s
}

const (
	maxRecordLines = 500
	maxRecordBytes = 128 << 10
)

func (m *Multiline) continues(line []byte) bool {
	if m.Start != nil {
		return !m.Start.Match(line)
	}
	return m.Continue.Match(line)
}

func (m *Multiline) timeout() time.Duration {
	if m.Timeout <= 0 {
		return time.Second
	}
	return m.Timeout
}

func (m *Multiline) maxLines() int {
	if m.MaxLines <= 0 {
		return maxRecordLines
	}
	return m.MaxLines
}

// piece is what splitter.next found: a record's text, the bytes it takes, whether it was cut for its length.
type piece struct {
	text []byte
	size int
	cut  bool
}

// nextLine returns the first line of data. full says that data will not grow by itself (the read buffer is full),
// final that nothing will ever follow.
func nextLine(data []byte, full, final bool) (p piece, ok bool) {
	if i := bytes.IndexByte(data, '\n'); i >= 0 && i <= wire.MaxLine {
		return piece{text: bytes.TrimSuffix(data[:i], []byte{'\r'}), size: i + 1}, true
	}
	if len(data) > wire.MaxLine || full && len(data) >= wire.MaxLine {
		return piece{text: data[:wire.MaxLine], size: wire.MaxLine, cut: true}, true
	}
	if final && len(data) > 0 {
		return piece{text: bytes.TrimSuffix(data, []byte{'\r'}), size: len(data)}, true
	}
	return piece{}, false
}

// nextRecord returns the first record of data: a line, or lines that belong together. A record whose end is not
// known yet is returned only when idle (no line came for the time-out), full or final.
func nextRecord(m *Multiline, data []byte, idle, full, final bool) (p piece, ok bool) {
	first, ok := nextLine(data, full, final)
	if !ok || m == nil || first.cut {
		return first, ok
	}
	p = first
	for n := 1; n < m.maxLines(); n++ {
		next, ok := nextLine(data[p.size:], false, final)
		if !ok {
			if idle || full || final {
				return p, true
			}
			return piece{}, false
		}
		if next.cut || !m.continues(next.text) || p.size+next.size > maxRecordBytes {
			return p, true
		}
		p.size += next.size
		p.text = bytes.TrimRight(data[:p.size], "\r\n")
	}
	return p, true
}
