package repository

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

var errDead = errors.New("the process is dead")

// everySaveReads makes sure that whatever can be seen is whole.
func everySaveReads(t *testing.T, p *place, want map[uint64][]byte, when string) {
	t.Helper()
	r, err := Look(context.Background(), &client{place: p}, nil)
	if err != nil {
		t.Fatalf("%s: %v", when, err)
	}
	saves, err := r.Saves(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range saves {
		got, _, err := image(r, s.Name)
		if err != nil || !bytes.Equal(got, want[s.Index]) {
			t.Fatalf("%s: save %s is damaged: %v", when, s.Name, err)
		}
	}
}

// history is a cluster's state at a few indexes: each shares files with the one before.
type history struct {
	states []*state
	bytes  map[uint64][]byte
}

func newHistory(t *testing.T, n int) *history {
	h := &history{bytes: make(map[uint64][]byte)}
	for i := range n {
		s := newState(t)
		s.index = uint64(i + 1)
		for j := range 4 {
			s.write(fmt.Sprintf("logs/pebble/%06d.sst", i+j), someBytes(uint64(i+j), 2000))
		}
		h.states, h.bytes[s.index] = append(h.states, s), s.bytes()
	}
	return h
}

// nothingIsMissing makes sure that the packs of all saves that can be seen are there.
func nothingIsMissing(t *testing.T, r *Repository, when string) {
	t.Helper()
	saves, err := r.Saves(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	p := r.store.(*client).place
	for _, s := range saves {
		m, err := r.openManifest(context.Background(), s.Name)
		if err != nil {
			t.Fatal(err)
		}
		for _, pack := range m.list {
			if _, ok := p.objects[pack]; !ok {
				t.Fatalf("%s: save %s is damaged: %s is gone", when, s.Name, pack)
			}
		}
	}
}

// TestEveryPrefixOfOperations stops a save, the removal of an old one and a sweep after each of their operations: what
// can be seen then is whole, and the next save and sweep put things in order.
func TestEveryPrefixOfOperations(t *testing.T) {
	h := newHistory(t, 4)
	secret := newSecret(t, false)
	for stop := 0; ; stop++ {
		p := newPlace()
		first, _ := saved(t, opened(t, &client{place: p}, someScope, secret), h.states[0], "r1")
		saved(t, opened(t, &client{place: p}, someScope, secret), h.states[1], "r2")
		ops := 0
		dying := &client{place: p, step: func(string) error {
			if ops++; ops > stop {
				return errDead
			}
			return nil
		}}
		err := func() error {
			r, err := Open(t.Context(), dying, &someScope, secret)
			if err != nil {
				return err
			}
			if _, _, _, err := r.Save(t.Context(), imageState{h.states[2].image()}, request(h.states[2], "r3")); err != nil {
				return err
			}
			if err := r.Remove(t.Context(), first); err != nil {
				return err
			}
			_, err = r.Sweep(t.Context(), 10)
			return err
		}()
		everySaveReads(t, p, h.bytes, fmt.Sprintf("stopped after %d operations", stop))
		// The node comes up again and goes on.
		r := opened(t, &client{place: p}, someScope, secret)
		req := request(h.states[3], "r4")
		req.Process = "p2"
		if _, _, _, err := r.Save(t.Context(), imageState{h.states[3].image()}, req); err != nil {
			t.Fatalf("stopped after %d operations: the next save: %v", stop, err)
		}
		if sw, err := r.Sweep(t.Context(), 20); err != nil || sw.Busy {
			t.Fatalf("stopped after %d operations: the next sweep: %+v, %v", stop, sw, err)
		}
		everySaveReads(t, p, h.bytes, fmt.Sprintf("stopped after %d operations, and gone on", stop))
		if left := leftOver(t, r); left != 0 {
			t.Fatalf("stopped after %d operations: %d objects are left that nothing needs", stop, left)
		}
		if err == nil {
			if stop < 15 {
				t.Fatalf("only %d operations", stop)
			}
			return
		}
		if !errors.Is(err, errDead) {
			t.Fatal(err)
		}
	}
}

// leftOver counts packs that no save needs, and marks.
func leftOver(t *testing.T, r *Repository) int {
	t.Helper()
	packs, _, err := r.unneeded(context.Background())
	busy, err2 := r.names(context.Background(), prefixBusy)
	drop, err3 := r.names(context.Background(), prefixDrop)
	if err := errors.Join(err, err2, err3); err != nil {
		t.Fatal(err)
	}
	return len(packs) + len(busy) + len(drop)
}

// turns lets one operation of one of several processes happen at a time, in an order that a seed alone decides, and kills
// some of them on the way. Some are much faster than others, so that one also acts on what another has finished.
type turns struct {
	rng   *rand.Rand
	ready chan *process
}

type process struct {
	name string
	pace int       // its part of the turns, beside those of the others
	turn chan bool // false: it is dead from here on
	dead bool
	done bool
}

func (tu *turns) client(p *place, pr *process) *client {
	return &client{place: p, step: func(string) error {
		if pr.dead {
			return errDead
		}
		tu.ready <- pr
		if !<-pr.turn {
			pr.dead = true
			return errDead
		}
		return nil
	}}
}

// run runs the processes to their ends. between is called after each operation.
func (tu *turns) run(work map[*process]func(), order []*process, between func()) {
	for _, pr := range order {
		go func() {
			work[pr]()
			pr.done = true
			tu.ready <- pr
		}()
	}
	waiting, running := []*process{}, len(order)
	for running > 0 || len(waiting) > 0 {
		for len(waiting) < running { // until everybody has come to his next operation
			pr := <-tu.ready
			if pr.done {
				running--
				continue
			}
			waiting = append(waiting, pr)
		}
		if len(waiting) == 0 {
			return
		}
		between()
		pr := tu.next(waiting)
		waiting = slices.DeleteFunc(waiting, func(other *process) bool { return other == pr })
		pr.turn <- tu.rng.IntN(60) > 0
	}
}

// next chooses among those that wait. They come in any order, and the choice must not depend on it.
func (tu *turns) next(waiting []*process) *process {
	slices.SortFunc(waiting, func(a, b *process) int { return strings.Compare(a.name, b.name) })
	total := 0
	for _, pr := range waiting {
		total += pr.pace
	}
	at := tu.rng.IntN(total)
	for _, pr := range waiting {
		if at -= pr.pace; at < 0 {
			return pr
		}
	}
	panic("unreachable: at is less than the sum of all paces")
}

// TestManyAtOnce lets two nodes save, two sweep and one remove old saves, interleaved in many ways, each of which may be
// killed at any operation: a save that can be seen is whole at every moment.
func TestManyAtOnce(t *testing.T) {
	h := newHistory(t, 6)
	secret := newSecret(t, false)
	rounds := 600
	if testing.Short() {
		rounds = 100
	}
	var kept, dropped, overtaken int
	for seed := range rounds {
		p := newPlace()
		r := opened(t, &client{place: p}, someScope, secret)
		first, _ := saved(t, r, h.states[0], "r1")
		second, _ := saved(t, r, h.states[1], "r2")
		tu := &turns{rng: rand.New(rand.NewPCG(uint64(seed), 7)), ready: make(chan *process)}
		var order []*process
		work := make(map[*process]func())
		add := func(name string, do func(r *Repository) error) {
			pr := &process{name: name, pace: 1 << tu.rng.IntN(8), turn: make(chan bool)}
			c := tu.client(p, pr)
			order = append(order, pr)
			work[pr] = func() {
				own, err := Open(context.Background(), c, &someScope, secret)
				if err == nil {
					err = do(own)
				}
				if err != nil && !errors.Is(err, errDead) {
					if errors.Is(err, ErrOvertaken) {
						overtaken++
						return
					}
					t.Errorf("seed %d: %s: %v", seed, name, err)
				}
			}
		}
		save := func(i int, node string) func(*Repository) error {
			return func(own *Repository) error {
				req := request(h.states[i], fmt.Sprint("s", i))
				req.About.Node, req.Process = node, node+"1"
				_, _, _, err := own.Save(context.Background(), imageState{h.states[i].image()}, req)
				if err == nil {
					kept++
				}
				return err
			}
		}
		sweep := func(own *Repository) error {
			sw, err := own.Sweep(context.Background(), 10)
			dropped += sw.Packs
			return err
		}
		add("first saver", save(2, "a"))
		add("second saver", save(3, "b"))
		add("first sweeper", sweep)
		add("second sweeper", sweep)
		add("remover", func(own *Repository) error {
			return errors.Join(own.Remove(context.Background(), first), own.Remove(context.Background(), second))
		})
		tu.run(work, order, func() { nothingIsMissing(t, r, fmt.Sprintf("seed %d", seed)) })
		everySaveReads(t, p, h.bytes, fmt.Sprintf("seed %d at the end", seed))
	}
	if kept < rounds || dropped == 0 {
		t.Errorf("%d saves were made and %d packs removed: too little happened to prove anything", kept, dropped)
	}
	t.Logf("%d saves, %d packs removed, %d saves given up", kept, dropped, overtaken)
}

// TestMarkedPacksAreNotUsed saves while somebody may be about to remove a pack: it is not counted on, and once it is
// gone its mark goes too.
func TestMarkedPacksAreNotUsed(t *testing.T) {
	h := newHistory(t, 2)
	p := newPlace()
	r := opened(t, &client{place: p}, someScope, newSecret(t, false))
	first, _ := saved(t, r, h.states[0], "r1")
	packs, err := r.names(t.Context(), prefixPack)
	if err != nil || len(packs) != 1 {
		t.Fatal(packs, err)
	}
	if err := putBytes(t.Context(), r.store, prefixDrop+"late", []byte(`{"packs":["`+packs[0]+`"]}`)); err != nil {
		t.Fatal(err)
	}
	if sw, err := r.Sweep(t.Context(), 10); err != nil || sw.Packs != 0 || p.objects[prefixDrop+"late"] == nil {
		t.Fatalf("what a save needs was removed, or the mark of who is late: %+v, %v", sw, err)
	}
	second, _ := saved(t, r, h.states[1], "r2")
	if err := r.Remove(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	delete(p.objects, packs[0]) // he who was late
	if got, _, err := image(r, second); err != nil || !bytes.Equal(got, h.bytes[2]) {
		t.Errorf("the save counted on what was about to be removed: %v", err)
	}
	if _, err := r.Sweep(t.Context(), 10); err != nil || leftOver(t, r) != 0 {
		t.Errorf("something is left: %v", err)
	}
}

// TestSaveGivenUpByOthers finishes a save whose mark was cleared: it does not count.
func TestSaveGivenUpByOthers(t *testing.T) {
	h := newHistory(t, 1)
	p := newPlace()
	slow := &client{place: p}
	slow.step = func(what string) error {
		if strings.HasPrefix(what, "put "+prefixSave) {
			p.mu.Lock()
			defer p.mu.Unlock()
			for name := range p.objects {
				if strings.HasPrefix(name, prefixBusy) {
					delete(p.objects, name)
				}
			}
		}
		return nil
	}
	r := opened(t, slow, someScope, newSecret(t, false))
	if _, _, _, err := r.Save(t.Context(), imageState{h.states[0].image()}, request(h.states[0], "r1")); !errors.Is(err, ErrOvertaken) {
		t.Error(err)
	}
	if saves, err := r.Saves(t.Context()); err != nil || len(saves) != 0 {
		t.Error(saves, err)
	}
}
