package query

import (
	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/block"
)

// Reducer reduces one filter to many streams and blocks, one after the other. What settles the same leaves in the same
// way gets the same filter, so that many streams do not mean many filters. It is not safe for concurrent use.
type Reducer struct {
	filter  *Filter
	leaves  []*Filter // those that kind and labels can settle
	streams map[string]*Filter
	blocks  map[blockCase]*Filter
	stored  map[storedCase]*Filter
	key     []byte
}

// storedCase is a filter and which of its conditions on fields look at texts, too.
type storedCase struct {
	filter *Filter
	texts  string
}

type blockCase struct {
	filter  *Filter
	present uint16
	fields  bool
	names   string
}

// maxReduced bounds the filters of each kind that a Reducer remembers; a query with very many conditions on labels may
// have more.
const maxReduced = 4096

// Reducer returns a Reducer of the filter.
func (f *Filter) Reducer() *Reducer {
	r := &Reducer{filter: f, streams: map[string]*Filter{}, blocks: map[blockCase]*Filter{}, stored: map[storedCase]*Filter{}}
	f.eachLeaf(func(l *Filter) {
		if l.ofStream() {
			r.leaves = append(r.leaves, l)
		}
	})
	return r
}

func (f *Filter) eachLeaf(fn func(*Filter)) {
	if len(f.kids) == 0 {
		fn(f)
	}
	for _, k := range f.kids {
		k.eachLeaf(fn)
	}
}

// How a stream settles a leaf.
const (
	open = iota
	yes
	no
)

// Stream returns a filter that decides the lines of a stream as the whole one does, with all that kind and labels settle
// taken out. label returns the value of a label, "" when the stream has none of the name.
func (r *Reducer) Stream(kind wire.StreamKind, label func(name string) string) *Filter {
	if len(r.leaves) == 0 {
		return r.filter
	}
	r.key = r.key[:0]
	for _, l := range r.leaves {
		r.key = append(r.key, l.settled(kind, label))
	}
	if f, ok := r.streams[string(r.key)]; ok {
		return f
	}
	i := 0
	f := r.filter.rewrite(func(l *Filter) *Filter {
		if !l.ofStream() {
			return l
		}
		how := r.key[i] // leaves come in the same order
		i++
		if how == open {
			return l
		}
		return constant(how == yes)
	})
	if len(r.streams) < maxReduced {
		r.streams[string(r.key)] = f
	}
	return f
}

// ofStream reports whether kind and labels can settle the leaf.
func (f *Filter) ofStream() bool {
	return f.op == opKind || f.op == opField || f.op == opLabel || f.op == opValue
}

// settled tells how the stream settles the leaf.
func (f *Filter) settled(kind wire.StreamKind, label func(name string) string) byte {
	if f.op == opKind {
		return settle(f.mask == uint16(kind))
	}
	v := label(f.field)
	switch {
	case f.op == opLabel, f.op == opValue && v != "":
		return settle(f.matcher.Matches(v))
	case f.op == opField && v != "":
		return settle(f.compare(v, nil))
	}
	return open
}

func settle(is bool) byte {
	if is {
		return yes
	}
	return no
}

// Block reduces a filter that Stream returned to the lines of a block.
func (r *Reducer) Block(f *Filter, h *block.Header) *Filter {
	k := blockCase{f, h.Present(), h.HasFields, h.FieldNames()}
	out, ok := r.blocks[k]
	if !ok {
		out = f.reduceBlock(h)
		if len(r.blocks) < maxReduced {
			r.blocks[k] = out
		}
	}
	return out
}

// Stored reduces a filter that Block returned further, where may says of the need of texts that hold a field by themselves that no text
// of the block fulfils it: then the structured field alone is looked at.
func (r *Reducer) Stored(f *Filter, may func(*Need) bool) *Filter {
	r.key = r.key[:0]
	none := true
	f.eachLeaf(func(l *Filter) {
		if l.op == opField && l.text != nil {
			how := byte(no)
			if need := l.text.Need(); may(&need) {
				how = yes
			}
			r.key = append(r.key, how)
			none = none && how == yes
		}
	})
	if none {
		return f
	}
	k := storedCase{f, string(r.key)}
	if out, ok := r.stored[k]; ok {
		return out
	}
	i := 0
	out := f.rewrite(func(l *Filter) *Filter {
		if l.op != opField || l.text == nil {
			return l
		}
		how := k.texts[i] // leaves come in the same order
		i++
		if how == yes {
			return l
		}
		stored := *l
		stored.text = nil
		return &stored
	})
	if len(r.stored) < maxReduced {
		r.stored[k] = out
	}
	return out
}
