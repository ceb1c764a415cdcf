package index

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
)

// TermCount is a term of an index and how many blocks have it.
type TermCount struct {
	Term   string
	Blocks uint64
}

// Terms returns the terms of an index that begin with a prefix, in their order and at most limit, with the number of blocks
// that have them, which may count blocks that are gone. Like the answers of Find they are of files that have their checksums,
// but blocks may have come and gone since: they are hints. An error that wraps ErrUnusable asks for Drop.
func (d *Days) Terms(ctx context.Context, dayNo int64, name Name, prefix string, limit int) (terms []TermCount, err error) {
	h, err := d.hold(dayName{dayNo, name})
	if err != nil {
		return nil, err
	}
	defer d.release(h)
	defer func() {
		if err != nil {
			terms = nil // a panic left some
		}
	}()
	defer rescue(&err)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	r, err := h.raw.Reader()
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrUnusable, h.path, err)
	}
	defer func() { _ = r.Close() }() // nothing was written
	f := finder{ctx: ctx, r: r}
	err = f.terms(prefix, func(term string, blocks uint64) bool {
		if len(terms) < limit {
			terms = append(terms, TermCount{term, blocks})
		}
		return len(terms) < limit
	})
	switch cerr := ctx.Err(); {
	case cerr != nil && errors.Is(err, cerr):
		return nil, cerr
	case err == nil:
		err = checkSums(r)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrUnusable, h.path, err)
	}
	return terms, nil
}
