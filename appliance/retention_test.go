package appliance

import (
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/triward/triward/appliance/retention"
)

// That a node cannot delete what was cut, so that nothing more is cut for it, is told once.
func TestDaysThatAreNotDeletedAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said strings.Builder
		k := retentionKeeper{app: &App{log: slog.New(slog.NewTextHandler(&said, nil))}}
		p := retention.Default(90*day, 30*day)
		r := retention.Report{Node: "n2", Total: 100 << 30, Free: 50 << 30, Pending: true}
		for minute := range 30 {
			k.tell(&p, 1, []retention.Report{r}, nil)
			if n := strings.Count(said.String(), "still on a disk"); n != min(1, minute/11) {
				t.Fatalf("told %d times after %d minutes: %s", n, minute, &said)
			}
			time.Sleep(time.Minute)
		}
	})
}
