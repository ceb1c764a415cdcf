package repair

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/triward/triward/raftstate"
)

// TestRecheck: what is found again stays as it was, what is not is let go, and nothing is when it could not be read.
func TestRecheck(t *testing.T) {
	o := &told{}
	s := service(t, t.TempDir(), o, nil)
	wrong, right := Damage{Part: raftstate.PartLogs, Place: "logs of a day"}, Damage{Part: raftstate.PartMetrics, Place: "a block"}
	other := Damage{Part: raftstate.PartMetrics, Place: "another block"}
	log := Damage{Part: raftstate.PartLog, Place: "log entry 7"}
	for _, d := range []Damage{wrong, right, log} {
		s.Found(d)
	}
	first := s.Status().Damage
	ended, back := 0, errors.New("the disk does not answer")
	s.cfg.Rechecked = func(context.Context) { ended++ }
	s.cfg.Recheck = func(_ context.Context, list []Damage) error {
		if got := places(list); !slices.Equal(got, []string{"a block", "logs of a day"}) {
			t.Errorf("read again: %q", got)
		}
		s.Found(right)
		return back
	}
	if err := s.recheck(t.Context()); !errors.Is(err, back) || ended != 0 {
		t.Errorf("%v, ended %d times", err, ended)
	}
	if got := s.Status().Damage; !slices.Equal(ids(got), ids(first)) {
		t.Errorf("after one that failed: %q, were %q", ids(got), ids(first))
	}
	back = nil
	find := s.cfg.Recheck
	s.cfg.Recheck = func(ctx context.Context, list []Damage) error {
		s.Found(other)
		return find(ctx, list)
	}
	if err := s.recheck(t.Context()); err != nil || ended != 1 {
		t.Errorf("%v, ended %d times", err, ended)
	}
	if got := places(s.Known()); !slices.Equal(got, []string{"a block", "another block", "log entry 7"}) || len(o.mended) != 1 {
		t.Errorf("open: %q, told as mended %q", got, o.mended)
	}
	if again := service(t, s.cfg.Dir, &told{}, nil); !slices.Equal(places(again.Known()), places(s.Known())) {
		t.Errorf("after a start: %q", places(again.Known()))
	}
}

func ids(list []Record) (out []string) {
	for i := range list {
		out = append(out, list[i].ID)
	}
	return out
}
