package simulation

import (
	"os"
	"testing"
)

// TestSchedules runs TRIWARD_SIM_SCHEDULES schedules (50, with -short 5) from the seed TRIWARD_SIM_SEED (1) on.
func TestSchedules(t *testing.T) {
	some := uint64(50)
	if testing.Short() {
		some = 5
	}
	Schedules(t, Number(t, "TRIWARD_SIM_SCHEDULES", some), Options{})
}

// TestCheckHistory checks the history in the file TRIWARD_SIM_HISTORY again.
func TestCheckHistory(t *testing.T) {
	file := os.Getenv("TRIWARD_SIM_HISTORY")
	if file == "" {
		return // there is nothing to look at again
	}
	h, err := ReadHistory(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range Check(h) {
		t.Errorf("%s", v)
	}
}
