package scrub

import (
	"errors"
	"testing"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/meta"
)

func pickers(t *testing.T, texts ...string) (out []*wire.Picker) {
	t.Helper()
	for _, text := range texts {
		s, err := wire.ParseSelector(text)
		if err != nil {
			t.Fatal(err)
		}
		p, err := wire.NewPicker(s)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
	return out
}

// What selectors pick of a day is vouched for by all of the day: each line belongs to the first selector that picks it.
func TestSelectAddsUpWhatSelectorsPick(t *testing.T) {
	w := newWorld(t, 31)
	for range 20 {
		w.apply(0, 90)
		w.hours(2)
		w.work()
	}
	var found []Damage
	s := w.scrubber(&found)
	for _, kind := range []command.Kind{command.KindLogs, command.KindEvents} {
		for day := int64(firstDay); day < firstDay+3; day++ {
			got, err := s.Select(t.Context(), kind, day, pickers(t, `{host="0"}`, `{host="nobody"}`, `{host=~"[02]"}`))
			if err != nil || got.Through != w.index {
				t.Fatalf("%s of day %d: %+v %v", kind, day, got, err)
			}
			want := make([]meta.Digest, 3)
			for i := range want {
				want[i] = meta.Digest{Kind: kind, Day: day}
			}
			err = w.logs.Each(t.Context(), day*dayMs*1e6, (day+1)*dayMs*1e6, func(r *logstore.Row) error {
				if (r.Kind == wire.StreamEvent) != (kind == command.KindEvents) {
					return nil
				}
				at := map[string]int{"0": 0, "2": 2}
				if i, ok := at[r.Labels.Get("host")]; ok {
					line := wire.LogLine{T: r.T, Severity: r.Severity, Fields: r.Fields, Text: r.Text}
					sum, _ := meta.HashLine(meta.HashStream(r.Kind, r.Labels), &line, nil)
					want[i].Count, want[i].Sum = want[i].Count+1, want[i].Sum.Add(sum)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			for i := range want {
				if got.Picked[i] != want[i] {
					t.Errorf("%s of day %d, selector %d: %+v, want %+v", kind, day, i, got.Picked[i], want[i])
				}
			}
			if kind == command.KindLogs && day == firstDay && want[0].Count == 0 {
				t.Error("the test tests little")
			}
		}
	}
	if len(found) > 0 {
		t.Errorf("found %+v", found)
	}
}

// From a store that does not hold what was accepted no cut comes: every node would take out of its digest what the others
// do not have. The difference is told.
func TestSelectFromADamagedStore(t *testing.T) {
	w := newWorld(t, 32)
	for range 5 {
		w.apply(0, 90)
	}
	var found []Damage
	s := w.scrubber(&found)
	lost := wire.LogLine{T: firstDay*dayMs*1e6 + 5, Text: []byte("a line that this node lost")}
	sum, _ := meta.HashLine(1, &lost, nil)
	w.mu.Lock()
	w.sums.Add(command.KindLogs, lost.T/1e6, sum)
	w.mu.Unlock()
	if got, err := s.Select(t.Context(), command.KindLogs, firstDay, pickers(t, `{host="0"}`)); !errors.Is(err, ErrDiffers) {
		t.Errorf("%+v %v", got, err)
	}
	if len(found) != 1 || found[0].Kind != "logs" || found[0].From != firstDay*dayMs {
		t.Errorf("found %+v", found)
	}
	if _, err := s.Select(t.Context(), command.KindEvents, firstDay, pickers(t, `{host="2"}`)); err != nil {
		t.Errorf("another kind: %v", err)
	}
}
