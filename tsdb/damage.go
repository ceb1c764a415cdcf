package tsdb

import (
	"errors"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/encoding"
)

// maxDamage bounds the places that are remembered.
const maxDamage = 1000

// Damaged lists the places where the open store is known to be damaged, at most 1000.
func (s *Store) Damaged() []string {
	g, err := s.hold()
	if err != nil {
		return nil
	}
	defer g.release()
	return g.places()
}

// Dir is the directory of the open store, "" when there is none.
func (s *Store) Dir() string {
	g, err := s.hold()
	if err != nil {
		return ""
	}
	defer g.release()
	return g.dir
}

// Report notes damage that was found from outside, by comparing what the store answers with what it must hold. It is told
// to OnDamage unless the place is known. Damage of a directory that is not open any more is passed over.
func (s *Store) Report(d *DamageError) {
	g, err := s.hold()
	if err != nil {
		return
	}
	defer g.release()
	if d.Dir == "" || d.Dir == g.dir {
		g.damaged(d)
	}
}

// damaged remembers a place and tells of it once.
func (g *generation) damaged(d *DamageError) {
	d.Dir = g.dir
	g.damageMu.Lock()
	old := g.damage[d.File]
	first := old == nil && len(g.damage) < maxDamage
	if first || old != nil && d.Hides && !old.Hides {
		g.damage[d.File] = d
	}
	g.damageMu.Unlock()
	if !first {
		return
	}
	g.log.Error("metrics store is damaged", "dir", g.dir, "place", d.File, "from", d.From, "to", d.To, "error", d.Err)
	if g.opts.OnDamage != nil {
		g.opts.OnDamage(d)
	}
}

func (g *generation) places() []string {
	g.damageMu.Lock()
	defer g.damageMu.Unlock()
	return slices.Sorted(maps.Keys(g.damage))
}

// hidden returns damage that makes answers over [mint, maxt] wrong without anybody noticing.
func (g *generation) hidden(mint, maxt int64) error {
	g.damageMu.Lock()
	defer g.damageMu.Unlock()
	for _, place := range slices.Sorted(maps.Keys(g.damage)) {
		if d := g.damage[place]; d.Hides && d.From <= maxt && d.To > mint {
			return d
		}
	}
	return nil
}

var blockNamed = regexp.MustCompile(`block ([0-9A-HJKMNP-TV-Z]{26})`)

// noticed looks at an error that reading ended with, and remembers it when it tells of damage. It returns the error, which
// matches ErrDamaged then.
func (g *generation) noticed(err error) error {
	if err == nil || errors.Is(err, ErrDamaged) || !tellsOfDamage(err) {
		return err
	}
	d := &DamageError{File: g.dir, Err: err}
	if m := blockNamed.FindStringSubmatch(err.Error()); m != nil {
		if id, perr := ulid.ParseStrict(m[1]); perr == nil && id != (ulid.ULID{}) {
			for _, b := range g.db.Blocks() {
				if meta := b.Meta(); meta.ULID == id {
					d.File, d.From, d.To = b.Dir(), meta.MinTime, meta.MaxTime
				}
			}
		}
	}
	g.damaged(d)
	return d
}

// tellsOfDamage recognises what the library says of bytes that are not what was written. It has no type for all of it.
func tellsOfDamage(err error) bool {
	var corrupt *chunks.CorruptionErr
	if errors.As(err, &corrupt) || errors.Is(err, encoding.ErrInvalidChecksum) || errors.Is(err, encoding.ErrInvalidSize) {
		return true
	}
	text := err.Error()
	return strings.Contains(text, "checksum mismatch") || strings.Contains(text, "doesn't include enough bytes")
}
