package repository

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/triward/triward/appliance/backup"
	"github.com/triward/triward/appliance/backup/container"
	"github.com/triward/triward/appliance/backup/target"
)

// Checked says what CheckAll has read.
type Checked struct {
	Saves    int   `json:"saves"`
	Packs    int   `json:"packs"`
	Segments int   `json:"segments"` // of the log
	Bytes    int64 `json:"bytes"`
	Opened   bool  `json:"opened"` // every archived entry was looked at, not what was stored alone
}

// maxFaults bounds how much of what is damaged CheckAll names.
const maxFaults = 20

// CheckAll reads all that a restore of any save, at any entry, may need: every save, every pack that one of them is made of
// and every segment of the log, whose entries are looked at when the identities open them. It goes on behind what is
// damaged; the error names it, at most maxFaults. progress, when set, is told of bytes read.
func (r *Repository) CheckAll(ctx context.Context, progress func(n int64)) (out Checked, err error) {
	out.Opened = !r.Encrypted() || len(r.identities) > 0
	var faults []error
	more := 0
	take := func(n int64, err error) {
		out.Bytes += n
		if progress != nil {
			progress(n)
		}
		switch {
		case err == nil:
		case len(faults) < maxFaults:
			faults = append(faults, err)
		default:
			more++
		}
	}
	saves, err := r.Saves(ctx)
	if err != nil {
		return out, err
	}
	packs := make(map[string]string) // and a save that needs it
	for _, s := range saves {
		list, n, err := r.checkSave(ctx, s.Name)
		if errors.Is(err, ErrNoSave) { // removed meanwhile
			continue
		}
		out.Saves++
		take(n, err)
		for _, p := range list {
			packs[p] = s.Name
		}
	}
	names := make([]string, 0, len(packs))
	for p := range packs {
		names = append(names, p)
	}
	slices.Sort(names)
	for _, p := range names {
		if err := ctx.Err(); err != nil {
			return out, err
		}
		n, err := r.checkPack(ctx, p)
		out.Packs++
		if err != nil {
			if errors.Is(err, ErrMissing) && !r.there(ctx, packs[p]) { // both were removed meanwhile
				continue
			}
			err = fmt.Errorf("needed by %s: %w", packs[p], err)
		}
		take(n, err)
	}
	if err := r.checkLog(ctx, &out, take); err != nil {
		return out, err
	}
	if more > 0 {
		faults = append(faults, fmt.Errorf("%d more", more))
	}
	return out, errors.Join(faults...)
}

// checkSave reads the object of a save and returns the packs that it needs.
func (r *Repository) checkSave(ctx context.Context, name string) (packs []string, n int64, err error) {
	m, err := r.openManifest(ctx, name)
	if err != nil {
		return nil, 0, err
	}
	_, err = io.Copy(io.Discard, m.c)
	n = m.c.Consumed()
	if err = errors.Join(err, m.in.Close()); err != nil {
		return m.list, n, fmt.Errorf("%s: %w", name, err)
	}
	return m.list, n, nil
}

func (r *Repository) there(ctx context.Context, name string) bool {
	in, _, err := r.store.Open(ctx, name)
	if err == nil {
		_ = in.Close()
	}
	return err == nil
}

func (r *Repository) checkLog(ctx context.Context, out *Checked, take func(int64, error)) error {
	segments, err := r.Segments(ctx)
	if err != nil {
		return err
	}
	slices.SortFunc(segments, func(a, b Segment) int { return compare(a.Last, b.Last) })
	var before container.Header
	for _, s := range segments {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := r.CheckSegment(ctx, s)
		if errors.Is(err, ErrMissing) { // removed meanwhile
			continue
		}
		out.Segments++
		if err == nil && h.Term < before.Term {
			err = fmt.Errorf("%s: %w", s.Name, otherHistory(h.Index, h.Term, before.Index, before.Term))
		}
		if err == nil {
			before = h
		}
		take(s.Size, err)
	}
	return nil
}

// CheckSegment reads a segment to its end: its entries when the identities open them, otherwise whether it is, byte for
// byte, what was stored.
func (r *Repository) CheckSegment(ctx context.Context, s Segment) (h container.Header, err error) {
	if !r.Encrypted() || len(r.identities) > 0 {
		return r.eachEntry(ctx, s, func(Entry) error { return nil })
	}
	in, _, err := r.store.Open(ctx, s.Name)
	if errors.Is(err, target.ErrAbsent) {
		return h, fmt.Errorf("%w: %s in %s", ErrMissing, s.Name, r.store)
	}
	if err != nil {
		return h, err
	}
	h, _, err = backup.CheckContainer(in)
	if err = errors.Join(err, in.Close()); err == nil {
		err = r.fits(&h, s)
	}
	if err != nil {
		return h, fmt.Errorf("%s: %w", s.Name, err)
	}
	return h, nil
}

// TermAt returns the term of the entry index where a save or a segment ends with it; 0 when none does.
func (r *Repository) TermAt(ctx context.Context, index uint64) (term uint64, err error) {
	saves, err := r.Saves(ctx)
	if err != nil {
		return 0, err
	}
	for _, s := range saves {
		if s.Index != index {
			continue
		}
		h, _, err := r.Inspect(ctx, s.Name)
		return h.Term, err
	}
	segments, err := r.Segments(ctx)
	if err != nil {
		return 0, err
	}
	for _, s := range segments {
		if s.Last != index {
			continue
		}
		in, _, err := r.store.Open(ctx, s.Name)
		if err != nil {
			return 0, err
		}
		c, err := container.NewReader(in)
		if err = errors.Join(err, in.Close()); err != nil {
			return 0, fmt.Errorf("%s: %w", s.Name, err)
		}
		return c.Header.Term, nil
	}
	return 0, nil
}

func otherHistory(index, term, before, beforeTerm uint64) error {
	return fmt.Errorf("%w: entry %d is of term %d, entry %d of term %d", ErrHistory, index, term, before, beforeTerm)
}
