package archive

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/triward/triward/agent/wire"
)

// Path is the place of lines in the tree of agents, types and files, within a day.
type Path struct {
	Agent string `json:"agent"` // id of the agent, else name of the host; "" when the lines name neither
	Type  string `json:"type"`  // label source, or "events"
	File  string `json:"file"`  // label file, unit, or what else names where the lines come from
}

// TypeEvents is the type of events.
const TypeEvents = "events"

// fileLabels name where lines come from, the first that a stream has.
var fileLabels = []string{"file", "unit", "name", "service_name", "service", "app", "container", "job"}

// PathOf is where lines of a stream lie.
func PathOf(kind wire.StreamKind, label func(name string) string) Path {
	p := Path{Agent: cmp.Or(label("agent"), label("host")), Type: label("source")}
	if kind == wire.StreamEvent {
		p.Type = TypeEvents
	}
	for _, name := range fileLabels {
		if p.File = label(name); p.File != "" {
			break
		}
	}
	return p
}

// Compare orders paths by agent, type and file.
func (p Path) Compare(o Path) int {
	return cmp.Or(strings.Compare(p.Agent, o.Agent), strings.Compare(p.Type, o.Type), strings.Compare(p.File, o.File))
}

// id tells paths of one agent apart where a file system does not tell small letters from capital ones.
func (p Path) id() string {
	return fmt.Sprintf("%08x", uint32(xxh3.HashString(p.Agent+"\x00"+p.Type+"\x00"+p.File)))
}

const (
	maxPiece = 180 // bytes of an escaped piece of a path, before the sum that stands for the rest
	noPiece  = "-" // stands for nothing
)

// Escape makes a piece of a path of any text: letters, digits, ".", "_" and "-" stay, other bytes become %XX. What would be too
// long is cut, and a sum of all of it added. Different texts have different pieces, none of which is ".", ".." or hidden.
func Escape(s string) string {
	if s == "" {
		return noPiece
	}
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		plain := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '.' && i > 0 || c == '-' && s != noPiece
		if plain {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
		if b.Len() > maxPiece {
			return b.String()[:maxPiece] + fmt.Sprintf("~%016x", xxh3.HashString(s)) // "~" is in no other piece
		}
	}
	return b.String()
}

// DateOf is the date of a UTC day since 1970.
func DateOf(day int64) string { return time.Unix(day*86400, 0).UTC().Format(time.DateOnly) }

// ParseDate is the inverse of DateOf.
func ParseDate(date string) (day int64, err error) {
	t, err := time.Parse(time.DateOnly, date)
	if err != nil {
		return 0, fmt.Errorf("%w: date %.40q: want YYYY-MM-DD", ErrInvalid, date)
	}
	return t.Unix() / 86400, nil
}
