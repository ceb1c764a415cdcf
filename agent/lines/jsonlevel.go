package lines

import (
	"bytes"

	"github.com/triward/triward/agent/wire"
)

// maxObject is how much of a JSON object is looked through for its level, in bytes.
const maxObject = 32 << 10

// memberSeverity returns the severity that a JSON object names in a member of its own, wherever in the line that stands. What
// its texts say, or objects in it, does not count. It is SeverityUnknown for anything else than an object.
func memberSeverity(line []byte) wire.Severity {
	b := bytes.TrimLeft(line[:min(len(line), maxObject)], " \t")
	if len(b) == 0 || b[0] != '{' {
		return wire.SeverityUnknown
	}
	depth := 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return wire.SeverityUnknown
			}
		case '"':
			end := closing(b, i)
			if end < 0 {
				return wire.SeverityUnknown
			}
			name := b[i+1 : end]
			i = end
			if depth != 1 || !namesLevel(name) {
				continue
			}
			value := bytes.TrimLeft(b[end+1:], " \t:")
			if len(value) == 0 || value[0] != '"' || len(b)-end-1-len(value) == 0 {
				continue
			}
			if last := closing(value, 0); last > 0 {
				if sev := SeverityOf(value[1:last]); sev != wire.SeverityUnknown {
					return sev
				}
			}
		}
	}
	return wire.SeverityUnknown
}

// closing returns where the string ends that begins at i, -1 when it does not.
func closing(b []byte, i int) int {
	for j := i + 1; j < len(b); j++ {
		switch b[j] {
		case '\\':
			j++
		case '"':
			return j
		}
	}
	return -1
}

// namesLevel reports whether a member of this name says how severe a line is, in capitals or not.
func namesLevel(name []byte) bool {
	for _, known := range [...]string{"level", "severity", "lvl", "loglevel", "log.level", "levelname", "detected_level"} {
		if len(name) == len(known) && bytes.EqualFold(name, []byte(known)) {
			return true
		}
	}
	return false
}
