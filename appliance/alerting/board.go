package alerting

import (
	"encoding/json"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"github.com/triward/triward/appliance/alerting/route"
	"github.com/triward/triward/appliance/alerting/rules"
	"github.com/triward/triward/appliance/alerting/state"
)

// board is the decoded image of this package's buckets on this node. What changed in the metadata is noted and read
// again before the next look.
type board struct {
	meta  Meta
	parse func(name string, body []byte) (*rules.File, error)
	log   *slog.Logger

	dirtyMu sync.Mutex
	dirty   map[[2]string]struct{}
	all     bool // read everything again

	mu       sync.RWMutex // guards what follows; records themselves never change
	alerts   map[string]heldAlert
	byRule   map[string]map[string]*state.Alert
	groups   map[string]held[*state.Group]
	claims   map[string]held[*state.Claim]
	silences map[string]*heldSilence
	files    map[string]*heldFile
	routes   heldRoutes
	health   map[string]held[Health]
	history  []string // keys, ascending
	rulesGen uint64   // counts changes of files
	muteGen  uint64   // counts changes of silences
}

func newBoard(meta Meta, parse func(string, []byte) (*rules.File, error), log *slog.Logger) *board {
	return &board{meta: meta, parse: parse, log: log, dirty: make(map[[2]string]struct{}), all: true}
}

// maxDirty is how many changes are noted one by one.
const maxDirty = 100_000

// note marks a key as changed. It never blocks.
func (b *board) note(bucket, key string) {
	b.dirtyMu.Lock()
	defer b.dirtyMu.Unlock()
	if key == "" || len(b.dirty) >= maxDirty {
		b.all = true
		clear(b.dirty)
	}
	if !b.all {
		b.dirty[[2]string{bucket, key}] = struct{}{}
	}
}

// refresh reads what changed.
func (b *board) refresh() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dirtyMu.Lock()
	all, dirty := b.all, b.dirty
	if !all && len(dirty) == 0 {
		b.dirtyMu.Unlock()
		return
	}
	b.all, b.dirty = false, make(map[[2]string]struct{})
	b.dirtyMu.Unlock()
	if all {
		b.reload()
		return
	}
	for k := range dirty {
		v, ok := b.meta.Get(k[0], k[1])
		b.take(k[0], k[1], v, ok)
	}
}

func (b *board) reload() {
	b.alerts, b.byRule = make(map[string]heldAlert), make(map[string]map[string]*state.Alert)
	b.groups, b.claims = make(map[string]held[*state.Group]), make(map[string]held[*state.Claim])
	b.silences, b.files, b.health = make(map[string]*heldSilence), make(map[string]*heldFile), make(map[string]held[Health])
	b.routes, b.history = heldRoutes{}, nil
	b.rulesGen++
	b.muteGen++
	for _, bucket := range []string{BucketRules, BucketRoutes, BucketSilences, BucketAlerts, BucketGroups, BucketSends, BucketHealth, BucketHistory} {
		b.meta.Scan(bucket, "", func(key string, v Value) bool {
			b.take(bucket, key, v, true)
			return true
		})
	}
}

// decode reads a record; what cannot be read is as if absent, and said.
func decode[T any](b *board, bucket, key string, v Value) (rec T, ok bool) {
	if err := json.Unmarshal(v.Data, &rec); err != nil {
		b.log.Error("a record cannot be read", "bucket", bucket, "key", key, "err", err)
		return rec, false
	}
	return rec, true
}

// take puts one key as it is now in its place.
func (b *board) take(bucket, key string, v Value, ok bool) {
	switch bucket {
	case BucketAlerts:
		b.takeAlert(key, v, ok)
	case BucketGroups:
		put(b, b.groups, bucket, key, v, ok)
	case BucketSends:
		put(b, b.claims, bucket, key, v, ok)
	case BucketHealth:
		put(b, b.health, bucket, key, v, ok)
	case BucketHistory:
		at, there := slices.BinarySearch(b.history, key)
		switch {
		case ok && !there:
			b.history = slices.Insert(b.history, at, key)
		case !ok && there:
			b.history = slices.Delete(b.history, at, at+1)
		}
	case BucketSilences:
		b.takeSilence(key, v, ok)
	case BucketRules:
		b.takeFile(key, v, ok)
	case BucketRoutes:
		if key == keyRoutes {
			b.takeRoutes(v, ok)
		}
	}
}

func put[T any](b *board, into map[string]held[T], bucket, key string, v Value, ok bool) {
	delete(into, key)
	if !ok {
		return
	}
	if rec, ok := decode[T](b, bucket, key, v); ok {
		into[key] = held[T]{rec, v.ModIndex}
	}
}

func (b *board) takeAlert(key string, v Value, ok bool) {
	if old, had := b.alerts[key]; had {
		delete(b.alerts, key)
		delete(b.byRule[old.rec.Rule], key)
		if len(b.byRule[old.rec.Rule]) == 0 {
			delete(b.byRule, old.rec.Rule)
		}
	}
	if !ok {
		return
	}
	rec, ok := decode[*state.Alert](b, BucketAlerts, key, v)
	if !ok || rec == nil {
		return
	}
	b.alerts[key] = heldAlert{rec, v.ModIndex}
	if b.byRule[rec.Rule] == nil {
		b.byRule[rec.Rule] = make(map[string]*state.Alert)
	}
	b.byRule[rec.Rule][key] = rec
}

func (b *board) takeSilence(key string, v Value, ok bool) {
	b.muteGen++
	delete(b.silences, key)
	if !ok {
		return
	}
	rec, ok := decode[route.Silence](b, BucketSilences, key, v)
	if !ok {
		return
	}
	s := &heldSilence{rec: rec, mod: v.ModIndex}
	var err error
	if s.matchers, err = rec.Compile(); err != nil {
		b.log.Error("a silence cannot be used", "silence", key, "err", err)
		return
	}
	b.silences[key] = s
}

func (b *board) takeFile(key string, v Value, ok bool) {
	b.rulesGen++
	delete(b.files, key)
	if !ok {
		return
	}
	rec, ok := decode[FileRecord](b, BucketRules, key, v)
	if !ok {
		return
	}
	f := &heldFile{rec: rec, mod: v.ModIndex}
	if f.parsed, f.err = b.parse(rec.Name, []byte(rec.Body)); f.err != nil {
		b.log.Error("a rule file cannot be used", "file", key, "err", f.err)
	}
	for _, r := range f.refused() {
		b.log.Error("a rule cannot be evaluated any more", "rule", r.ID, "err", r.Refused)
	}
	b.files[key] = f
}

func (b *board) takeRoutes(v Value, ok bool) {
	b.routes = heldRoutes{}
	if !ok {
		return
	}
	rec, ok := decode[RoutesRecord](b, BucketRoutes, keyRoutes, v)
	if !ok {
		return
	}
	b.routes = heldRoutes{rec: rec, mod: v.ModIndex}
	if b.routes.cfg, b.routes.err = route.Parse([]byte(rec.Body)); b.routes.err != nil {
		b.log.Error("the routes cannot be used", "err", b.routes.err)
	}
}

// active reports whether a rule of the file is evaluated.
func (f *heldFile) active(r *rules.Rule) bool {
	return !f.rec.Disabled && !f.rec.Removed && !slices.Contains(f.rec.Off, r.Name)
}

// refused are the rules of the file, of those to be evaluated, whose queries this version does not take.
func (f *heldFile) refused() (list []*rules.Rule) {
	if f.parsed == nil {
		return nil
	}
	for gi := range f.parsed.Groups {
		g := &f.parsed.Groups[gi]
		for ri := range g.Rules {
			if r := &g.Rules[ri]; r.Refused != "" && f.active(r) {
				list = append(list, r)
			}
		}
	}
	return list
}

// fileNames returns the names of the files in order. mu is held.
func (b *board) fileNames() []string { return slices.Sorted(maps.Keys(b.files)) }
