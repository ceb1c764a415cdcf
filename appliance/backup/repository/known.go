package repository

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/triward/triward/appliance/backup/target"
)

// known is what earlier saves stored that a new one may be made of.
type known struct {
	where map[pieceKey]location
	files map[string]savedFile
	avoid map[string]bool // packs that are as good as gone
}

type location struct {
	pack  *packEntry
	place int
}

func (k *known) has(id pieceKey) bool { _, ok := k.where[id]; return ok }

const (
	lookAtSaves = 2 // newest ones that are looked at for pieces
	// A pack of which the newest save needs less than a third is given up: the next save stores what it needs of it
	// again, and it goes with the last save that needs it. So are small packs once there are many.
	usedAtLeast  = 3
	smallPack    = packSize / 8
	manySmall    = 32
	listedEnough = 1 << 20 // packs of a repository that are listed
)

// known finds what a save may be made of: pieces of the newest saves whose packs are there and not about to go.
func (r *Repository) known(ctx context.Context, log *slog.Logger) (*known, error) {
	k := &known{where: make(map[pieceKey]location), files: make(map[string]savedFile), avoid: make(map[string]bool)}
	doomed, err := r.doomed(ctx)
	if err != nil {
		return nil, err
	}
	saves, err := r.Saves(ctx)
	if err != nil {
		return nil, err
	}
	there := make(map[string]int64)
	err = r.store.List(ctx, prefixPack, func(i target.Item) error {
		if there[i.Name] = i.Size; len(there) > listedEnough {
			return fmt.Errorf("repository %s has more than %d packs", r.store, listedEnough)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	looked := 0
	for i := len(saves) - 1; i >= 0 && looked < lookAtSaves; i-- {
		s, err := r.load(ctx, saves[i].Name)
		if errors.Is(err, ErrNoSave) { // removed meanwhile
			continue
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			log.Warn("an earlier save cannot be read: what it holds is stored again", "save", saves[i].Name, "err", err)
			continue
		}
		if looked == 0 {
			k.giveUp(s.body.Packs)
		}
		looked++
		k.learn(s.body, func(pack string) bool {
			_, ok := there[pack]
			return ok && !doomed[pack] && !k.avoid[pack]
		})
	}
	return k, nil
}

// giveUp decides which packs are not worth to be kept.
func (k *known) giveUp(packs []packEntry) {
	var small []string
	for i := range packs {
		p := &packs[i]
		live := int64(0)
		for j := range p.Pieces {
			live += p.Pieces[j].Len
		}
		if live*usedAtLeast < p.Size {
			k.avoid[p.Name] = true
		}
		if p.Size < smallPack {
			small = append(small, p.Name)
		}
	}
	if len(small) > manySmall {
		for _, name := range small {
			k.avoid[name] = true
		}
	}
}

// learn takes up the pieces and files of a save that are good for another.
func (k *known) learn(b *saveBody, usable func(pack string) bool) {
	var ids []pieceKey
	for i := range b.Packs {
		good := usable(b.Packs[i].Name)
		for j := range b.Packs[i].Pieces {
			id := pieceKey(b.Packs[i].Pieces[j].ID)
			ids = append(ids, id)
			if _, have := k.where[id]; good && !have {
				k.where[id] = location{&b.Packs[i], j}
			}
		}
	}
	for i := range b.Files {
		f := &b.Files[i]
		if _, have := k.files[f.Name]; have || f.SHA256 == "" {
			continue
		}
		s := savedFile{name: f.Name, size: f.Size, sum: f.SHA256}
		for _, n := range f.Pieces {
			s.pieces = append(s.pieces, ids[n])
		}
		k.files[f.Name] = s
	}
}

// busyMark says who is writing.
type busyMark struct {
	Node    string `json:"node"`
	Process string `json:"process"`
	At      int64  `json:"at"` // by the clock of the node, milliseconds since 1970
}

const maxMark = 64 << 20

// begin marks that a save is under way: from then on nothing is removed that was not marked before. Other marks of the
// same node, which makes one save at a time, are of saves that are gone, and are cleared. With an error the mark of the
// name that is returned may be there.
func (r *Repository) begin(ctx context.Context, node, process string, at int64) (name string, err error) {
	name = prefixBusy + newID()
	body, err := json.Marshal(busyMark{node, process, at})
	if err != nil {
		return name, fmt.Errorf("encode mark: %w", err)
	}
	if err := putBytes(ctx, r.store, name, body); err != nil {
		return name, fmt.Errorf("mark a save in %s: %w", r.store, err)
	}
	marks, err := r.busy(ctx)
	if err != nil {
		return name, err
	}
	for other, m := range marks {
		if other != name && m.Node == node {
			if err := r.store.Remove(ctx, other); err != nil && !errors.Is(err, target.ErrAbsent) {
				return name, err
			}
		}
	}
	return name, nil
}

// busy returns the marks of saves under way.
func (r *Repository) busy(ctx context.Context) (map[string]busyMark, error) {
	names, err := r.names(ctx, prefixBusy)
	if err != nil {
		return nil, err
	}
	out := make(map[string]busyMark)
	for _, name := range names {
		var m busyMark
		ok, err := r.mark(ctx, name, &m)
		if errors.Is(err, errMark) {
			m, ok, err = busyMark{}, true, nil // no save's: it is as old as can be, and goes with the next sweep
		}
		if err != nil {
			return nil, err
		}
		if ok {
			out[name] = m
		}
	}
	return out, nil
}

func (r *Repository) names(ctx context.Context, prefix string) (out []string, err error) {
	err = r.store.List(ctx, prefix, func(i target.Item) error { out = append(out, i.Name); return nil })
	return out, err
}

// mark reads a mark, which may go meanwhile.
func (r *Repository) mark(ctx context.Context, name string, v any) (bool, error) {
	b, err := getBytes(ctx, r.store, name, maxMark)
	if errors.Is(err, target.ErrAbsent) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return false, fmt.Errorf("%s in %s: %w: %w", name, r.store, errMark, err)
	}
	return true, nil
}

// errMark says that a mark cannot be read.
var errMark = errors.New("this mark is unusable; look at it and remove it")

// stillBusy makes sure that nobody took our mark away.
func (r *Repository) stillBusy(ctx context.Context, name string) error {
	in, _, err := r.store.Open(ctx, name)
	if errors.Is(err, target.ErrAbsent) {
		return ErrOvertaken
	}
	if err != nil {
		return err
	}
	return in.Close()
}

// dropMark names packs that are about to be removed.
type dropMark struct {
	Packs []string `json:"packs"`
}

// doomed returns the packs that somebody is about to remove, or was when he was interrupted.
func (r *Repository) doomed(ctx context.Context) (map[string]bool, error) {
	out := make(map[string]bool)
	names, err := r.names(ctx, prefixDrop)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		var d dropMark
		if ok, err := r.mark(ctx, name, &d); err != nil || !ok {
			if err != nil {
				return nil, err
			}
			continue
		}
		for _, p := range d.Packs {
			if strings.HasPrefix(p, prefixPack) {
				out[p] = true
			}
		}
	}
	return out, nil
}
