package appliance

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/triward/triward/raftstate"
)

// Of several that are left the one whose log is most advanced is recovered.
func TestMoreAdvancedLogIsKnown(t *testing.T) {
	left := &raftstate.Left{Last: 100, LastTerm: 4}
	for _, k := range []struct {
		last, term uint64
		want       bool
	}{{100, 4, false}, {101, 4, true}, {200, 3, false}, {50, 5, true}, {101, 0, true}, {100, 0, false}} {
		h := &heardOf{Status: raftstate.Status{LastIndex: k.last, LastTerm: k.term}, answers: true}
		if got := h.beyond(left); got != k.want {
			t.Errorf("entry %d of term %d: %v", k.last, k.term, got)
		}
	}
}

// A mark of a recovery that cannot be read does not keep it from being gone on with, nor is it taken for none.
func TestRecoveryGoesOnWithAnUnreadableMark(t *testing.T) {
	cfg := DefaultConfig()
	cfg.NodeID, cfg.DataDir = "n1", t.TempDir()
	path := filepath.Join(cfg.DataDir, recoverMark)
	if err := os.WriteFile(path, []byte("{\"node\":"), 0o600); err != nil {
		t.Fatal(err)
	}
	note, err := cfg.beginRecovery(&RecoveryPlan{Again: true, Former: "x"}, "a test")
	if err != nil || note.Incarnation == "" {
		t.Fatalf("%+v, %v", note, err)
	}
	again, err := cfg.beginRecovery(&RecoveryPlan{Again: true}, "a test")
	if err != nil || again.Incarnation != note.Incarnation {
		t.Errorf("it was %+v, is %+v, %v", note, again, err)
	}
}
