package journal

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
)

// Keys that are looked for in an entry too long to be read.
const (
	keyCursor     = "__CURSOR"
	keyUnit       = "_SYSTEMD_UNIT"
	keyIdentifier = "SYSLOG_IDENTIFIER"
)

// entryReader cuts what journalctl prints into its entries, one a line. Memory is bounded by max: a longer line is
// read through for the few values that say what it is, since journalctl prints keys in any order.
type entryReader struct {
	r   *bufio.Reader
	max int
	buf []byte
}

func newEntryReader(r io.Reader, limit int) *entryReader {
	return &entryReader{r: bufio.NewReaderSize(r, 64<<10), max: limit}
}

// next returns a line, which is good until the next call, or what is known of one that is too long.
func (e *entryReader) next() (line []byte, long *skimmed, err error) {
	if cap(e.buf) > 256<<10 {
		e.buf = nil
	}
	e.buf = e.buf[:0]
	for {
		part, err := e.r.ReadSlice('\n')
		if long != nil {
			long.take(part)
		} else if e.buf = append(e.buf, part...); len(e.buf) > e.max {
			long = newSkimmed()
			long.take(e.buf)
			e.buf = nil
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
		case err != nil:
			return nil, nil, err
		case long != nil:
			return nil, long, nil
		default:
			return e.buf[:len(e.buf)-1], nil, nil
		}
	}
}

// skimmed is a JSON object of which only some short strings at its top are kept. take is given its bytes in pieces.
type skimmed struct {
	values map[string]string
	size   int

	depth  int
	text   bool // within a string
	escape bool // behind a backslash in it
	isKey  bool // the next string at the top is a key
	keep   bool // the string is kept in raw
	key    string
	raw    []byte
}

const skimmedMax = 4 << 10 // longer values are not kept

func newSkimmed() *skimmed {
	return &skimmed{values: map[string]string{keyCursor: "", keyUnit: "", keyIdentifier: ""}}
}

// source names who wrote the entry.
func (s *skimmed) source() string {
	return firstOf(s.values[keyUnit], s.values[keyIdentifier], "unknown")
}

func (s *skimmed) take(b []byte) {
	s.size += len(b)
	for _, c := range b {
		if s.text {
			s.inText(c)
			continue
		}
		switch c {
		case '"':
			_, wanted := s.values[s.key]
			s.text, s.keep, s.raw = true, s.depth == 1 && (s.isKey || wanted), s.raw[:0]
		case '{', '[':
			s.depth++
			s.isKey = s.depth == 1
		case '}', ']':
			s.depth--
		case ',':
			s.isKey = s.depth == 1
		}
	}
}

func (s *skimmed) inText(c byte) {
	if c == '"' && !s.escape {
		s.text = false
		s.end()
		return
	}
	s.escape = c == '\\' && !s.escape
	if s.keep = s.keep && len(s.raw) < skimmedMax; s.keep {
		s.raw = append(s.raw, c)
	}
}

// end takes over a string at the top.
func (s *skimmed) end() {
	if s.depth != 1 {
		return
	}
	var v string
	if s.keep && json.Unmarshal(append(append([]byte{'"'}, s.raw...), '"'), &v) != nil {
		v = ""
	}
	switch _, wanted := s.values[s.key]; {
	case s.isKey:
		s.key, s.isKey = v, false
	case wanted && s.keep:
		s.values[s.key] = v
	}
}
