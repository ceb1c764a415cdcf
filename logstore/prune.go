package logstore

import (
	"errors"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"github.com/triward/triward/logstore/block"
	"github.com/triward/triward/logstore/index"
	"github.com/triward/triward/logstore/query"
)

// pruners are those of a day: for what every line must fulfil, and, when that is nothing, for what is left of the filter in blocks
// that have not the fields asked for.
type pruners struct {
	day     pruner
	reduced map[*query.Filter]*pruner
}

// maxPruners bounds the questions to the word index of a day.
const maxPruners = 16

// of returns the pruner for a filter; nil when there is none.
func (p *pruners) of(f *query.Filter) *pruner {
	if p.day.need.Op != query.NeedAnything {
		return &p.day
	}
	if one, ok := p.reduced[f]; ok || len(p.reduced) >= maxPruners {
		return one
	}
	if p.reduced == nil {
		p.reduced = map[*query.Filter]*pruner{}
	}
	var one *pruner
	if need := f.Need(); need.Op != query.NeedAnything {
		one = &pruner{need: need}
	}
	p.reduced[f] = one
	return one
}

// pruner is what the word index of a day answers to a need. It is asked once, when there are candidates that it may rule out.
type pruner struct {
	need    query.Need
	open    bool // of some candidate no filter is remembered that says what the index could say
	asked   bool
	indexed bool // it answered
	pending bool // it could have answered if it were there
	ids     map[uint64]struct{}
	marks   map[uint64]struct{}
}

// prune leaves out the blocks that cannot match by what is remembered of their filters or by the word index, which is asked when there are
// others; blocks with a mark are not in it yet and stay.
func (c *scan) prune(d int64, p *pruners, cands []candidate) (left []candidate, err error) {
	left = cands[:0]
	for i := range cands {
		k := &cands[i]
		if one := p.of(k.filter); one != nil {
			may, seen := c.mayHoldSeen(k.id, &one.need)
			if !may {
				c.stats.SkippedFilter++
				continue
			}
			one.open = one.open || !seen || !ofWords(&one.need)
		}
		left = append(left, *k)
	}
	cands, left = left, left[:0]
	for i := range cands {
		k := &cands[i]
		one := p.of(k.filter)
		if one == nil || !one.open && !one.asked {
			left = append(left, *k)
			continue
		}
		if !one.asked {
			one.asked = true
			if err := c.askIndex(d, one); err != nil {
				return nil, err
			}
		}
		if !one.indexed {
			if one.pending {
				c.stats.Pending++
			}
			left = append(left, *k)
			continue
		}
		_, marked := one.marks[k.id]
		if marked {
			c.stats.Pending++
		}
		if _, hit := one.ids[k.id]; !hit && !marked {
			c.stats.SkippedIndex++
			continue
		}
		k.asked = !marked
		left = append(left, *k)
	}
	return left, nil
}

// askIndex asks the word index of the day. The snapshot is older than the index reader, so an unmarked block is in the
// index. An index that cannot be used is dropped behind and the blocks are scanned.
func (c *scan) askIndex(d int64, p *pruner) error {
	q := indexQuery(&p.need)
	if c.e.index == nil || q.Op == index.Everything {
		return nil
	}
	p.pending = true // until it has answered
	if c.e.distrusted(d) {
		return nil
	}
	name, ok, err := c.e.indexName(c.snap, d)
	if err != nil || !ok {
		return err
	}
	if p.marks, err = c.e.marks(c.snap, d); err != nil {
		return err
	}
	ids, all, err := c.e.index.Find(c.ctx, d, name, &q)
	switch {
	case errors.Is(err, index.ErrUnusable):
		c.e.distrust(d, name, err)
		return nil
	case err != nil:
		if cerr := c.err(); cerr != nil {
			return cerr
		}
		return err
	}
	p.ids, p.indexed, p.pending = ids, !all, false
	return nil
}

// indexName returns the name of the index that the unmarked blocks of the day are in.
func (e *engine) indexName(r pebble.Reader, d int64) (name index.Name, ok bool, err error) {
	v, closer, err := r.Get(dayPrefix(prefixIndex, d))
	if errors.Is(err, pebble.ErrNotFound) {
		return name, false, nil
	}
	if err != nil {
		return name, false, e.wrap("index name", err)
	}
	name, err = parseIndexName(v)
	if err = errors.Join(err, closer.Close()); err != nil {
		return name, false, e.wrap("index name", err)
	}
	return name, true, nil
}

// unmarked lists the blocks that must be in an index: those of its day without a mark.
func (e *engine) unmarked(d int64, name index.Name) (ids []uint64, err error) {
	snap := e.db.NewSnapshot()
	defer func() { _ = snap.Close() }() // a snapshot has nothing to fail with
	now, ok, err := e.indexName(snap, d)
	if err != nil || !ok || now != name {
		return nil, err
	}
	marks, err := e.marks(snap, d)
	if err != nil {
		return nil, err
	}
	err = e.rows(snap, dayPrefix(prefixHeader, d), func(key, _ []byte) error {
		_, _, id := parseHeaderKey(key)
		if _, ok := marks[id]; !ok {
			ids = append(ids, id)
		}
		return nil
	})
	return ids, err
}

// indexQuery turns a need into a question to the index, which knows only the letters that words begin with.
func indexQuery(n *query.Need) index.Query {
	switch n.Op {
	case query.NeedWord:
		if term, _ := block.IndexTerm(n.Text); term != "" {
			return index.Query{Op: index.Term, Text: term}
		}
	case query.NeedPrefix:
		if term, whole := block.IndexTerm(n.Text); whole {
			return index.Query{Op: index.Prefix, Text: term}
		} else if term != "" {
			return index.Query{Op: index.Term, Text: term}
		}
	case query.NeedNear:
		if prefix := n.Near.Prefix(); prefix != "" {
			return index.Query{Op: index.Prefix, Text: prefix, Accept: n.Near.MayTerm}
		}
	case query.NeedAll:
		q := index.Query{Op: index.And}
		for i := range n.Kids {
			if k := indexQuery(&n.Kids[i]); k.Op != index.Everything {
				q.Kids = append(q.Kids, k)
			}
		}
		if len(q.Kids) > 0 {
			return q
		}
	case query.NeedAny:
		q := index.Query{Op: index.Or}
		for i := range n.Kids {
			k := indexQuery(&n.Kids[i])
			if k.Op == index.Everything {
				return k
			}
			q.Kids = append(q.Kids, k)
		}
		return q
	}
	return index.Query{}
}

// ofWords reports whether filters answer the need as the index does: it asks for whole words only.
func ofWords(n *query.Need) bool {
	switch n.Op {
	case query.NeedWord:
		return true
	case query.NeedAll, query.NeedAny:
		return !slices.ContainsFunc(n.Kids, func(k query.Need) bool { return !ofWords(&k) })
	}
	return false
}

// settled reports whether the index answers the need in full, so that filters have nothing to add.
func settled(n *query.Need) bool {
	switch n.Op {
	case query.NeedWord:
		_, whole := block.IndexTerm(n.Text)
		return whole
	case query.NeedAll, query.NeedAny:
		for i := range n.Kids {
			if !settled(&n.Kids[i]) {
				return false
			}
		}
	}
	return true
}
