package repository

import (
	"errors"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/triward/triward/appliance/backup/container"
)

// cut makes an object end a byte early.
func (p *place) cut(t *testing.T, name string) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.objects[name]) == 0 {
		t.Fatalf("there is no %s", name)
	}
	p.objects[name] = p.objects[name][:len(p.objects[name])-1]
}

// TestCheckAll reads all of a repository, with and without its key: what is damaged in any of it is named, not only what
// the newest save needs.
func TestCheckAll(t *testing.T) {
	for _, encrypted := range []bool{false, true} {
		id, p := newIdentity(t), newPlace()
		scope := someScope
		if encrypted {
			scope.Recipients = []string{id.Recipient().String()}
		}
		r := opened(t, &client{place: p}, scope, newSecret(t, encrypted))
		h := newHistory(t, 2)
		old, _ := saved(t, r, h.states[0], "one")
		first := packsIn(p)
		saved(t, r, h.states[1], "two")
		var segments []Segment
		for _, span := range [][2]uint64{{1, 150}, {151, 300}} {
			s, err := r.WriteSegment(t.Context(), SegmentAbout{Node: "n1"}, entries(span[0], span[1]))
			if err != nil {
				t.Fatal(err)
			}
			segments = append(segments, s)
		}
		with, err := Look(t.Context(), &client{place: p}, []age.Identity{id})
		if err != nil {
			t.Fatal(err)
		}
		without, err := Look(t.Context(), &client{place: p}, nil)
		if err != nil {
			t.Fatal(err)
		}
		readers := map[string]*Repository{"with the key": with, "without": without}
		for name, look := range readers {
			got, err := look.CheckAll(t.Context(), nil)
			if err != nil || got.Saves != 2 || got.Segments != 2 || got.Packs < 2 || got.Bytes == 0 || got.Opened != (!encrypted || look == with) {
				t.Errorf("%s: %+v, %v", name, got, err)
			}
		}
		p.cut(t, segments[0].Name)
		p.cut(t, old)
		p.cut(t, first[0])
		for name, look := range readers {
			_, err := look.CheckAll(t.Context(), nil)
			if !errors.Is(err, container.ErrDamaged) {
				t.Errorf("%s: %v", name, err)
				continue
			}
			for _, object := range []string{segments[0].Name, old, first[0]} {
				if !strings.Contains(err.Error(), object) {
					t.Errorf("%s: %s is not named: %v", name, object, err)
				}
			}
		}
	}
}

func packsIn(p *place) (names []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name := range p.objects {
		if isPack(name) {
			names = append(names, name)
		}
	}
	return names
}

// lossy is a place that keeps less than it was given of some objects.
type lossy struct{ client }

func (l *lossy) spoil(prefix string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, b := range l.objects {
		if strings.HasPrefix(name, prefix) {
			l.objects[name] = b[:len(b)-1]
		}
	}
}

// TestSegmentsAreReadBack stores a segment in a place that loses a part of it: the archive does not count on it.
func TestSegmentsAreReadBack(t *testing.T) {
	for _, encrypted := range []bool{false, true} {
		scope := someScope
		if encrypted {
			scope.Recipients = []string{newIdentity(t).Recipient().String()}
		}
		l := &lossy{client{place: newPlace()}}
		stored := false
		l.step = func(what string) error {
			if strings.HasPrefix(what, "put log-") {
				stored = true
			} else if stored {
				l.spoil(prefixLog)
			}
			return nil
		}
		r := opened(t, l, scope, newSecret(t, encrypted))
		if _, err := r.WriteSegment(t.Context(), SegmentAbout{Node: "n1"}, entries(1, 10)); !errors.Is(err, container.ErrDamaged) {
			t.Errorf("encrypted %t: %v", encrypted, err)
		}
		l.step = nil
		if left, err := r.Segments(t.Context()); err != nil || len(left) > 0 {
			t.Errorf("encrypted %t: left %v, %v", encrypted, left, err)
		}
	}
}

// TestReplayPassesOverADamagedSegment replays where one of two segments that cover the same is damaged, and where there
// is only the damaged one.
func TestReplayPassesOverADamagedSegment(t *testing.T) {
	p := newPlace()
	r := opened(t, &client{place: p}, someScope, newSecret(t, false))
	var written []Segment
	for _, span := range [][2]uint64{{11, 30}, {11, 20}, {18, 40}} {
		s, err := r.WriteSegment(t.Context(), SegmentAbout{Node: "n1"}, entries(span[0], span[1]))
		if err != nil {
			t.Fatal(err)
		}
		written = append(written, s)
	}
	replay := func() (last uint64, err error) {
		last = 10
		err = r.Replay(t.Context(), 10, 0, func(e Entry) error {
			if e.Index != last+1 {
				t.Errorf("entry %d comes behind %d", e.Index, last)
			}
			last = e.Index
			return nil
		})
		return last, err
	}
	p.cut(t, written[0].Name)
	if last, err := replay(); err != nil || last != 40 {
		t.Errorf("to %d, %v", last, err)
	}
	p.cut(t, written[2].Name)
	if last, err := replay(); !errors.Is(err, container.ErrDamaged) || !strings.Contains(err.Error(), written[2].Name) {
		t.Errorf("to %d, %v", last, err)
	}
}

// TestHistoriesAreNotMixed archives entries of a cluster that was set back and went on in another way behind those of the
// first: neither a replay nor a check takes them for one log.
func TestHistoriesAreNotMixed(t *testing.T) {
	r := opened(t, &client{place: newPlace()}, someScope, newSecret(t, false))
	inTerm := func(from, to, term uint64) {
		t.Helper()
		list := entries(from, to)
		for i := range list {
			list[i].Term = term
		}
		if _, err := r.WriteSegment(t.Context(), SegmentAbout{Node: "n1"}, list); err != nil {
			t.Fatal(err)
		}
	}
	inTerm(11, 20, 5)
	if term, err := r.TermAt(t.Context(), 20); err != nil || term != 5 {
		t.Errorf("term %d, %v", term, err)
	}
	inTerm(21, 30, 3)
	last := uint64(0)
	err := r.Replay(t.Context(), 10, 0, func(e Entry) error { last = e.Index; return nil })
	if !errors.Is(err, ErrHistory) || last != 20 {
		t.Errorf("replayed to %d, %v", last, err)
	}
	if _, err := r.CheckAll(t.Context(), nil); !errors.Is(err, ErrHistory) {
		t.Error(err)
	}
	inTerm(20, 25, 7) // the same entry of another term
	if err := r.Replay(t.Context(), 10, 25, func(Entry) error { return nil }); !errors.Is(err, ErrHistory) {
		t.Error(err)
	}
}

// TestAnotherSecretIsRefused opens a repository with another secret than it was made with: what is written with that could
// never be read.
func TestAnotherSecretIsRefused(t *testing.T) {
	for _, encrypted := range []bool{false, true} {
		p, scope := newPlace(), someScope
		if encrypted {
			scope.Recipients = []string{newIdentity(t).Recipient().String()}
		}
		secret := newSecret(t, encrypted)
		opened(t, &client{place: p}, scope, secret)
		opened(t, &client{place: p}, scope, secret)
		if _, err := Open(t.Context(), &client{place: p}, &scope, newSecret(t, encrypted)); !errors.Is(err, ErrForeign) {
			t.Errorf("encrypted %t: %v", encrypted, err)
		}
	}
}

// TestMarksDoNotStay: a save that fails as it begins leaves no mark, and one that is no mark at all stands in nobody's way.
func TestMarksDoNotStay(t *testing.T) {
	h := newHistory(t, 2)
	p := newPlace()
	c := &client{place: p}
	r := opened(t, c, someScope, newSecret(t, false))
	failed := false
	c.step = func(what string) error {
		if what == "list "+prefixBusy && !failed {
			failed = true
			return errors.New("the place does not answer")
		}
		return nil
	}
	if _, _, _, err := r.Save(t.Context(), imageState{h.states[0].image()}, request(h.states[0], "r1")); err == nil || !failed {
		t.Fatal("the save did not fail")
	}
	if left, err := r.names(t.Context(), prefixBusy); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
	if err := putBytes(t.Context(), c, prefixBusy+"cut", []byte(`{"no`)); err != nil {
		t.Fatal(err)
	}
	saved(t, r, h.states[0], "r2")
	if err := putBytes(t.Context(), c, prefixPack+strings.Repeat("0", 64), []byte("of a save that was killed")); err != nil {
		t.Fatal(err)
	}
	if sw, err := r.Sweep(t.Context(), busyForGood.Milliseconds()); err != nil || sw.Busy || sw.Packs == 0 || leftOver(t, r) != 0 {
		t.Errorf("%+v, %v", sw, err)
	}
}

// TestALogWithoutSavesGoes: nothing can be replayed without a save, but one that is under way may be its first.
func TestALogWithoutSavesGoes(t *testing.T) {
	p := newPlace()
	r := opened(t, &client{place: p}, someScope, newSecret(t, false))
	for _, span := range [][2]uint64{{1, 50}, {21, 40}} {
		if _, err := r.WriteSegment(t.Context(), SegmentAbout{Node: "n1"}, entries(span[0], span[1])); err != nil {
			t.Fatal(err)
		}
	}
	mark, err := r.begin(t.Context(), "n2", "p", 10)
	if err != nil {
		t.Fatal(err)
	}
	if sw, err := r.Sweep(t.Context(), 10); err != nil || sw.Segments != 0 || !sw.Busy {
		t.Errorf("beside a save: %+v, %v", sw, err)
	}
	if err := r.store.Remove(t.Context(), mark); err != nil {
		t.Fatal(err)
	}
	if sw, err := r.Sweep(t.Context(), 10); err != nil || sw.Segments != 2 {
		t.Errorf("%+v, %v", sw, err)
	}
}
