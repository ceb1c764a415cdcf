package command

import (
	"encoding/binary"

	"github.com/triward/triward/agent/wire"
)

// Verdict says what became of an entry as it was applied, where that is not simply all that stands in it: which commands
// were refused, which items of a batch were not stored, and which lines were stored at another time. It is computed
// again, the same, whenever the entry is applied from the same state. The zero value says that all was applied.
type Verdict struct {
	LogTime  int64 // of the entry, milliseconds since 1970
	Commands []CommandVerdict
}

// CommandVerdict is what became of one command of an entry.
type CommandVerdict struct {
	At      int    // place of the command in the entry
	Status  Status // any but StatusOK: nothing of the command was applied
	Moved   bool   // lines that claimed to be of the future were stored at log time
	Refused []Run  // items of the batch that were not stored, ascending
}

// Run is N items from From on. Items count from 0 over all scrapes or streams of a batch.
type Run struct{ From, N uint32 }

// maxRefused bounds the runs of one command: every other item of a batch.
const maxRefused = wire.MaxBatchSamples

// Of returns what became of the command that stands at place at; nil when all of it was applied.
func (v *Verdict) Of(at int) *CommandVerdict {
	if v == nil {
		return nil
	}
	for i := range v.Commands {
		if v.Commands[i].At == at {
			return &v.Commands[i]
		}
	}
	return nil
}

// Skip notes that n items from item on were not stored. Items are given in ascending order.
func (c *CommandVerdict) Skip(item, n int) {
	if n <= 0 {
		return
	}
	if k := len(c.Refused); k > 0 && c.Refused[k-1].From+c.Refused[k-1].N == uint32(item) {
		c.Refused[k-1].N += uint32(n)
		return
	}
	c.Refused = append(c.Refused, Run{From: uint32(item), N: uint32(n)})
}

// Append appends the binary form of the verdict to dst.
func (v *Verdict) Append(dst []byte) []byte {
	dst = append(dst, bodyVersion)
	dst = binary.AppendVarint(dst, v.LogTime)
	dst = binary.AppendUvarint(dst, uint64(len(v.Commands)))
	at := 0
	for i := range v.Commands {
		c := &v.Commands[i]
		dst = binary.AppendUvarint(dst, uint64(c.At-at))
		at = c.At
		dst = append(dst, byte(c.Status))
		moved := byte(0)
		if c.Moved {
			moved = 1
		}
		dst = append(dst, moved)
		dst = binary.AppendUvarint(dst, uint64(len(c.Refused)))
		var last uint32
		for _, r := range c.Refused {
			dst = binary.AppendUvarint(dst, uint64(r.From-last))
			dst = binary.AppendUvarint(dst, uint64(r.N))
			last = r.From + r.N
		}
	}
	return dst
}

// DecodeVerdict is the inverse of Append. Nothing in the verdict points into b.
func DecodeVerdict(b []byte) (*Verdict, error) {
	r := wire.NewReader(b, ErrMalformed)
	if v := r.Byte("version"); r.Err() == nil && v != bodyVersion {
		r.Fail("verdict of an unknown version")
	}
	v := &Verdict{LogTime: r.Varint("log time")}
	v.Commands = make([]CommandVerdict, r.Count("count of commands", MaxCommands, 4))
	at := uint64(0)
	for i := range v.Commands {
		c := &v.Commands[i]
		at += r.Number("place of a command", MaxCommands)
		c.At, c.Status = int(at), Status(r.Byte("status"))
		c.Moved = r.Byte("moved") != 0
		if n := r.Count("count of runs", maxRefused, 2); n > 0 {
			c.Refused = make([]Run, n)
			var last uint64
			for k := range c.Refused {
				from := last + r.Number("item", 1<<31)
				n := r.Number("count of items", 1<<31)
				if last = from + n; last >= 1<<32 {
					r.Fail("items out of bounds")
					break
				}
				c.Refused[k] = Run{From: uint32(from), N: uint32(n)}
			}
		}
	}
	if err := r.End("the verdict"); err != nil {
		return nil, err
	}
	return v, nil
}
