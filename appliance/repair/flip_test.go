package repair

import (
	"slices"
	"testing"

	"github.com/triward/triward/raftstate"
)

// imageParts is what a state of another node replaces.
var imageParts = []string{raftstate.PartState, raftstate.PartMetrics, raftstate.PartLogs, raftstate.PartIndex}

// places lists where damage is known.
func places(list []Damage) (out []string) {
	for _, d := range list {
		out = append(out, d.Place)
	}
	slices.Sort(out)
	return out
}

// TestDamageOfTheNewState: what is found once the new state is in place is of the new state, and the end of the repair
// does not close it.
func TestDamageOfTheNewState(t *testing.T) {
	o := &told{}
	s := service(t, t.TempDir(), o, nil)
	day := Damage{Part: raftstate.PartLogs, Place: "logs of a day"}
	s.Found(day)
	s.Found(Damage{Part: raftstate.PartIndex, Place: "word index of a day"})
	s.Replacing(imageParts)
	s.Found(day)
	s.Found(day)
	s.Found(Damage{Part: raftstate.PartMetrics, Place: "a block"})
	s.Done(raftstate.Repaired{Parts: imageParts, How: raftstate.HowImage, From: "n2"})
	if got := places(s.Known()); !slices.Equal(got, []string{"a block", "logs of a day"}) {
		t.Errorf("known after the repair: %q", got)
	}
	if len(o.mended) != 2 || len(s.Status().History) != 2 {
		t.Errorf("told as mended: %q", o.mended)
	}
}

// TestDamageIsClosedByPlace: a mended place closes its own record, and ends no repair that is under way.
func TestDamageIsClosedByPlace(t *testing.T) {
	s := service(t, t.TempDir(), &told{}, nil)
	for _, d := range []Damage{
		{Part: raftstate.PartLog, Place: "log entry 7"},
		{Part: raftstate.PartLog, Place: "log entry 90"},
		{Part: raftstate.PartIndex, Place: "word index of one day"},
		{Part: raftstate.PartIndex, Place: "word index of another day"},
	} {
		s.Found(d)
	}
	s.Doing("taking the state of node n2", 1, 2)
	s.Mended(raftstate.PartIndex, "word index of one day", "rebuilt")
	s.Mended(raftstate.PartIndex, "word index of no day", "rebuilt")
	s.Done(raftstate.Repaired{Parts: []string{raftstate.PartLog}, Places: []string{"log entry 7"}, How: raftstate.HowLogDrop})
	if got := places(s.Known()); !slices.Equal(got, []string{"log entry 90", "word index of another day"}) {
		t.Errorf("still open: %q", got)
	}
	if st := s.Status(); st.Doing == "" {
		t.Error("the repair under way was taken for ended")
	}
}
