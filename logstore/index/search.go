package index

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/bits"
	"runtime/debug"

	bleveindex "github.com/blevesearch/bleve_index_api"
)

// Op is the operator of a Query.
type Op uint8

// Operators.
const (
	Everything Op = iota
	And
	Or
	Term
	Prefix
)

// Query asks for blocks by their terms.
type Query struct {
	Op     Op
	Kids   []Query
	Text   string
	Accept func(term string) bool // of Prefix: which of the terms count; nil for all
}

const (
	// maxPrefixTerms bounds the terms that a prefix is expanded to; beyond it every block may match.
	maxPrefixTerms = 2000
	// termsAtOnce is how many terms are read between two looks at the context.
	termsAtOnce = 256
)

// Find returns the ids of the blocks that match, as of now. When all is true every block may match and ids is
// nil. The files that the answer is from have their checksums when it returns. An error that wraps ErrUnusable asks for Drop.
func (d *Days) Find(ctx context.Context, dayNo int64, name Name, q *Query) (ids map[uint64]struct{}, all bool, err error) {
	h, err := d.hold(dayName{dayNo, name})
	if err != nil {
		return nil, false, err
	}
	defer d.release(h)
	defer rescue(&err)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	r, err := h.raw.Reader()
	if err != nil {
		return nil, false, fmt.Errorf("%w: %s: %w", ErrUnusable, h.path, err)
	}
	defer func() { _ = r.Close() }() // nothing was written
	f := finder{ctx: ctx, r: r}
	set, all, err := f.eval(q)
	if ctx.Err() != nil {
		return nil, false, ctx.Err()
	}
	if err == nil && !all {
		if ids, err = f.ids(set); err == nil {
			err = checkSums(r)
		}
	}
	if err != nil {
		return nil, false, fmt.Errorf("%w: %s: %w", ErrUnusable, h.path, err)
	}
	return ids, all, nil
}

type finder struct {
	ctx context.Context
	r   bleveindex.IndexReader
	doc bleveindex.TermFieldDoc
}

// docs is a set of Bleve's document numbers.
type docs []uint64

func (s *docs) add(n uint64) {
	for uint64(len(*s))*64 <= n {
		*s = append(*s, 0)
	}
	(*s)[n/64] |= 1 << (n % 64)
}

func (f *finder) eval(q *Query) (set docs, all bool, err error) {
	switch q.Op {
	case Term:
		err = f.term(q.Text, &set)
		return set, false, err
	case Prefix:
		return f.prefix(q)
	case And:
		all = true
		for i := range q.Kids {
			k, kall, err := f.eval(&q.Kids[i])
			switch {
			case err != nil:
				return nil, false, err
			case kall:
			case all:
				set, all = k, false
			default:
				set = set[:min(len(set), len(k))]
				for j := range set {
					set[j] &= k[j]
				}
			}
		}
		return set, all, nil
	case Or:
		for i := range q.Kids {
			k, kall, err := f.eval(&q.Kids[i])
			if err != nil || kall {
				return nil, kall, err
			}
			for len(set) < len(k) {
				set = append(set, 0)
			}
			for j, w := range k {
				set[j] |= w
			}
		}
		return set, false, nil
	}
	return nil, true, nil
}

func (f *finder) term(term string, set *docs) error {
	r, err := f.r.TermFieldReader(f.ctx, []byte(term), field, false, false, false)
	if err != nil {
		return err
	}
	for {
		doc, err := r.Next(&f.doc)
		if err != nil || doc == nil {
			if cerr := r.Close(); err == nil {
				err = cerr
			}
			return err
		}
		if len(doc.ID) != 8 {
			_ = r.Close()
			return fmt.Errorf("document number of %d bytes", len(doc.ID))
		}
		set.add(binary.BigEndian.Uint64(doc.ID))
	}
}

func (f *finder) prefix(q *Query) (set docs, all bool, err error) {
	var terms []string
	err = f.terms(q.Text, func(term string, _ uint64) bool {
		if q.Accept == nil || q.Accept(term) {
			terms = append(terms, term)
		}
		return len(terms) <= maxPrefixTerms
	})
	if err != nil || len(terms) > maxPrefixTerms {
		return nil, err == nil, err
	}
	for i, t := range terms {
		if i%termsAtOnce == 0 && f.ctx.Err() != nil {
			return nil, false, f.ctx.Err()
		}
		if err := f.term(t, &set); err != nil {
			return nil, false, err
		}
	}
	return set, false, nil
}

// terms calls fn for the terms that begin with a prefix, in their order, with how many blocks each is in, until it returns false.
func (f *finder) terms(prefix string, fn func(term string, blocks uint64) bool) (err error) {
	dict, err := f.r.FieldDictPrefix(field, []byte(prefix))
	if err != nil {
		return err
	}
	defer func() {
		if cerr := dict.Close(); err == nil {
			err = cerr
		}
	}()
	for i := 1; ; i++ {
		if i%termsAtOnce == 0 && f.ctx.Err() != nil { // Bleve does not look at it
			return f.ctx.Err()
		}
		t, err := dict.Next()
		if err != nil || t == nil || !fn(t.Term, t.Count) {
			return err
		}
	}
}

func (f *finder) ids(set docs) (map[uint64]struct{}, error) {
	out := map[uint64]struct{}{}
	for k, w := range set {
		for ; w != 0; w &= w - 1 {
			n := uint64(k*64 + bits.TrailingZeros64(w))
			id, err := f.r.ExternalID(bleveindex.NewIndexInternalID(nil, n))
			if err != nil {
				return nil, err
			}
			if len(id) != 8 {
				return nil, fmt.Errorf("document called %q", id)
			}
			out[binary.BigEndian.Uint64([]byte(id))] = struct{}{}
		}
	}
	return out, nil
}

// Holds reports whether there is a document of a block. An error that wraps ErrUnusable asks for Drop.
func (d *Days) Holds(dayNo int64, name Name, id uint64) (holds bool, err error) {
	h, err := d.hold(dayName{dayNo, name})
	if err != nil {
		return false, err
	}
	defer d.release(h)
	defer rescue(&err)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	r, err := h.raw.Reader()
	if err != nil {
		return false, fmt.Errorf("%w: %s: %w", ErrUnusable, h.path, err)
	}
	defer func() { _ = r.Close() }() // nothing was written
	have, err := r.InternalID(docID(id))
	if err == nil {
		err = checkSums(r)
	}
	if err != nil {
		return false, fmt.Errorf("%w: %s: %w", ErrUnusable, h.path, err)
	}
	return have != nil, nil
}
