package appliance

import (
	"testing"
	"time"
)

// A node that reads is waited for, one that stands still or reads for too long is given up.
func TestNodeThatDoesNotGetOnIsGivenUp(t *testing.T) {
	now := time.UnixMilli(1)
	var a advance
	for range 100 { // reading a part for hours
		now = now.Add(deepStalls - time.Second)
		if err := a.still(&deepJob{Doing: "files/logs", Read: a.read + 1}, now); err != nil {
			t.Fatal(err)
		}
	}
	still := deepJob{Doing: a.doing, Read: a.read}
	if err := a.still(&still, now.Add(deepStalls)); err != nil {
		t.Error(err)
	}
	if err := a.still(&still, now.Add(deepStalls+time.Second)); err == nil {
		t.Error("a node that stands still is waited for")
	}
	if err := a.still(&deepJob{Read: a.read + 1}, now.Add(deepLongest)); err == nil {
		t.Error("a node that reads without end is waited for")
	}
}
